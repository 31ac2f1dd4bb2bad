"""The learned policy: serve what is likely enough to be right, and learn what that is."""
