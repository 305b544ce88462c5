"""The mathematics: Flax modules and losses. No files, no TensorFlow, no config object."""

from cmaclip_jax.models.attention import ModalityAttention, SequenceAttention
from cmaclip_jax.models.cma_clip import MODALITIES, CMAClip
from cmaclip_jax.models.encoders import (
    SIZES,
    ImageEncoder,
    TextEncoder,
    image_encoder,
    text_encoder,
)
from cmaclip_jax.models.objectives import Classification, Objective

__all__ = [
    "MODALITIES",
    "SIZES",
    "CMAClip",
    "Classification",
    "ImageEncoder",
    "ModalityAttention",
    "Objective",
    "SequenceAttention",
    "TextEncoder",
    "image_encoder",
    "text_encoder",
]
