"""Does an export still run on this machine, and answer as the run did when it was written?

JAX promises that each version reads the programs of versions that are up to 180 days older.
`promised_until` in export.json is therefore the day of writing plus 180 days. If the JAX that wrote
the export was old on that day, the promise ends earlier. In practice JAX reads most exports for
longer; `check_export` tests one. ONNX has no such limit.
"""

import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import export
from safetensors.numpy import load_file

from cmaclip_jax.errors import UserError, first_line, installed_by
from cmaclip_jax.serving.export_formats import FORMATS
from cmaclip_jax.weights.layout import save_tensors

DESCRIPTION = "export.json"
CHECK = "check.safetensors"  # some pairs, and the run's answers to them
REMEDY = "export the run anew with `cmaclip export --workdir=... --output=...`"


def open_model(form: str, folder: Path) -> Callable[[dict], dict]:
    """The network of an export, in the format of that name: `{input: [B,...]} -> answers`.

    Raises:
      UserError: a package or a file is missing, or a file is damaged.
    """
    if form not in FORMATS:
        raise UserError(f"{folder} is in the format {form!r}; a newer version of cmaclip wrote it")
    with installed_by(str(folder), "onnxruntime"):
        opener = importlib.import_module(f"cmaclip_jax.serving.{form}_model")
    for name in opener.FILES:
        if not (folder / name).exists():
            raise UserError(f"{folder} has no {name}; {REMEDY}")
    try:
        return opener.open_model(folder)
    except Exception as error:  # the readers raise almost anything on a damaged file
        raise UserError(
            f"the model in {folder} cannot be opened ({first_line(error)}); {REMEDY}"
        ) from error


def write_check(folder: Path, batch: Mapping[str, Any], answers: Mapping[str, Any]) -> None:
    """Writes some pairs and the run's answers to them."""
    tensors = {"inputs": dict(batch), "answers": jax.tree.map(np.asarray, dict(answers))}
    save_tensors(folder / CHECK, flatten_dict(tensors, sep="/"))


def check_export(folder: Path) -> tuple[dict[str, Any], float]:
    """The content of export.json, and the largest difference from the answers of the run.

    Raises:
      UserError: a file is missing or damaged, the model cannot be opened, or it answers otherwise.
    """
    about = _read(folder, DESCRIPTION, lambda file: json.loads(file.read_text()))
    check = unflatten_dict(_read(folder, CHECK, load_file), sep="/")
    platforms = about.get("platforms")
    if platforms and export.default_export_platform() not in platforms:
        raise UserError(f"{folder} is for {', '.join(platforms)}; check it on such a machine")
    form = about.get("format", "stablehlo")
    answer = open_model(form, folder)
    try:
        difference = largest_difference(answer(check["inputs"]), check["answers"])
        allowed = FORMATS[form].allowed[about["compute_dtype"]]
    except Exception as error:  # files that do not belong together fail in many ways
        raise UserError(f"{folder} does not run: {first_line(error)}; {REMEDY}") from error
    if not difference <= allowed:
        raise UserError(
            f"{folder} answers otherwise than the run did, by {difference:.2g}, which is more than "
            f"{allowed:g}; {REMEDY}"
        )
    return about, difference


def largest_difference(one: Any, other: Any) -> float:
    """The largest difference between the numbers of two trees; NaN if one of them is NaN."""
    distances = jax.tree.map(
        lambda x, y: np.max(np.abs(np.asarray(x, np.float32) - np.asarray(y, np.float32))),
        {name: one[name] for name in other},
        dict(other),
    )
    return float(np.max(jax.tree.leaves(distances)))


def _read(folder: Path, name: str, read) -> Any:
    """The content of a file of the export, as `read` returns it."""
    try:
        return read(folder / name)
    except FileNotFoundError:
        raise UserError(f"{folder} has no {name}; {REMEDY}") from None
    except Exception as error:  # the readers raise almost anything on a damaged file
        reason = first_line(error)
        raise UserError(f"{folder / name} cannot be read ({reason}); {REMEDY}") from error
