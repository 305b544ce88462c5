"""A trained run behind HTTP: requests of many clients, answered in shared batches."""
