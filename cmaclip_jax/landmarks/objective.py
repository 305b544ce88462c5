"""Landmarks as an objective of the one training loop."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from cmaclip_jax.landmarks.detector import Detector
from cmaclip_jax.landmarks.layouts import Layout
from cmaclip_jax.landmarks.losses import POINTWISE, loosened, map_losses
from cmaclip_jax.models.objectives import Batch, Sums

SHIFT = 2  # pixels by which a second look may be moved from the first, each way


@dataclasses.dataclass(frozen=True)
class Landmarks:
    """Batches hold image u8 [B,H,W,3], points [B,N,2] (0 to 1 is the picture; NaN: unknown),
    size [B] (the distance of the outer eye corners, in the same units) and weight [B].

    loss: 'l2', 'l1' or 'wing', of errors in units of the face's size.
    anisotropic: whether errors along the contour count less than those across it.
    target: deviation of the maps' targets as a share of the face's size; 0 has no such loss.
    consistency: weight of agreeing with oneself on a picture that is moved by some pixels.
    shift: pixels by which every picture is moved, each way, and its points with it.
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
        """The mean over examples of the mean over known points."""
        image, examples = batch["image"], jnp.sum(batch["weight"])
        rows, pixels = len(image), jnp.array(image.shape[2:0:-1])  # width, height
        first_rng, second_rng = jax.random.split(rng)
        shift = _shifts(first_rng, rows, self.shift)
        more = _shifts(second_rng, rows, SHIFT)
        looks = [moved(image, shift, self.shift)]
        if self.consistency:
            looks.append(moved(image, shift + more, self.shift + SHIFT))
        points, aux = self.model.apply({"params": params}, jnp.concatenate(looks), train=True)
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
            apart = points[rows:] - more[:, None] / pixels - first
            apart = jnp.abs(apart).sum(axis=-1).mean(axis=-1) / batch["size"]
            agreement = jnp.sum(apart * batch["weight"])
            sums["loss/consistency"] = (agreement, examples)
            summed += self.consistency * agreement
        return summed / jnp.maximum(examples, 1), {"loss": (summed, examples)} | sums

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
    """Whole pixels, each way: [B,2]."""
    return jax.random.randint(rng, (rows, 2), -reach, reach + 1)


def moved(image, shift, reach: int):
    """Every picture [B,H,W,3] moved by its `shift` [B,2] (x, y, in whole pixels); edges repeat.

    reach: the largest shift that there can be.
    """
    if not reach:
        return image
    padded = jnp.pad(image, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")

    def cut(picture, by):
        start = (reach - by[1], reach - by[0], 0)
        return jax.lax.dynamic_slice(picture, start, image.shape[1:])

    return jax.vmap(cut)(padded, shift)
