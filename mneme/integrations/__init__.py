"""Where mneme meets other libraries; each module names the extra that installs its own."""
