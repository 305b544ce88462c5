"""CLIP itself: the two encoders and the scale of their similarities.

The parameters have the same names as in CMA-CLIP, so that each can start from the other's weights.
"""

import math

import flax.linen as nn
import jax.numpy as jnp

from cmaclip_jax.models.encoders import ImageEncoder, TextEncoder


class CLIP(nn.Module):
    """Two towers and a learned scale, stored as its natural logarithm.

    bias: whether a learned number is added to every similarity; the sigmoid loss needs it.
    """

    image: ImageEncoder
    text: TextEncoder
    bias: bool = False

    @nn.compact
    def __call__(self, batch, train: bool = False):
        """`(image [B,D], text [B,D], aux)`; aux holds `logit_scale` and `logit_bias`."""
        _, image = self.image(batch["image"], train)
        _, text = self.text(batch["tokens"], train)
        # With a bias: the initial values of the SigLIP paper.
        scale, bias = (math.log(10.0), -10.0) if self.bias else (math.log(1 / 0.07), 0.0)
        aux = {
            "logit_scale": self.param("logit_scale", nn.initializers.constant(scale), ()),
            "logit_bias": self.param("logit_bias", nn.initializers.constant(bias), ())
            if self.bias
            else jnp.zeros(()),
        }
        return image, text, aux


def clip_batch(clip: CLIP, rows: int = 1) -> dict:
    """A batch of zeros with the right shapes, to initialise a model with."""
    size = clip.image.image_size
    return {
        "image": jnp.zeros((rows, size, size, 3), jnp.uint8),
        "tokens": jnp.zeros((rows, clip.text.length), jnp.int32),
    }
