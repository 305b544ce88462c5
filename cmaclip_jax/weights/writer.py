"""Writes a CLIP as a folder that this project or another one loads."""

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cmaclip_jax.errors import UserError
from cmaclip_jax.models.encoders import LAST
from cmaclip_jax.weights import huggingface, openai, openclip, siglip
from cmaclip_jax.weights.clip_folder import Weights, write_clip_folder
from cmaclip_jax.weights.layout import save_tensors, write_parameters


def check_new_folder(folder: Path, flag: str = "--output") -> None:
    """Raises UserError if a new folder cannot be written there; `flag` is what named it."""
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} is there already; name another {flag}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".converting-"):
            pass
    except OSError as error:
        raise UserError(f"cannot write {folder} ({error.strerror}); name another") from error


@contextlib.contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """Yields a folder to fill. It gets the name `output` when the block ends without an error."""
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".unfinished-") as unfinished:
        folder = Path(unfinished) / "whole"
        folder.mkdir()
        yield folder
        folder.replace(output)  # which may be an empty folder


def write_folder(output: Path, layout: str, weights: Weights, tokenizer: Any) -> None:
    """Writes the weights in one of the layouts of WRITERS, and the tokenizer if there is one."""
    with new_folder(output) as folder:
        WRITERS[layout](folder, weights)
        if tokenizer and layout == "ours":
            tokenizer.save(folder / "tokenizer.json")
        elif tokenizer:
            tokenizer.save_for_transformers(folder, weights.model.text.length)


def write_huggingface(folder: Path, weights: Weights) -> None:
    """A folder that `transformers.AutoModel.from_pretrained` loads."""
    model, params = weights.model, weights.params
    pairings, config_files = huggingface.PAIRINGS, huggingface.config_files
    if model.text.pooling == LAST:
        pairings, config_files = siglip.PAIRINGS, siglip.config_files
        params = {**siglip.WITHOUT_BIAS, **params}
    _write_json(folder, config_files(model))
    tensors = write_parameters(params, pairings, model)
    save_tensors(folder / "model.safetensors", tensors)


def write_openclip(folder: Path, weights: Weights) -> None:
    """A folder that `open_clip.create_model('local-dir:FOLDER')` loads."""
    _write_json(folder, openclip.config_files(weights.model))
    pairings = openai.pairings_of(weights.model)
    tensors = write_parameters(weights.params, pairings, weights.model)
    save_tensors(folder / "open_clip_model.safetensors", tensors)


WRITERS: dict[str, Callable[[Path, Weights], None]] = {
    "ours": write_clip_folder,
    "huggingface": write_huggingface,
    "openclip": write_openclip,
}


def _write_json(folder: Path, files: dict[str, Any]) -> None:
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
