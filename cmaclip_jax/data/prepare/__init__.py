"""Any source to record files that a training run reads fast; see shards.py."""
