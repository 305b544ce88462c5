"""Comparisons of many runs, or of runs under many conditions."""
