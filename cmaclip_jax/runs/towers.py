"""The two encoders ("towers") that a run starts from: new ones of a size, or a trained CLIP's."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cmaclip_jax.config import with_changes
from cmaclip_jax.data.batches import BatchEncoder
from cmaclip_jax.data.text import TITLES, Tokenizer, with_cleaning
from cmaclip_jax.errors import UserError
from cmaclip_jax.models import ImageEncoder, TextEncoder, image_encoder, text_encoder
from cmaclip_jax.models.encoders import LAST
from cmaclip_jax.runs.adapters import run_adapters
from cmaclip_jax.runs.compute_type import compute_dtype
from cmaclip_jax.training.saved_parameters import checkpoint_steps
from cmaclip_jax.weights.description import DESCRIPTION, model_from


@dataclasses.dataclass(frozen=True)
class Towers:
    """The two encoders, without the run's picture size, text length and vocabulary.

    tokenizer, params: those of `model.pretrained`. None from scratch, and in a run that continues.
    """

    image: ImageEncoder
    text: TextEncoder
    tokenizer: Tokenizer | None = None
    params: Any = None

    @property
    def width(self) -> int:
        """The width of the narrower encoder."""
        return min(self.image.width, self.text.width)


def open_towers(config: ConfigDict, workdir: Path | None) -> Towers:
    """The encoders of a config: of the size it names, or those of `model.pretrained`.

    The run's folder keeps a description of pretrained encoders, so that a run that continues does
    not need their files. Before the first checkpoint, every process reads these files.
    """
    if not config.model.pretrained:
        if config.model.lora.source:
            raise UserError("model.lora.source needs model.pretrained: the base of the adapters")
        return new_towers(config)
    if workdir and checkpoint_steps(workdir / "checkpoints"):
        return kept_towers(config, workdir)
    # The readers of checkpoints import this module, and most runs do not need them.
    from cmaclip_jax.runs.pretrained import pretrained_towers

    return pretrained_towers(config.model, workdir)


def kept_towers(config: ConfigDict, workdir: Path) -> Towers:
    """The encoders of a run that has been trained, or at least begun, in this folder.

    The folder keeps a description of pretrained encoders, so their files are not needed again.
    """
    if not config.model.pretrained:
        return new_towers(config)
    try:
        model = model_from(json.loads((workdir / DESCRIPTION).read_text()))
    except OSError as error:
        raise UserError(f"{workdir} is no whole run: it lacks {DESCRIPTION}") from error
    return Towers(model.image, model.text)


def new_towers(config: ConfigDict) -> Towers:
    """Encoders of the sizes that the config names, without weights."""
    return Towers(image_encoder(config.model.image), text_encoder(config.model.text))


def run_tokenizer(workdir: Path, config: ConfigDict) -> Tokenizer:
    """The tokenizer in a run's folder, with its cleaning of texts."""
    tokenizer = Tokenizer.load(workdir / "tokenizer.json")
    if config.data.source == "food101":  # early runs did not save their cleaning
        tokenizer.cleaning = with_cleaning(TITLES, tokenizer.cleaning)
    return tokenizer


def with_sizes(config: ConfigDict, towers: Towers, needed: int = 0) -> ConfigDict:
    """The config with `data.image_size` and `data.text_length` filled in from the encoders.

    needed: the text length that the data needs, for `data.text_length=-1`; 0 where not yet known.
    """
    image, text = towers.image, towers.text
    size, length = config.data.image_size or image.image_size, config.data.text_length
    if text.pooling == LAST:
        if length not in (0, -1, text.length):
            raise UserError(
                f"data.text_length={length}: this text encoder reads a text at its last position "
                f"and takes {text.length} tokens, no more and no fewer; leave data.text_length at 0"
            )
        needed = text.length
    length = (needed if length == -1 else length) or text.length
    if size % image.patch_size and size != image.image_size:
        multiple = max(size // image.patch_size, 1) * image.patch_size
        raise UserError(
            f"data.image_size={size} does not divide into patches of {image.patch_size}; "
            f"use {multiple} or {multiple + image.patch_size}"
        )
    return with_changes(config, {"data.image_size": size, "data.text_length": length})


def sized_encoders(
    config: ConfigDict, towers: Towers, encode: BatchEncoder
) -> tuple[ImageEncoder, TextEncoder, dict[str, Any]]:
    """The encoders at the run's sizes; and the fields unroll, remat and dtype of all layers."""
    fields = config.model
    dtype = compute_dtype(fields.dtype, towers.width)
    how = dict(unroll=fields.unroll, remat=fields.remat, dtype=dtype)
    dropout, adapters = fields.tower_dropout, run_adapters(fields.lora, towers)
    text = towers.text.clone(
        dropout=dropout,
        length=encode.text_length,
        vocabulary=towers.text.vocabulary if fields.pretrained else encode.tokenizer.vocabulary,
        end_token=encode.tokenizer.end,
        adapter=adapters["text"],
        **how,
    )
    image = towers.image.clone(
        image_size=encode.image_size,
        dropout=dropout,
        adapter=adapters["image"],
        **how,
    )
    read = [image] * (fields.inputs != "text") + [text] * (fields.inputs != "image")
    if (fields.lora.rank or fields.lora.source) and not any(tower.adapter for tower in read):
        raise UserError(
            f"model.lora adapts no encoder that the run reads (model.inputs={fields.inputs!r}); "
            "change model.lora.rules or model.lora.source"
        )
    return image, text, how
