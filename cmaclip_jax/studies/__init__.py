"""Many runs, or many conditions, compared."""
