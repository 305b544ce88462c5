"""Where arrays live: the device mesh and the rules that lay parameters out on it."""
