"""Landmark detection as an objective of the training loop, and its losses.

Every loss divides distances by the face's size, so that large faces do not weigh more.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cmaclip_jax.landmarks.contour import tangents
from cmaclip_jax.landmarks.detector import Detector
from cmaclip_jax.landmarks.layouts import Layout
from cmaclip_jax.models.objectives import Batch, Sums, divisor

SHIFT = 2  # largest shift, in pixels, between the two views that `consistency` compares
WING_WIDTH, WING_CURVE = 0.15, 0.03  # of the face's size; our choice
LOOSE = 0.5  # weight of an error along the contour, relative to one across it; our choice


def l2(error):
    """Half the squared distance: `error` [...,2] -> [...]."""
    return 0.5 * jnp.sum(error**2, axis=-1)


def l1(error):
    """The sum of the absolute errors of both coordinates."""
    return jnp.sum(jnp.abs(error), axis=-1)


def wing(error):
    """Wing loss (Feng et al., CVPR 2018): steep where errors are small, linear where large."""
    size = jnp.abs(error)
    constant = WING_WIDTH - WING_WIDTH * jnp.log1p(WING_WIDTH / WING_CURVE)
    small = WING_WIDTH * jnp.log1p(size / WING_CURVE)
    return jnp.sum(jnp.where(size < WING_WIDTH, small, size - constant), axis=-1)


POINTWISE: dict[str, Callable] = {"l2": l2, "l1": l1, "wing": wing}


@dataclasses.dataclass(frozen=True)
class Landmarks:
    """The objective. A batch holds image u8 [B,H,W,3], points [B,N,2] (0 to 1 spans the picture;
    NaN is unknown), size [B] (distance of the outer eye corners, in the same units) and weight [B].

    loss_name: a key of POINTWISE.
    anisotropic: whether errors along the contour count less than errors across it.
    target: standard deviation of the target maps in shares of the face's size; 0: no map loss.
    consistency: weight of the difference between the answers for two shifted views of a picture.
    shift: the largest random shift of a training picture and its points, in pixels.
    """

    model: Detector
    layout: Layout
    loss_name: str = "l2"
    anisotropic: bool = False
    target: float = 0.05
    consistency: float = 0.0
    shift: int = 0

    def init(self, rng, batch: Batch):
        """Fresh parameters; only the batch's shapes matter."""
        return self.model.init(rng, batch["image"])["params"]

    def loss(self, params, batch: Batch, rng) -> tuple[jax.Array, Sums]:
        """The mean over examples of the mean loss over an example's known points."""
        image, examples = batch["image"], jnp.sum(batch["weight"])
        rows, pixels = len(image), jnp.array(image.shape[2:0:-1])  # width, height
        first_rng, second_rng = jax.random.split(rng)
        shift = _shifts(first_rng, rows, self.shift)
        offset = _shifts(second_rng, rows, SHIFT)
        views = [moved(image, shift, self.shift)]
        if self.consistency:
            views.append(moved(image, shift + offset, self.shift + SHIFT))
        points, aux = self.model.apply({"params": params}, jnp.concatenate(views), train=True)
        first = points[:rows]
        known = jnp.isfinite(batch["points"]).all(axis=-1)  # [B,N]
        targets = jnp.where(known[..., None], batch["points"] + shift[:, None] / pixels, 0.5)
        losses = self._pointwise(first, targets, batch["size"])
        if self.target and aux["maps"] is not None:
            width = self.target * batch["size"]
            losses += map_losses(aux["maps"][:rows], targets, width)
        each = jnp.sum(jnp.where(known, losses, 0), axis=-1) / jnp.maximum(known.sum(axis=-1), 1)
        summed = jnp.sum(each * batch["weight"])
        sums = {"loss/points": (summed, examples)}
        if self.consistency:
            difference = points[rows:] - offset[:, None] / pixels - first
            difference = jnp.abs(difference).sum(axis=-1).mean(axis=-1) / batch["size"]
            disagreement = jnp.sum(difference * batch["weight"])
            sums["loss/consistency"] = (disagreement, examples)
            summed += self.consistency * disagreement
        return summed / divisor(examples), {"loss": (summed, examples)} | sums

    def answering_parameters(self, params):
        return params

    def predict(self, params, batch: Batch) -> dict[str, Any]:
        """The points [B,N,2], 0 to 1."""
        points, _ = self.model.apply({"params": params}, batch["image"])
        return {"points": points}

    def _pointwise(self, points, targets, size):
        error = (points - targets) / size[:, None, None]
        if self.anisotropic:
            error = loosened(error, targets, self.layout)
        return POINTWISE[self.loss_name](error)


def _shifts(rng, rows: int, reach: int):
    """Random shifts in whole pixels, from -reach to reach: [B,2]."""
    return jax.random.randint(rng, (rows, 2), -reach, reach + 1)


def moved(image, shift, reach: int):
    """Moves each picture [B,H,W,3] by its `shift` [B,2] (x, y, in whole pixels); edges repeat.

    reach: the largest possible shift.
    """
    if not reach:
        return image
    padded = jnp.pad(image, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")

    def cut(picture, by):
        start = (reach - by[1], reach - by[0], 0)
        return jax.lax.dynamic_slice(picture, start, image.shape[1:])

    return jax.vmap(cut)(padded, shift)


def loosened(error, points, layout: Layout):
    """Errors whose component along the contour of `points` counts LOOSE: [B,N,2]."""
    along = tangents(points, layout)  # [B,N,2]
    share = jnp.sum(error * along, axis=-1, keepdims=True)
    return error - (1 - LOOSE) * share * along


def map_losses(logarithms, points, width):
    """Cross-entropy between maps and Gaussians at `points`.

    logarithms: [B,N,H,W]. points: [B,N,2], 0 to 1. width: [B] the standard deviation of the
    Gaussians, as a share of the picture. Returns [B,N].
    """
    height, breadth = logarithms.shape[-2:]
    across = _bell((jnp.arange(breadth) + 0.5) / breadth, points[..., 0], width)  # [B,N,W]
    down = _bell((jnp.arange(height) + 0.5) / height, points[..., 1], width)  # [B,N,H]
    rows = jnp.sum(logarithms * across[..., None, :], axis=-1)  # [B,N,H]
    return -jnp.sum(rows * down, axis=-1)


def _bell(places, centres, width):
    """Gaussians around `centres` [B,N] at the positions `places` [S], with sum one: [B,N,S]."""
    distance = (places - centres[..., None]) ** 2
    bell = jnp.exp(-distance / (2 * width[:, None, None] ** 2))
    total = jnp.sum(bell, axis=-1, keepdims=True)
    return bell / jnp.maximum(total, 1e-6)  # a point far outside the picture adds no loss
