"""Pages that open from disk: one file of HTML with everything in it, and no script."""
