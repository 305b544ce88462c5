"""Arithmetic that numpy and JAX share, safe to differentiate where a length is zero."""

import numpy as np


def namespace(*arrays):
    """numpy, or jax.numpy as soon as one of the arrays is JAX's; None stands for no array."""
    given = [array for array in arrays if array is not None]
    other = [array for array in given if not isinstance(array, np.ndarray | np.generic)]
    return (other or given)[0].__array_namespace__()


def root(squares):
    """The square root, whose gradient at zero is zero and not infinite."""
    xp = namespace(squares)
    positive = squares > 0
    return xp.where(positive, xp.sqrt(xp.where(positive, squares, 1)), 0)


def length(vectors):
    """How long vectors are: [..., 2] -> [...]."""
    return root((vectors**2).sum(-1))


def mean_where(values, mask, axis=None):
    """The mean of what the mask lets pass; NaN where it lets nothing pass."""
    xp = namespace(values, mask)
    count = mask.sum(axis)
    total = xp.where(mask, values, 0).sum(axis)
    return xp.where(count > 0, total / xp.maximum(count, 1), xp.nan)
