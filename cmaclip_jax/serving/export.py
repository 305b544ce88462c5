"""Exports a trained run to a folder that JAX runs without this project, on any number of pairs.

model.stablehlo         the network, serialised by `jax.export` for several platforms
parameters.safetensors  its first argument; a file of its own, since a module holds at most 2 GB
export.json             its other inputs, outputs, difference from the run, and age
check.safetensors       some pairs with the run's answers, for `cmaclip export --check`
tasks.json  tokenizer.json
thresholds.json  temperature.py  the run's thresholds, if it has any, and the scaling they need
titles.py               cleans the texts, if the run reads titles of web pages
example.py              answers one picture and its words; its `judge` scales the probabilities and
                        accepts what `cmaclip predict` accepts
"""

import datetime
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import export
from safetensors.numpy import load_file

from cmaclip_jax.data import titles
from cmaclip_jax.data.batches import Batch, BatchEncoder
from cmaclip_jax.data.text import TITLES
from cmaclip_jax.errors import UserError
from cmaclip_jax.evaluation import temperature
from cmaclip_jax.evaluation.thresholds import THRESHOLDS, run_thresholds, write_thresholds
from cmaclip_jax.parallel.mesh import batch_sharding, to_device
from cmaclip_jax.runs.trained import TrainedRun
from cmaclip_jax.serving.export_check import (
    DESCRIPTION,
    LARGEST_DIFFERENCE,
    MODULE,
    PARAMETERS,
    age,
    largest_difference,
    write_check,
)
from cmaclip_jax.weights.layout import save_tensors
from cmaclip_jax.weights.writer import new_folder

OF_THE_RUN = ("tasks.json", "tokenizer.json")
EXAMPLE = Path(__file__).with_name("example.py")
# What the example imports for a way of cleaning, and for thresholds.
CLEANERS = {"": (), TITLES: (Path(titles.__file__),)}
SCALING = Path(temperature.__file__)
INPUTS = ("image", "has_image", "tokens", "has_text")
COMPARED = (1, 3, 8)  # pairs at once


def write_export(trained: TrainedRun, output: Path, platforms: Sequence[str]) -> dict[str, Any]:
    """Writes the folder, whole or not at all; returns the content of its `export.json`.

    trained: on one device, of one of the platforms, so that the export can be run and compared.
    """
    thresholds = run_thresholds(trained.workdir, trained.step)
    here = export.default_export_platform()
    if here not in platforms:
        raise UserError(
            f"the export is compared with the run on this machine; add {here} to --platforms"
        )
    with new_folder(output) as folder:
        module = export_module(trained, platforms)
        (folder / MODULE).write_bytes(module.serialize())
        save_tensors(folder / PARAMETERS, flatten_dict(jax.device_get(trained.params), sep="/"))
        about = _describe(trained, module, _checked_difference(trained, folder))
        (folder / DESCRIPTION).write_text(json.dumps(about, indent=2) + "\n")
        of_the_run = (trained.workdir / name for name in OF_THE_RUN)
        for file in (*of_the_run, EXAMPLE, *CLEANERS[about["cleaning"]]):
            shutil.copyfile(file, folder / file.name)
        if thresholds:
            write_thresholds(folder / THRESHOLDS, thresholds.values())
            shutil.copyfile(SCALING, folder / SCALING.name)
    return about


def export_module(trained: TrainedRun, platforms: Sequence[str]) -> export.Exported:
    """`({name: parameter}, {input: [b,...]}) -> answers`, for any b, lowered for the platforms."""

    def answer(parameters, batch):
        return trained.objective.predict(unflatten_dict(parameters, sep="/"), batch)

    (rows,) = export.symbolic_shape("b")
    one = trained.encode.empty(1)
    batch = {
        name: jax.ShapeDtypeStruct((rows, *one[name].shape[1:]), one[name].dtype) for name in INPUTS
    }
    parameters = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), flatten_dict(trained.params, sep="/")
    )
    return export.export(jax.jit(answer), platforms=platforms)(parameters, batch)


def _checked_difference(trained: TrainedRun, folder: Path) -> float:
    """The largest difference of the export in `folder` from the run; UserError if it is too large.

    The pairs and the answers of the last comparison stay in the folder.
    """
    module = export.deserialize(bytearray((folder / MODULE).read_bytes()))
    parameters = jax.device_put(load_file(folder / PARAMETERS))
    answer, differences = jax.jit(module.call), []
    for rows in COMPARED:
        batch = _some_pairs(trained.encode, rows)
        inputs = {name: batch[name] for name in INPUTS}
        exported = answer(parameters, inputs)
        sharded = to_device(batch, batch_sharding(trained.mesh))
        own = trained.predict_step(trained.params, sharded)
        own = jax.device_get({name: own[name] for name in exported})
        differences.append(largest_difference(exported, own))
    write_check(folder, inputs, own)
    difference = float(np.max(differences))  # NaN if one of them is NaN
    allowed = LARGEST_DIFFERENCE[trained.dtype]
    if not difference <= allowed:
        raise UserError(
            f"nothing is exported: its answers would differ from the run's by {difference:.2g}, "
            f"more than {allowed:g}; try --config.model.dtype=float32 or another machine"
        )
    return difference


def _some_pairs(encode: BatchEncoder, rows: int) -> Batch:
    """Random pairs; in turn with picture and words, a picture alone, words alone, neither."""
    random, batch = np.random.default_rng(rows), encode.empty(rows)
    start, end = encode.tokenizer.start, encode.tokenizer.end
    batch["image"][:] = random.integers(0, 256, batch["image"].shape)
    ends = random.integers(2, encode.text_length, (rows, 1))
    words = random.integers(0, start, batch["tokens"].shape)
    batch["tokens"][:] = np.where(np.arange(encode.text_length) < ends, words, end)
    batch["tokens"][:, 0] = start
    batch["has_image"][:] = np.arange(rows) % 4 < 2
    batch["has_text"][:] = np.arange(rows) % 2 == 0
    return batch


def _describe(trained: TrainedRun, module: export.Exported, difference: float) -> dict[str, Any]:
    """The content of `export.json`, which says how to call the module."""
    (_, inputs), _ = jax.tree.unflatten(module.in_tree, map(_described, module.in_avals))
    encode = trained.encode
    return {
        "step": trained.step,
        "platforms": list(module.platforms),
        "compute_dtype": trained.dtype,
        "image_size": encode.image_size,
        "text_length": encode.text_length,
        "cleaning": encode.tokenizer.cleaning,
        "start_token": encode.tokenizer.start,
        "end_token": encode.tokenizer.end,
        "inputs": inputs,
        "outputs": jax.tree.unflatten(module.out_tree, map(_described, module.out_avals)),
        "parity": {
            "largest_difference": difference,
            "batch_sizes": list(COMPARED),
            "platform": export.default_export_platform(),
        },
        **age(datetime.date.today()),
    }


def _described(value) -> dict[str, Any]:
    """The shape and the dtype of an array; 'b' in the shape is any number of pairs."""
    shape = [size if isinstance(size, int) else str(size) for size in value.shape]
    return {"shape": shape, "dtype": value.dtype.name}
