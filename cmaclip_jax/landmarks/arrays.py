"""Arithmetic for numpy and JAX arrays, with finite gradients where a length is zero."""

import numpy as np


def namespace(*arrays):
    """numpy, or jax.numpy if one of the arrays belongs to JAX; arguments may be None."""
    given = [array for array in arrays if array is not None]
    other = [array for array in given if not isinstance(array, np.ndarray | np.generic)]
    return (other or given)[0].__array_namespace__()


def root(squares):
    """The square root, with a gradient of zero at zero."""
    xp = namespace(squares)
    positive = squares > 0
    return xp.where(positive, xp.sqrt(xp.where(positive, squares, 1)), 0)


def length(vectors):
    """The lengths of vectors: [..., 2] -> [...]."""
    return root((vectors**2).sum(-1))


def mean_where(values, mask, axis=None):
    """The mean of the values where the mask is true; NaN where it is true nowhere."""
    xp = namespace(values, mask)
    count = mask.sum(axis)
    total = xp.where(mask, values, 0).sum(axis)
    return xp.where(count > 0, total / xp.maximum(count, 1), xp.nan)
