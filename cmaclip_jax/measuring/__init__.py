"""How fast the parts of a run are on the machine at hand, and how near to what it can do."""
