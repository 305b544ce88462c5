"""The device mesh, the rules that lay parameters out on it, and several hosts as one run."""
