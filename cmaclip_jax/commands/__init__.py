"""One thin file per verb: it reads arguments, wires the parts and prints the result."""
