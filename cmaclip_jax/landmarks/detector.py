"""The landmark detector: an image encoder, and a head that predicts the points."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cmaclip_jax.models import ImageEncoder
from cmaclip_jax.models.transformer import ACTIVATIONS

HEADS = ("coordinates", "heatmaps")


class CoordinateHead(nn.Module):
    """Predicts two coordinates per point from all patches together."""

    points: int
    width: int = 256
    reduced: int = 16  # width of a patch after the first projection

    @nn.compact
    def __call__(self, tokens):
        """`tokens` [B,P,D] -> points [B,N,2], float32; 0 to 1 spans the picture."""
        x = nn.Dense(self.reduced, name="reduce")(tokens)  # [B,P,R]
        x = x.reshape(x.shape[0], -1)
        x = ACTIVATIONS["gelu"](nn.Dense(self.width, name="hidden")(x))
        x = nn.Dense(2 * self.points, name="places")(x).astype(jnp.float32)
        return 0.5 + 0.25 * x.reshape(-1, self.points, 2)


class HeatmapHead(nn.Module):
    """Predicts a map per point and takes its centre of mass (soft-argmax).

    finer: how many squares per side a patch is divided into.
    """

    points: int
    finer: int = 4

    @nn.compact
    def __call__(self, tokens):
        """`tokens` [B,P,D] -> points [B,N,2], and the maps' logarithms [B,N,side,side]."""
        batch, patches, width = tokens.shape
        side, finer = round(patches**0.5), self.finer
        x = ACTIVATIONS["gelu"](nn.Dense(width, name="hidden")(tokens))
        x = nn.Dense(finer * finer * self.points, name="maps")(x).astype(jnp.float32)
        x = x.reshape(batch, side, side, finer, finer, self.points)
        x = x.transpose(0, 5, 1, 3, 2, 4).reshape(batch, self.points, side * finer, side * finer)
        logarithms = jax.nn.log_softmax(x.reshape(batch, self.points, -1), axis=-1).reshape(x.shape)
        return centres(jnp.exp(logarithms)), logarithms


def centres(maps):
    """The centres of mass of maps [...,H,W] with sum one: [...,2], x before y, 0 to 1."""
    rows, columns = (jnp.arange(length) / length + 0.5 / length for length in maps.shape[-2:])
    x = jnp.sum(maps.sum(axis=-2) * columns, axis=-1)
    y = jnp.sum(maps.sum(axis=-1) * rows, axis=-1)
    return jnp.stack([x, y], axis=-1)


class Detector(nn.Module):
    """Predicts points from pictures.

    head: 'coordinates' or 'heatmaps'.
    """

    image: ImageEncoder
    points: int
    head: str = "heatmaps"

    @nn.compact
    def __call__(self, image, train: bool = False):
        """`image` [B,H,W,3] -> `(points [B,N,2], aux)`; aux holds `maps`, their logarithms."""
        aux: dict[str, Any] = {"maps": None}
        tokens = self.image(image, train)[0][:, 1:]  # [B,P,D], without the class token
        if self.head == "coordinates":
            return CoordinateHead(self.points, name="head")(tokens), aux
        points, aux["maps"] = HeatmapHead(self.points, name="head")(tokens)
        return points, aux
