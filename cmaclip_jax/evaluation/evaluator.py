"""Runs a model over a split, every example once, and scores and saves its outcome."""

import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cmaclip_jax.errors import UserError
from cmaclip_jax.evaluation.metrics import NUMBERS, PRECISIONS, RECALLS, TOP_K, task_metrics
from cmaclip_jax.files import whole_file, write_text
from cmaclip_jax.models.cma_clip import MODALITIES
from cmaclip_jax.models.objectives import Objective
from cmaclip_jax.parallel.mesh import batch_sharding, to_device
from cmaclip_jax.parallel.rules import tree_shardings
from cmaclip_jax.tasks import Task

Outcome = dict[str, Any]
PAIRS = {
    "both": "pairs with both picture and text",
    "image": "pairs with a picture",
    "text": "pairs with text",
    "all": "pairs",
}


def make_predict_step(objective: Objective, mesh: Mesh, param_shapes) -> jax.stages.Wrapped:
    """`(params, batch) -> outcome`, jitted; every host gets the outcome of all rows.

    If noise removes inputs, `has_image` and `has_text` of the outcome are those before noise
    (`had_image` and `had_text` of the batch), so that a pair is scored in the same slice.
    """

    def predict(params, batch) -> Outcome:
        labels = {name: batch[name] for name in ("labels", "weight")}
        for name in ("image", "text"):
            labels[f"has_{name}"] = batch.get(f"had_{name}", batch[f"has_{name}"])
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return objective.predict(params, batch) | labels

    return jax.jit(
        predict,
        in_shardings=(tree_shardings(param_shapes, mesh), batch_sharding(mesh)),
        out_shardings=NamedSharding(mesh, PartitionSpec()),
    )


def collect(predict_step: Callable, params, batches: Iterable, mesh: Mesh) -> Outcome:
    """The outcomes of all batches on the host, one row per example, without padding.

    Its `row` is the example's place among all rows of all batches, that is in its split.
    """
    sharding, parts, first = batch_sharding(mesh), [], 0
    for batch in batches:
        outcome = jax.device_get(predict_step(params, to_device(batch, sharding)))
        real = outcome["weight"] > 0
        part = jax.tree.map(lambda x, real=real: np.asarray(x, np.float32)[real], outcome)
        parts.append(part | {"row": first + np.flatnonzero(real)})
        first += len(real)
    return jax.tree.map(lambda *rows: np.concatenate(rows), *parts)


def score(
    outcome: Outcome,
    tasks: Sequence[Task],
    split: str,
    step: int,
    precisions: Sequence[float] = PRECISIONS,
    top_k: Sequence[int] = TOP_K,
    inputs: str = "both",
) -> dict:
    """The figures of a split: of the pairs that have all `inputs`, and beside them of the slices.

    `scored` says which pairs these are, by a name of PAIRS. A run that reads one modality also
    has the figures of the complete pairs, by which it is compared with one that reads both.
    """
    if not len(outcome["row"]):
        raise UserError(
            f"no pair of {split} can be used, so nothing can be judged; bad_records.jsonl of the "
            "run says why"
        )
    measure = functools.partial(task_metrics, precisions=precisions, top_k=top_k)
    score_rows = functools.partial(_score_rows, outcome, tasks, measure)
    scored = scored_pairs(outcome, inputs)
    slices = {
        "without_image": ~rows_with(outcome, "image"),
        "without_text": ~rows_with(outcome, "text"),
        "all": rows_with(outcome, "all"),
    }
    if inputs != "both":
        slices["complete"] = rows_with(outcome, "both")
    return {
        "split": split,
        "step": step,
        "scored": scored,
        **score_rows(rows_with(outcome, scored)),
        "slices": {name: score_rows(rows) for name, rows in slices.items() if rows.any()},
    }


def scored_pairs(outcome: Outcome, inputs: str = "both") -> str:
    """Which pairs the figures of a split are of, by a name of PAIRS.

    Those with all `inputs`. Where there is none, those with the one modality that the split has,
    or all pairs.
    """
    if rows_with(outcome, inputs).any():
        return inputs
    there = [name for name in MODALITIES if rows_with(outcome, name).any()]
    return there[0] if len(there) == 1 else "all"


def rows_with(outcome: Outcome, pairs: str) -> np.ndarray:
    """The rows of these pairs, bool [N]; `pairs` is a name of PAIRS."""
    rows = np.ones(len(outcome["has_image"]), bool)
    for name in MODALITIES:
        if pairs in ("both", name):
            rows &= outcome[f"has_{name}"] > 0
    return rows


def _score_rows(
    outcome: Outcome, tasks: Sequence[Task], measure: Callable, rows: np.ndarray
) -> dict:
    figures = {}
    for task in tasks:
        weights = outcome["modality_weights"][task.name][rows].mean(axis=0, dtype=np.float64)
        figures[task.name] = measure(
            outcome["probabilities"][task.name][rows], outcome["labels"][task.name][rows], task
        ) | {"modality_weights": dict(zip(MODALITIES, map(float, weights), strict=True))}
    return {"examples": int(rows.sum()), "tasks": figures, "mean": mean_figures(figures)}


def mean_figures(figures: Mapping[str, dict]) -> dict[str, Any]:
    """The plain mean over tasks of every figure that all have as a number, or one a precision."""
    scored = [task for task in figures.values() if task["examples"]]
    if not scored:
        return {}
    means = {name: float(np.mean([task[name] for task in scored])) for name in NUMBERS}
    return means | {
        name: {
            precision: float(np.mean([task[name][precision] for task in scored]))
            for precision in scored[0][name]
        }
        for name in RECALLS
    }


def halves(outcome: Outcome) -> tuple[Outcome, Outcome]:
    """The rows in two random halves; the same halves every time."""
    order = np.random.default_rng(0).permutation(len(outcome["row"]))
    parts = (np.sort(part) for part in np.array_split(order, 2))
    return tuple(jax.tree.map(lambda x, rows=rows: x[rows], outcome) for rows in parts)


def write_outcome(workdir: str | Path, split: str, outcome: Outcome) -> Path:
    """Writes every answer to `evaluation/SPLIT.npz`: arrays named as in `Outcome`, by paths."""
    path = Path(workdir) / "evaluation" / f"{split}.npz"
    path.parent.mkdir(exist_ok=True)
    with whole_file(path) as part:
        np.savez_compressed(part, **flatten_dict(outcome, sep="/"))
    return path


def read_outcome(workdir: str | Path, split: str) -> Outcome:
    """The outcome that `write_outcome` wrote."""
    path = Path(workdir) / "evaluation" / f"{split}.npz"
    try:
        with np.load(path) as arrays:
            return unflatten_dict(dict(arrays), sep="/")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read; make it with `cmaclip evaluate --workdir={workdir} "
            f"--split={split}`"
        ) from error


def write_score(workdir: str | Path, figures: dict) -> Path:
    """Writes `evaluation/SPLIT.json` of a run."""
    path = Path(workdir) / "evaluation" / f"{figures['split']}.json"
    path.parent.mkdir(exist_ok=True)
    write_text(path, _one_line_lists(json.dumps(figures, indent=2)) + "\n")
    return path


def _one_line_lists(text: str) -> str:
    """Indented JSON with a list of whole numbers on one line, so that a matrix looks like one."""
    return re.sub(
        r"\[\n[\s\d,]+\]", lambda found: "[" + ", ".join(re.findall(r"\d+", found[0])) + "]", text
    )
