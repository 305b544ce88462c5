"""CMA-CLIP in JAX/Flax: classify pictures with words, many questions at once."""
