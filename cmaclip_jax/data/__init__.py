"""Records and batches; the only room that imports TensorFlow."""
