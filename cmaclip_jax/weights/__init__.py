"""Other people's CLIP checkpoints, in and out, as data: nothing here runs what a file brings."""

from cmaclip_jax.weights.clip_folder import (
    DESCRIPTION,
    Weights,
    describe,
    fingerprint,
    model_from,
    write_clip_folder,
)
from cmaclip_jax.weights.fit import fit
from cmaclip_jax.weights.reader import read_weights

__all__ = [
    "DESCRIPTION",
    "Weights",
    "describe",
    "fingerprint",
    "fit",
    "model_from",
    "read_weights",
    "write_clip_folder",
]
