"""Exports a trained run to a folder that runs without this project, on any number of pairs.

model.stablehlo and parameters.safetensors, or model.onnx (and model.onnx.data, if it is large)
                        the network: see `export_formats`
model.py                opens the network
export.json             its inputs and outputs, its difference from the run, and its age
check.safetensors       some pairs with the run's answers, for `cmaclip export --check`
tasks.json  tokenizer.json
thresholds.json  temperature.py  the run's thresholds, if it has any, and the scaling they need
byte_pairs.py           the tokenizer in plain Python, if it is of CLIP's kind
titles.py  siglip_texts.py   clean the texts, if the run reads titles of web pages or has SigLIP's
example.py              answers one picture and its words; its `judge` scales the probabilities and
                        accepts what `cmaclip predict` accepts
"""

import datetime
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cmaclip_jax.data import byte_pairs, siglip_texts, titles
from cmaclip_jax.data.batches import Batch, BatchEncoder
from cmaclip_jax.data.text import SIGLIP, SIGLIP2, TITLES, Tokenizer
from cmaclip_jax.errors import UserError
from cmaclip_jax.evaluation import temperature
from cmaclip_jax.evaluation.thresholds import THRESHOLDS, run_thresholds, write_thresholds
from cmaclip_jax.parallel.mesh import batch_sharding, to_device
from cmaclip_jax.runs.trained import TrainedRun
from cmaclip_jax.serving.export_check import (
    DESCRIPTION,
    largest_difference,
    open_model,
    write_check,
)
from cmaclip_jax.serving.export_formats import INPUTS, ExportFormat
from cmaclip_jax.weights.writer import new_folder

HERE = Path(__file__).parent
OF_THE_RUN = ("tasks.json", "tokenizer.json")
# The example and what it imports: always; for a kind of tokenizer; for a way of cleaning texts; for
# thresholds.
EXAMPLE = HERE / "example.py"
PLAIN = Path(byte_pairs.__file__)
OF_SIGLIP = Path(siglip_texts.__file__)
CLEANERS = {TITLES: Path(titles.__file__), SIGLIP: OF_SIGLIP, SIGLIP2: OF_SIGLIP}
SCALING = Path(temperature.__file__)
COMPARED = (1, 3, 8)  # pairs at once
# The tokenizer in plain Python has to give these the ids of the run's own.
TEXTS = (
    "a red mug's handle",
    "DON'T 12 cups!",
    "caf\u00e9 \u4f60\u597d \u00bd 100%",
    "I'm he'd we'll",
    "",
)


def write_export(trained: TrainedRun, output: Path, form: ExportFormat) -> dict[str, Any]:
    """Writes the folder, whole or not at all; returns the content of its `export.json`.

    trained: on the device of the format, where the export is run and compared.
    """
    thresholds = run_thresholds(trained.workdir, trained.step)
    tokenizer = trained.encode.tokenizer
    if tokenizer.of_clip:
        check_tokenizer(tokenizer, trained.workdir / "tokenizer.json")
    with new_folder(output) as folder:
        about = {"format": form.name, **form.write(trained, folder)}
        about |= _describe(trained, _checked_difference(trained, form, folder))
        (folder / DESCRIPTION).write_text(json.dumps(about, indent=2) + "\n")
        shutil.copyfile(HERE / f"{form.name}_model.py", folder / "model.py")
        files = [*(trained.workdir / name for name in OF_THE_RUN), EXAMPLE]
        files += [PLAIN] if tokenizer.of_clip else []
        files += [CLEANERS[name] for name in about["cleaning"].split("+") if name]
        for file in files:
            shutil.copyfile(file, folder / file.name)
        if thresholds:
            write_thresholds(folder / THRESHOLDS, thresholds.values())
            shutil.copyfile(SCALING, folder / SCALING.name)
    return about


def check_tokenizer(tokenizer: Tokenizer, file: Path) -> None:
    """Raises UserError if `byte_pairs` does not read the file as the run's tokenizer does."""
    try:
        plain = byte_pairs.BytePairs(file)
        same = all(
            plain.encode(text) == tokenizer.backend.encode(text, add_special_tokens=False).ids
            for text in map(tokenizer.clean, TEXTS)
        )
    except Exception:  # a tokenizer of another kind can lack any field
        same = False
    if not same:
        raise UserError(f"{file} is not of CLIP's kind, a byte-level BPE; exports take no other")


def _checked_difference(trained: TrainedRun, form: ExportFormat, folder: Path) -> float:
    """The largest difference of the export in `folder` from the run; UserError if it is too large.

    The pairs and the answers of the last comparison stay in the folder.
    """
    answer, differences = open_model(form.name, folder), []
    for rows in COMPARED:
        batch = random_pairs(trained.encode, rows)
        inputs = {name: batch[name] for name in INPUTS}
        exported = answer(inputs)
        sharded = to_device(batch, batch_sharding(trained.mesh))
        own = trained.predict_step(trained.params, sharded)
        own = jax.device_get({name: own[name] for name in exported})
        differences.append(largest_difference(exported, own))
    write_check(folder, inputs, own)
    difference = float(np.max(differences))  # NaN if one of them is NaN
    allowed = form.allowed[trained.dtype]
    if not difference <= allowed:
        raise UserError(
            f"nothing is exported: its answers would differ from the run's by {difference:.2g}, "
            f"more than {allowed:g}; try --config.model.dtype=float32, the other --format, or "
            "another machine"
        )
    return difference


def random_pairs(encode: BatchEncoder, rows: int) -> Batch:
    """Random pairs; in turn with picture and words, a picture alone, words alone, neither."""
    random, batch = np.random.default_rng(rows), encode.empty(rows)
    tokenizer, length = encode.tokenizer, encode.text_length
    batch["image"][:] = random.integers(0, 256, batch["image"].shape)
    ends = random.integers(2, length, (rows, 1))
    # CLIP's start and end are its last two tokens.
    words = random.integers(0, tokenizer.vocabulary - 2, batch["tokens"].shape)
    places = np.arange(length)
    batch["tokens"][:] = np.where(places < ends, words, tokenizer.padding)
    batch["tokens"][places == ends] = tokenizer.end
    batch["tokens"][:, : len(tokenizer.before)] = tokenizer.before
    batch["has_image"][:] = np.arange(rows) % 4 < 2
    batch["has_text"][:] = np.arange(rows) % 2 == 0
    return batch


def _describe(trained: TrainedRun, difference: float) -> dict[str, Any]:
    """The entries of `export.json` that both formats have: how to call the model, and its age."""
    encode = trained.encode
    one = {name: encode.empty(1)[name] for name in INPUTS}
    outputs = jax.eval_shape(trained.objective.predict, trained.params, one)
    return {
        "step": trained.step,
        "compute_dtype": trained.dtype,
        "image_size": encode.image_size,
        "text_length": encode.text_length,
        "cleaning": encode.tokenizer.cleaning,
        "frame": {"before": encode.tokenizer.before, "after": encode.tokenizer.after},
        "padding": encode.tokenizer.padding,
        "inputs": jax.tree.map(_described, one),
        "outputs": jax.tree.map(_described, outputs),
        "parity": {
            "largest_difference": difference,
            "batch_sizes": list(COMPARED),
            "device": trained.mesh.devices.flat[0].device_kind,
        },
        "jax": jax.__version__,
        "written": datetime.date.today().isoformat(),
    }


def _described(value) -> dict[str, Any]:
    """The shape and the dtype of an array; 'b' in the shape is any number of pairs."""
    return {"shape": ["b", *value.shape[1:]], "dtype": value.dtype.name}
