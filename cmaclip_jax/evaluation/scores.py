"""The figures of a split: of all tasks, over the scored pairs and over slices of the split."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cmaclip_jax.errors import UserError
from cmaclip_jax.evaluation.metrics import NUMBERS, PRECISIONS, RECALLS, TOP_K, task_metrics
from cmaclip_jax.evaluation.predictor import Outcome
from cmaclip_jax.evaluation.retrieval import flat_figures, retrieval_figures
from cmaclip_jax.models.cma_clip import MODALITIES
from cmaclip_jax.tasks import Task

PAIRS = {
    "both": "pairs with both picture and text",
    "image": "pairs with a picture",
    "text": "pairs with text",
    "all": "pairs",
}


def score(
    outcome: Outcome,
    tasks: Sequence[Task],
    split: str,
    step: int,
    precisions: Sequence[float] = PRECISIONS,
    top_k: Sequence[int] = TOP_K,
    inputs: str = "both",
) -> dict:
    """The figures of the scored pairs (see `scored_pairs`), and of slices of the split.

    `scored` is a name of PAIRS. A run that reads one modality also has a slice of the complete
    pairs, so that it can be compared with a run that reads both. `retrieval` is in the figures of a
    run without tasks.
    """
    if not len(outcome["row"]):
        raise UserError(
            f"no pair of {split} can be used or judged; bad_records.jsonl of the run says why"
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
    figures = {
        "split": split,
        "step": step,
        "scored": scored,
        **score_rows(rows_with(outcome, scored)),
        "slices": {name: score_rows(rows) for name, rows in slices.items() if rows.any()},
    }
    if "embeddings" in outcome:
        complete = rows_with(outcome, "both")
        figures["retrieval"] = retrieval_figures(outcome["embeddings"], complete)
    return figures


def watched(figures: dict) -> dict[str, float]:
    """The figures of an evaluation during training, for the metrics log."""
    if figures.get("retrieval"):
        return flat_figures(figures["retrieval"])
    tasks = figures["tasks"].items()
    return {name: task["accuracy"] for name, task in tasks if task["examples"]}


def watched_score(figures: dict) -> float | None:
    """The number by which the best checkpoint is chosen: the higher, the better.

    It is the mean accuracy over tasks or, in a run without tasks, the mean recall of retrieval.
    None where no pair could be scored.
    """
    return (figures.get("retrieval") or {}).get("recall", figures["mean"].get("accuracy"))


def scored_pairs(outcome: Outcome, inputs: str = "both") -> str:
    """The pairs that a split is scored on, as a name of PAIRS: those with all `inputs`.

    If there are none: the pairs with the only modality that the split has, else all pairs.
    """
    if rows_with(outcome, inputs).any():
        return inputs
    present = [name for name in MODALITIES if rows_with(outcome, name).any()]
    return present[0] if len(present) == 1 else "all"


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
    """The mean over tasks of NUMBERS, and of RECALLS at each precision."""
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
