"""A trained run put to use: from Python, on whole tables, elsewhere."""
