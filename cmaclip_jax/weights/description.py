"""The network of a CLIP as JSON and in words: the fields of its two encoders."""

import dataclasses
from typing import Any

from cmaclip_jax.models.adapters import Adapter
from cmaclip_jax.models.clip import CLIP
from cmaclip_jax.models.encoders import (
    CLASS,
    FIRST_END,
    HIGHEST,
    LAST,
    ImageEncoder,
    TextEncoder,
)

DESCRIPTION = "clip.json"
# These fields say how a run computes an encoder. They are no property of the weights.
RUNNING = ("dropout", "unroll", "remat", "dtype", "parent", "name")


def describe(model: CLIP) -> dict[str, Any]:
    """The network as JSON can hold it."""
    return {"image": _fields(model.image), "text": _fields(model.text), "bias": model.bias}


def model_from(description: dict[str, Any]) -> CLIP:
    """The network that `describe` described."""
    image: dict[str, Any]
    text: dict[str, Any]
    image, text = (
        {k: tuple(v) if isinstance(v, list) else v for k, v in description[side].items()}
        for side in ("image", "text")
    )
    for fields in (image, text):
        if fields.get("adapter"):
            adapter = fields["adapter"]
            fields["adapter"] = Adapter(**{**adapter, "products": tuple(adapter["products"])})
    return CLIP(ImageEncoder(**image), TextEncoder(**text), description.get("bias", False))


def describe_towers(model: CLIP) -> list[tuple[str, str]]:
    """Names and values: the sizes of the two encoders."""
    image, text = model.image, model.text
    read_at = {
        HIGHEST: "the highest id",
        FIRST_END: f"the first {text.end_token}",
        LAST: "the last position",
    }
    return [
        (
            "image",
            f"{image.image_size} pixels in patches of {image.patch_size}, {image.layers} layers "
            f"of width {image.width}, {image.heads} heads, {image.activation}; read at the "
            + ("class token" if image.pooling == CLASS else "pooled patches"),
        ),
        (
            "text",
            f"{text.length} tokens of {text.vocabulary:,}, {text.layers} layers of width "
            f"{text.width}, {text.heads} heads, {text.activation}; read at {read_at[text.pooling]}",
        ),
        ("together", f"embeddings of {image.projection} numbers"),
    ]


def _fields(encoder) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(encoder) if field.name not in RUNNING]
    fields = {name: getattr(encoder, name) for name in names}
    if encoder.adapter is None:
        del fields["adapter"]
    else:
        fields["adapter"] = dataclasses.asdict(encoder.adapter)
    return fields
