"""Labels that one can trust: wrong ones found and corrected, missing ones filled in."""
