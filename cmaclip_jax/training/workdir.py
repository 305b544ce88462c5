"""A run's folder: one config, for good."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cmaclip_jax import __version__
from cmaclip_jax.config import base_config
from cmaclip_jax.errors import UserError
from cmaclip_jax.files import full_disk, write_text
from cmaclip_jax.training.saved_parameters import PUSHED

# What may change between a run and its continuation: it alters no update.
MAY_CHANGE = ("mesh.", "checkpoint.", "eval.", "profile.")
MAY_CHANGE += ("train.spike", "train.log_every", "data.max_bad")
# What a run makes before its first step, from its config.
PREPARED = ("tasks.json", "tokenizer.json", "words.json", "clip.json")
PREPARED += ("metrics.jsonl", "bad_records.jsonl", "dtype.txt")


def open_workdir(path: str | Path, config: ConfigDict) -> Path:
    """The folder at `path`, made if need be, holding this config and no other.

    The first checkpoint gives the folder its config for good. Until then a run that failed
    to begin may be mended and tried again; what it had prepared is made anew.
    """
    path = run_folder(path)
    if (path / PUSHED).exists():
        raise UserError(
            f"{path} holds a pushed run, which answers and learns no more; name another --workdir, "
            f"and start from its encoders with --config.model.pretrained={path}"
        )
    file = path / "config.json"
    text = config.to_json_best_effort(indent=2) + "\n"
    try:
        path.mkdir(parents=True, exist_ok=True)
        if any(step.name.isdigit() for step in path.glob("checkpoints/*")):
            if not file.exists():
                raise UserError(f"{file} is missing beside checkpoints; name another --workdir")
            kept = saved_config(path).to_json_best_effort()
            _check_same(path, json.loads(kept), json.loads(text))
        elif file.exists():
            for stale in PREPARED:
                (path / stale).unlink(missing_ok=True)
            for stale in ("features", "frozen"):
                shutil.rmtree(path / stale, ignore_errors=True)
        if not file.exists() or file.read_text() != text:
            write_text(file, text)
        _record_version(path / "version.txt")
    except OSError as error:
        if full_disk(error):
            raise
        raise UserError(
            f"cannot write to workdir {str(path)!r} ({error.strerror}); name another with --workdir"
        ) from error
    return path


def saved_config(path: str | Path) -> ConfigDict:
    """The config of the run in a folder; what it has not is as in `base_config`."""
    file = run_folder(path) / "config.json"
    config = base_config()
    try:
        saved = json.loads(file.read_text(), object_hook=_with_tuples)
        with config.ignore_type():
            config.update(saved)
    except FileNotFoundError as error:
        raise UserError(f"{path} is no run: it has no config.json; name a --workdir") from error
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{file} is not the config of a run ({reason}); name another") from error
    return config


def run_folder(path: str | Path) -> Path:
    """The path of a run's folder, which is written to and renamed in as only folders can be."""
    scheme = re.match(r"([a-z][a-z0-9]+):/+([^@]*)@?(.*)", str(path))
    if scheme and scheme[1] == "hf":
        revision = f" --revision={scheme[3]}" if scheme[3] else ""
        raise UserError(
            f"this command writes to the run's folder, and {path} is on the hub; copy it with "
            f"`hf download {scheme[2]}{revision} --local-dir=DIR`, and name --workdir=DIR"
        )
    if scheme:
        raise UserError(
            f"a run's folder is a path, not {scheme[1]}://...; mount the bucket, as "
            "`gcsfuse --implicit-dirs BUCKET DIR` does, and name a --workdir in it"
        )
    return Path(path)


def _record_version(file: Path) -> None:
    """Adds this version to the list of versions that have trained the run, the oldest first."""
    versions = file.read_text().splitlines() if file.exists() else []
    if versions[-1:] != [__version__]:
        write_text(file, "\n".join([*versions, __version__]) + "\n")


def _with_tuples(fields: dict) -> dict:
    """JSON has no tuples, and configs have no lists."""
    return {name: _tuple(value) for name, value in fields.items()}


def _tuple(value):
    return tuple(map(_tuple, value)) if isinstance(value, list) else value


def _check_same(path: Path, old: dict, new: dict) -> None:
    changed = [
        f"{name} is {was!r} there and {now!r} here"
        for name, was, now in differences(old, new)
        if not name.startswith(MAY_CHANGE)
    ]
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise UserError(
            f"workdir {str(path)!r} belongs to a different config: {'; '.join(changed[:3])}{more}; "
            "name another with --workdir"
        )


def differences(old: dict, new: dict, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The fields in which two configs differ: their names, and the old and the new value."""
    for name in sorted({*old, *new}):
        was, now = old.get(name), new.get(name)
        if isinstance(was, dict) and isinstance(now, dict):
            yield from differences(was, now, f"{prefix}{name}.")
        elif was != now:
            yield f"{prefix}{name}", was, now
