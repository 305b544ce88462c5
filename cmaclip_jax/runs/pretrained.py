"""Encoders to start from: other people's CLIP checkpoints, or the encoders of a trained run."""

import json
from pathlib import Path

from ml_collections import ConfigDict

from cmaclip_jax.data.batches import BatchEncoder
from cmaclip_jax.data.text import Tokenizer, checkpoint_tokenizer
from cmaclip_jax.errors import UserError
from cmaclip_jax.files import write_text
from cmaclip_jax.models import CLIP
from cmaclip_jax.models.adapters import merge_towers
from cmaclip_jax.models.encoders import LAST
from cmaclip_jax.parallel.cluster import leads
from cmaclip_jax.runs.batch_encoder import TASKS
from cmaclip_jax.runs.towers import (
    Towers,
    kept_towers,
    run_tokenizer,
    sized_encoders,
    with_sizes,
)
from cmaclip_jax.training.saved_parameters import read_parameters
from cmaclip_jax.training.workdir import saved_config
from cmaclip_jax.weights.clip_folder import Weights
from cmaclip_jax.weights.description import DESCRIPTION, describe
from cmaclip_jax.weights.peft import read_peft, with_adapters
from cmaclip_jax.weights.reader import local_checkpoint, read_weights


def pretrained_towers(fields: ConfigDict, workdir: Path | None) -> Towers:
    """The encoders of `model.pretrained`, with their weights and the adapters of `lora.source`.

    A description goes into the run's folder.
    """
    source = fields.pretrained
    weights = read_clip(source)
    if fields.lora.source:
        weights = with_adapters(weights, read_peft(Path(fields.lora.source).expanduser()))
    tokenizer = clip_tokenizer(weights)
    if tokenizer is None:
        raise UserError(
            f"{source} came without a tokenizer; give it one: cmaclip convert "
            f"--source={source} --tokenizer=FOLDER --output=DIR"
        )
    if workdir and leads():
        write_text(workdir / DESCRIPTION, json.dumps(describe(weights.model), indent=2) + "\n")
    return Towers(weights.model.image, weights.model.text, tokenizer, weights.params)


def read_clip(source: str, activation: str = "") -> Weights:
    """The CLIP at `source`: a checkpoint of any supported kind, or a run of this project."""
    folder = local_checkpoint(source)
    of_a_run = (folder / "checkpoints").is_dir() or (folder / TASKS).exists()
    if not (of_a_run and (folder / "config.json").exists()):
        return read_weights(str(folder), activation)
    try:
        return _trained_clip(folder)
    except (KeyError, ValueError, TypeError, AttributeError, OSError) as error:
        raise UserError(f"{source} is no whole run of ours ({error!r})") from error


def clip_tokenizer(weights: Weights, folder: Path | None = None) -> Tokenizer | None:
    """The tokenizer beside the weights, or in `folder`; None where there is none."""
    text = weights.model.text
    of_siglip, end = text.pooling == LAST, text.end_token
    tokenizer = checkpoint_tokenizer(folder or weights.folder, of_siglip)
    if tokenizer and of_siglip and tokenizer.vocabulary > text.vocabulary:
        raise UserError(
            f"the tokenizer in {folder or weights.folder} has {tokenizer.vocabulary:,} tokens, the "
            f"text tower {text.vocabulary:,}; they do not belong together"
        )
    if tokenizer and tokenizer.end != end and not of_siglip:
        raise UserError(
            f"the tokenizer in {folder or weights.folder} ends texts with {tokenizer.end}, the "
            f"text tower expects {end}; they do not belong together"
        )
    return tokenizer


def _trained_clip(workdir: Path) -> Weights:
    """The encoders of a trained run, from its newest checkpoint."""
    config = saved_config(workdir)
    towers = kept_towers(config, workdir)
    tokenizer = run_tokenizer(workdir, config)
    fields = with_sizes(config, towers, tokenizer.length).data
    encode = BatchEncoder((), tokenizer, fields.image_size, fields.text_length)
    image, text, _ = sized_encoders(config, towers, encode)
    step, params = read_parameters(workdir)
    params = merge_towers(CLIP(image, text), params)
    missing = [name for name in ("image", "text") if name not in params]
    if missing:
        raise UserError(f"{workdir} was trained without {missing[0]}s; it holds no whole CLIP")
    of_clip = ("image", "text", "logit_scale", "logit_bias")
    return Weights(
        model=CLIP(
            image.clone(adapter=None), text.clone(adapter=None), bias="logit_bias" in params
        ),
        params={name: params[name] for name in of_clip if name in params},
        folder=workdir,
        found=f"a run of ours at step {step:,}; its encoders, without attention and heads",
    )
