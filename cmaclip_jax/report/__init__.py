"""HTML pages about a run, and about single pairs."""
