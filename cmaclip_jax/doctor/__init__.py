"""Checks of the machines and the data before a job."""
