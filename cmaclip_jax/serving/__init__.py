"""A trained run put to use: from Python, on tables, and exported."""
