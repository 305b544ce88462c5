"""A run assembled from its config, and opened to train, to judge or to answer."""
