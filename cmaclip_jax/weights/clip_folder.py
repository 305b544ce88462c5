"""The folder of a converted CLIP: description, parameters and fingerprint.

clip.json                the two encoders' fields, the fingerprint, where it came from
parameters.safetensors   our parameters by path, float32
tokenizer.json           if the source had a tokenizer
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError
from safetensors.numpy import load_file

from cmaclip_jax.errors import UserError
from cmaclip_jax.models.clip import CLIP
from cmaclip_jax.weights.description import DESCRIPTION, describe, model_from
from cmaclip_jax.weights.layout import parameter_shapes, save_tensors

PARAMETERS = "parameters.safetensors"


@dataclasses.dataclass(frozen=True)
class Weights:
    """A CLIP that was read.

    folder: the folder that may hold its tokenizer. found: a description of the source.
    """

    model: CLIP
    params: dict[str, Any]
    folder: Path
    found: str


def fingerprint(model: CLIP, params) -> dict[str, Any]:
    """The first numbers of the embeddings of an artificial picture and an artificial text.

    Equal fingerprints show that the same network has the same weights, on any machine.
    """
    size, length = model.image.image_size, model.text.length
    ramp = np.arange(size * size * 3).reshape(1, size, size, 3)
    words = 1 + np.arange(length) * 7 % (model.text.vocabulary // 2)
    tokens = np.where(np.arange(length) < length // 2, words, model.text.end_token)[None]
    batch = {"image": (ramp % 251).astype(np.uint8), "tokens": tokens.astype(np.int32)}
    image, text, _ = jax.jit(model.apply)({"params": params}, batch)
    return {
        "image": np.asarray(image[0, :8], float).tolist(),
        "text": np.asarray(text[0, :8], float).tolist(),
        "logit_scale": float(jnp.exp(params["logit_scale"])),
    }


def write_clip_folder(folder: Path, weights: Weights) -> None:
    """Writes description and parameters. The caller adds the tokenizer."""
    save_tensors(folder / PARAMETERS, flatten_dict(weights.params, sep="/"))
    description = {
        **describe(weights.model),
        "fingerprint": fingerprint(weights.model, weights.params),
        "source": weights.found,
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")


def read_clip_folder(folder: Path) -> Weights:
    """Reads a folder that `write_clip_folder` wrote."""
    try:
        model = model_from(json.loads((folder / DESCRIPTION).read_text()))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder / DESCRIPTION} describes no CLIP ({error}); convert again"
        ) from error
    try:
        flat = load_file(folder / PARAMETERS)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{folder / PARAMETERS}: {error}; convert again") from error
    shapes = parameter_shapes(model)
    wrong = [
        path
        for path in {*shapes, *flat}
        if path not in flat or shapes.get(path) != flat[path].shape
    ]
    if wrong:
        raise UserError(f"{folder / PARAMETERS} does not fit {DESCRIPTION}: {sorted(wrong)[:4]}")
    found = f"converted folder, {len(flat)} parameters"
    return Weights(model, unflatten_dict(flat, sep="/"), folder, found)
