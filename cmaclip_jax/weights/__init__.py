"""Other people's CLIP checkpoints, in and out, as data: no code from a file is ever run."""
