"""One loop for any objective: optimizer, state, step, checkpoints, progress."""
