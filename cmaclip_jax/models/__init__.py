"""The mathematics: Flax modules and losses. No files, no TensorFlow, no config object."""

from cmaclip_jax.models.attention import ModalityAttention, SequenceAttention
from cmaclip_jax.models.clip import CLIP
from cmaclip_jax.models.cma_clip import MODALITIES, CMAClip
from cmaclip_jax.models.contrastive import Contrastive
from cmaclip_jax.models.encoders import (
    SIZES,
    ImageEncoder,
    TextEncoder,
    image_encoder,
    text_encoder,
)
from cmaclip_jax.models.objectives import Classification, Objective

__all__ = [
    "CLIP",
    "MODALITIES",
    "SIZES",
    "CMAClip",
    "Classification",
    "Contrastive",
    "ImageEncoder",
    "ModalityAttention",
    "Objective",
    "SequenceAttention",
    "TextEncoder",
    "image_encoder",
    "text_encoder",
]
