"""The brain: pure deciding, one flow, two ports. Nothing here is public API."""
