"""How far points are from where somebody said they are.

Every loss takes distances in units of the face's size, so that a large face weighs no more.
"""

from collections.abc import Callable

import jax.numpy as jnp

from cmaclip_jax.landmarks.contour import tangents
from cmaclip_jax.landmarks.layouts import Layout

WING_WIDTH, WING_CURVE = 0.15, 0.03  # of the face's size; our choice
LOOSE = 0.5  # what an error along the contour counts, against one across it; our choice


def l2(error):
    """Half the squared distance: `error` [...,2] -> [...]."""
    return 0.5 * jnp.sum(error**2, axis=-1)


def l1(error):
    """The sum of both coordinates' errors."""
    return jnp.sum(jnp.abs(error), axis=-1)


def wing(error):
    """Wing loss (Feng et al., CVPR 2018): steep where errors are small, linear where large."""
    size = jnp.abs(error)
    constant = WING_WIDTH - WING_WIDTH * jnp.log1p(WING_WIDTH / WING_CURVE)
    small = WING_WIDTH * jnp.log1p(size / WING_CURVE)
    return jnp.sum(jnp.where(size < WING_WIDTH, small, size - constant), axis=-1)


POINTWISE: dict[str, Callable] = {"l2": l2, "l1": l1, "wing": wing}


def loosened(error, points, layout: Layout):
    """Errors with less of what lies along the contour of `points`: [B,N,2]."""
    along = tangents(points, layout)  # [B,N,2]
    share = jnp.sum(error * along, axis=-1, keepdims=True)
    return error - (1 - LOOSE) * share * along


def map_losses(logarithms, points, width):
    """Cross-entropy between maps and Gaussians at `points`.

    logarithms: [B,N,H,W]; points: [B,N,2], 0 to 1; width: the Gaussians' deviation [B], as a share
    of the picture. Returns [B,N].
    """
    height, breadth = logarithms.shape[-2:]
    across = _bell((jnp.arange(breadth) + 0.5) / breadth, points[..., 0], width)  # [B,N,W]
    down = _bell((jnp.arange(height) + 0.5) / height, points[..., 1], width)  # [B,N,H]
    rows = jnp.sum(logarithms * across[..., None, :], axis=-1)  # [B,N,H]
    return -jnp.sum(rows * down, axis=-1)


def _bell(places, centres, width):
    """A Gaussian at each of `centres` [B,N], over `places` [S], that sums to one: [B,N,S]."""
    distance = (places - centres[..., None]) ** 2
    bell = jnp.exp(-distance / (2 * width[:, None, None] ** 2))
    total = jnp.sum(bell, axis=-1, keepdims=True)
    return bell / jnp.maximum(total, 1e-6)  # a point far off the picture teaches nothing
