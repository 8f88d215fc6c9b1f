"""Published comparisons that one command runs again, from training to the report."""
