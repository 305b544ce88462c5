"""The detector's image encoder: of a size, or that of somebody's trained CLIP."""

import functools
from typing import Any

from ml_collections import ConfigDict

from cmaclip_jax.errors import UserError
from cmaclip_jax.models import ImageEncoder, image_encoder
from cmaclip_jax.runs.pretrained import read_clip


def open_encoder(config: ConfigDict) -> tuple[ImageEncoder, Any]:
    """The encoder at the size of the config's pictures, and what a detector begins with.

    That is None from scratch, else `{"image": parameters}` of `model.pretrained`.
    """
    fields, stem = config.model, tuple(config.landmarks.stem)
    params = None
    if fields.pretrained:
        if stem:
            raise UserError(
                "a pretrained encoder has its own first layer; add --config.landmarks.stem='()'"
            )
        encoder, params = _pretrained(fields.pretrained)
    else:
        own = {"stem": stem, "patch_hidden": 0} if stem else {}
        encoder = image_encoder(fields.image, **own)
    size, patch = config.data.image_size or encoder.image_size, encoder.patch_size
    if size % patch:
        raise UserError(
            f"data.image_size={size} does not divide into patches of {patch}; use "
            f"{max(size // patch, 1) * patch}"
        )
    return encoder.clone(image_size=size, unroll=fields.unroll), params


@functools.lru_cache(maxsize=1)
def _pretrained(source: str) -> tuple[ImageEncoder, Any]:
    """Read once for all runs of a study; a detector reads no words and needs no tokenizer."""
    weights = read_clip(source)
    return weights.model.image, {"image": weights.params["image"]}
