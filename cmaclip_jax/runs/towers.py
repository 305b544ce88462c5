"""The two encoders ("towers") that a run starts from: new ones of a size, or a trained CLIP's."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from cmaclip_jax.data.batches import BatchEncoder
from cmaclip_jax.data.text import TITLES, Tokenizer, checkpoint_tokenizer
from cmaclip_jax.errors import UserError
from cmaclip_jax.files import write_text
from cmaclip_jax.models import CLIP, ImageEncoder, TextEncoder, image_encoder, text_encoder
from cmaclip_jax.training.checkpoints import read_parameters
from cmaclip_jax.training.workdir import saved_config
from cmaclip_jax.weights import DESCRIPTION, Weights, describe, model_from, read_weights


@dataclasses.dataclass(frozen=True)
class Towers:
    """The two encoders, without the run's picture size, text length and vocabulary.

    tokenizer, params: those of `model.pretrained`. None from scratch, and in a run that continues.
    """

    image: ImageEncoder
    text: TextEncoder
    tokenizer: Tokenizer | None = None
    params: Any = None


def open_towers(config: ConfigDict, workdir: Path | None) -> Towers:
    """The encoders of a config: of the size it names, or those of `model.pretrained`.

    The run's folder keeps a description of pretrained encoders, so that a run that continues does
    not need their files.
    """
    fields = config.model
    if not fields.pretrained:
        return Towers(image_encoder(fields.image), text_encoder(fields.text))
    kept = workdir and workdir / DESCRIPTION
    if kept and kept.exists():
        model = model_from(json.loads(kept.read_text()))
        return Towers(model.image, model.text)
    weights = read_clip(fields.pretrained)
    tokenizer = clip_tokenizer(weights)
    if tokenizer is None:
        raise UserError(
            f"{fields.pretrained} came without a tokenizer; give it one: cmaclip convert "
            f"--source={fields.pretrained} --tokenizer=FOLDER --output=DIR"
        )
    if kept:
        write_text(kept, json.dumps(describe(weights.model), indent=2) + "\n")
    return Towers(weights.model.image, weights.model.text, tokenizer, weights.params)


def read_clip(source: str, activation: str = "") -> Weights:
    """The CLIP at `source`: a checkpoint of any supported kind, or a run of this project."""
    folder = Path(source).expanduser()
    if not ((folder / "checkpoints").is_dir() and (folder / "config.json").exists()):
        return read_weights(source, activation)
    try:
        return _trained_clip(folder)
    except (KeyError, ValueError, TypeError, AttributeError, OSError) as error:
        raise UserError(f"{source} is no whole run of ours ({error!r})") from error


def clip_tokenizer(weights: Weights, folder: Path | None = None) -> Tokenizer | None:
    """The tokenizer beside the weights, or in `folder`; None where there is none."""
    tokenizer = checkpoint_tokenizer(folder or weights.folder)
    end = weights.model.text.end_token
    if tokenizer and tokenizer.end != end:
        raise UserError(
            f"the tokenizer in {folder or weights.folder} ends texts with {tokenizer.end}, the "
            f"text tower expects {end}; they do not belong together"
        )
    return tokenizer


def run_tokenizer(workdir: Path, config: ConfigDict) -> Tokenizer:
    """The tokenizer in a run's folder, with its cleaning of texts."""
    tokenizer = Tokenizer.load(workdir / "tokenizer.json")
    if config.data.source == "food101":  # early runs did not save their cleaning
        tokenizer.cleaning = TITLES
    return tokenizer


def _trained_clip(workdir: Path) -> Weights:
    """The encoders of a trained run, from its newest checkpoint."""
    config = saved_config(workdir)
    towers = open_towers(config, workdir)
    tokenizer = run_tokenizer(workdir, config)
    fields = with_sizes(config, towers, tokenizer.length).data
    encode = BatchEncoder((), tokenizer, fields.image_size, fields.text_length)
    image, text, _ = sized_encoders(config, towers, encode)
    step, params = read_parameters(workdir)
    missing = [name for name in ("image", "text") if name not in params]
    if missing:
        raise UserError(f"{workdir} was trained without {missing[0]}s; it holds no whole CLIP")
    of_clip = ("image", "text", "logit_scale", "logit_bias")
    return Weights(
        model=CLIP(image, text, bias="logit_bias" in params),
        params={name: params[name] for name in of_clip if name in params},
        folder=workdir,
        found=f"a run of ours at step {step:,}; its encoders, without attention and heads",
    )


def with_sizes(config: ConfigDict, towers: Towers, needed: int = 0) -> ConfigDict:
    """The config with `data.image_size` and `data.text_length` filled in from the encoders.

    needed: the text length that the data needs, for `data.text_length=-1`; 0 where not yet known.
    """
    config = config.copy_and_resolve_references()
    image, text = towers.image, towers.text
    config.data.image_size = config.data.image_size or image.image_size
    if config.data.text_length == -1:
        config.data.text_length = needed
    config.data.text_length = config.data.text_length or text.length
    size = config.data.image_size
    if size % image.patch_size:
        multiple = max(size // image.patch_size, 1) * image.patch_size
        raise UserError(
            f"data.image_size={size} does not divide into patches of {image.patch_size}; "
            f"use {multiple} or {multiple + image.patch_size}"
        )
    return config


def sized_encoders(
    config: ConfigDict, towers: Towers, encode: BatchEncoder
) -> tuple[ImageEncoder, TextEncoder, dict[str, Any]]:
    """The encoders at the run's sizes; and the fields unroll, remat and dtype of all layers."""
    fields = config.model
    how = dict(unroll=fields.unroll, remat=fields.remat, dtype=compute_dtype(fields.dtype))
    dropout = fields.tower_dropout
    text = towers.text.clone(
        dropout=dropout,
        length=encode.text_length,
        vocabulary=towers.text.vocabulary if fields.pretrained else encode.tokenizer.vocabulary,
        end_token=encode.tokenizer.end,
        **how,
    )
    image = towers.image.clone(image_size=encode.image_size, dropout=dropout, **how)
    return image, text, how


def compute_dtype(name: str):
    """The type of `model.dtype`; 'auto' is float32 on a CPU and bfloat16 elsewhere."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name)
