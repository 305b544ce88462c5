"""Pages about a run, and about single pairs."""
