"""The runs of the folds: every record is answered by a model that has not seen it.

A model that reads both modalities answers three times: the whole pair, its picture alone and its
words alone.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from cmaclip_jax.config import with_changes
from cmaclip_jax.data.noise import Noise
from cmaclip_jax.errors import UserError
from cmaclip_jax.evaluation.predictor import Outcome
from cmaclip_jax.evaluation.result_files import outcome_file, read_outcome, write_outcome
from cmaclip_jax.runs.judged import open_judged
from cmaclip_jax.runs.training import train_and_evaluate
from cmaclip_jax.screen import Screen
from cmaclip_jax.studies.framework import StudyRun, train_unfinished

FOLDS = "folds.npy"
TESTED = "test"  # the split that a fold is in its run


@dataclasses.dataclass(frozen=True)
class Fold:
    """One fold, by its number from 1."""

    number: int

    @property
    def name(self) -> str:
        return f"fold-{self.number}"


def choose_folds(groups: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The number of each record's fold, from 1. The records of a group share a fold.

    Groups go in random order, the largest first, each to the fold with the fewest records.
    groups: the number of each record's group.
    """
    sizes = np.bincount(groups)
    if len(sizes) < folds:
        raise UserError(
            f"--folds={folds} needs as many different pairs, and this data has {len(sizes)}; "
            "add rows, or ask for fewer folds"
        )
    order = np.random.default_rng(seed).permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    filled, fold_of_group = np.zeros(folds, int), np.zeros(len(sizes), int)
    for group in order:
        fold = int(filled.argmin())
        fold_of_group[group] = fold + 1
        filled[fold] += sizes[group]
    return fold_of_group[groups]


def fold_runs(config: ConfigDict, workdir: Path, folds: int) -> list[StudyRun[Fold]]:
    """The run of each fold. The fields that need a validation split are turned off.

    So are pseudo-labels, because the model that gave them may have seen the rows of the fold.
    """
    changes: dict[str, Any] = {
        "data.folds": str(workdir / FOLDS),
        "data.split": "train",
        "eval.split": TESTED,
    }
    changes |= {"eval.every": 0, "eval.soup": 0, "train.pseudo": ""}
    return [
        StudyRun(
            Fold(number),
            config.seed,
            with_changes(config, changes | {"data.fold": number}),
            workdir / f"fold-{number}",
        )
        for number in range(1, folds + 1)
    ]


def train_folds(runs: list[StudyRun[Fold]], say: Callable[[str], None]) -> None:
    """Trains the runs that are not finished yet, each in a process of its own."""

    def finished(run: StudyRun) -> bool:
        answers = [outcome_file(run.folder, name) for name in alone(run.config)]
        return bool(run.figures(TESTED)) and all(file.exists() for file in answers)

    train_unfinished(runs, finished, train_and_answer, say)


def train_and_answer(config: ConfigDict, folder: Path) -> None:
    """Trains the run of a fold, unless it is trained, and writes its answers."""
    train_and_evaluate(config, folder)
    screen, run = Screen(), open_judged(folder, config)
    for name, noise in alone(config).items():
        write_outcome(folder, name, run.with_noise(noise).outcome(TESTED, screen.track))


def alone(config: ConfigDict) -> dict[str, Noise]:
    """The noise that leaves one modality alone, by the name of its outcome."""
    if config.model.inputs != "both":
        return {}
    return {"image-alone": Noise(text="blank"), "text-alone": Noise(image="missing")}


def joined_outcome(runs: list[StudyRun[Fold]], numbers: np.ndarray, name: str) -> Outcome:
    """An outcome of all folds as one; `row` is the number of the record among all records.

    numbers: the number of each record's fold.
    name: TESTED, or a name of `alone`.
    """
    parts = []
    for run in runs:
        outcome = read_outcome(run.folder, name)
        outcome["row"] = np.flatnonzero(numbers == run.arm.number)[outcome["row"]]
        parts.append(outcome)
    return jax.tree.map(lambda *rows: np.concatenate(rows), *parts)
