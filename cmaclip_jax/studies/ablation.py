"""Variants of a config, trained alike over several seeds: what each part of the model gives."""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cmaclip_jax.config import check_config, with_changes
from cmaclip_jax.errors import UserError
from cmaclip_jax.files import write_text
from cmaclip_jax.parallel.mesh import make_mesh
from cmaclip_jax.runs.assembly import assemble
from cmaclip_jax.runs.data import RunData, open_data
from cmaclip_jax.runs.towers import open_towers
from cmaclip_jax.runs.training import train_and_evaluate
from cmaclip_jax.studies.framework import StudyRun, make_run, train_unfinished
from cmaclip_jax.studies.own_process import in_own_process
from cmaclip_jax.studies.throughput import steps_a_second
from cmaclip_jax.studies.variants import APART, VARIANTS, Variant
from cmaclip_jax.tasks import select_tasks

STEPS = "steps.json"  # the steps of every arm, if the minutes are equal


@dataclasses.dataclass(frozen=True)
class Arm:
    """A config that is trained with every seed: a variant, or one task of the variant `apart`."""

    variant: str
    config: ConfigDict
    task: str = ""

    @property
    def name(self) -> str:
        return f"{self.variant}-{self.task}" if self.task else self.variant

    @property
    def definition(self) -> Variant:
        """What the variant changes; `apart` changes none of the fields that it defines."""
        return VARIANTS.get(self.variant, Variant("one task alone", {}))


@dataclasses.dataclass(frozen=True)
class Study:
    """minutes: how long every run trains, if all train equally long; else None."""

    workdir: Path
    split: str
    tasks: tuple[str, ...]
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    minutes: float | None = None

    @property
    def variants(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(arm.variant for arm in self.arms))

    @functools.cached_property
    def runs(self) -> list[StudyRun[Arm]]:
        """All runs, seed by seed: a stopped study has all arms with its first seeds."""
        return [
            make_run(arm, seed, with_changes(arm.config, {"seed": seed}), self.workdir)
            for seed in self.seeds
            for arm in self.arms
            if arm.definition.seeded or seed == self.seeds[0]
        ]


def open_study(
    config: ConfigDict, workdir: Path, variants: Sequence[str], seeds: int, apart: bool = False
) -> Study:
    """The study of a config. Every arm is built once, so that none fails hours later."""
    _check(config, variants, seeds)
    towers = open_towers(config, None)
    data = open_data(config, None, towers)
    tasks = tuple(task.name for task in data.tasks)
    arms = tuple(_arms(config, variants, tasks if apart else ()))
    for arm in arms:
        try:
            _build(arm, data, towers)
        except UserError as error:
            raise UserError(f"{arm.name}: {error}") from error
    first = config.seed
    return Study(workdir, data.last_split(), tasks, arms, tuple(range(first, first + seeds)))


def with_equal_minutes(study: Study, minutes: float, say: Callable[[str], None]) -> Study:
    """The study with the number of steps that every arm makes in `minutes` on this machine.

    The numbers are kept in the study's folder, so a study that continues takes the same steps.
    """
    if minutes <= 0:
        raise UserError(f"--minutes={minutes:g} must be more than 0")
    path = study.workdir / STEPS
    measured: dict[str, Any] = {"minutes": minutes, "steps": {}}
    if path.exists():
        measured = json.loads(path.read_text())
    if measured["minutes"] != minutes:
        raise UserError(
            f"{study.workdir} is a study of {measured['minutes']:g} minutes a run; "
            f"use --minutes={measured['minutes']:g} or name another --workdir"
        )
    arms = []
    for number, arm in enumerate(study.arms, 1):
        if "train.steps" in arm.definition.changes:
            arms.append(arm)
            continue
        if arm.name not in measured["steps"]:
            say(f"measuring {arm.name}, {number} of {len(study.arms)}")
            study.workdir.mkdir(parents=True, exist_ok=True)
            rate = in_own_process(steps_a_second, arm.config, study.workdir)
            measured["steps"][arm.name] = max(1, round(60 * minutes * rate))
            write_text(path, json.dumps(measured, indent=2) + "\n")
        steps = measured["steps"][arm.name]
        say(f"{arm.name}: {steps:,} steps in {minutes:g} minutes")
        arms.append(
            dataclasses.replace(arm, config=with_changes(arm.config, {"train.steps": steps}))
        )
    return dataclasses.replace(study, arms=tuple(arms), minutes=minutes)


def _check(config: ConfigDict, variants: Sequence[str], seeds: int) -> None:
    unknown = [name for name in variants if name not in VARIANTS]
    if unknown:
        raise UserError(f"unknown variant {unknown[0]!r}; there is {', '.join(VARIANTS)}")
    from_clip = [name for name in variants if VARIANTS[name].from_clip]
    if from_clip and not config.model.pretrained:
        raise UserError(f"{from_clip[0]} needs a CLIP; set config.model.pretrained or leave it out")
    if seeds < 1:
        raise UserError(f"--seeds={seeds} must be at least 1")
    model = config.model
    if config.train.objective != "classification":
        raise UserError("an ablation compares classifiers; use train.objective='classification'")
    if (model.inputs, model.modality) != ("both", "attention") or not model.sequence_layers:
        raise UserError(
            "an ablation begins with the whole model; use model.inputs='both', "
            "model.modality='attention' and model.sequence_layers of 1 or more"
        )


def _arms(config: ConfigDict, variants: Sequence[str], apart: Sequence[str]) -> Iterator[Arm]:
    for name in dict.fromkeys(variants):
        yield Arm(name, with_changes(config, VARIANTS[name].changes))
    for task in apart:
        yield Arm(APART, _alone(config, task), task)


def _alone(config: ConfigDict, task: str) -> ConfigDict:
    """The config for one task, without the settings of the other tasks."""
    settings = config.train
    return with_changes(
        config,
        {
            "data.labels": (task,),
            "data.balance": task if config.data.balance == task else "",
            "train.task_weights": tuple(x for x in settings.task_weights if x[0] == task),
            "train.class_weights": tuple(x for x in settings.class_weights if x[0] == task),
        },
    )


def train_all(study: Study, say: Callable[[str], None], write: Callable[[], Any]) -> None:
    """Trains what is not there yet, each run in a process of its own.

    say: prints which run it is. write: called after every run.
    """
    train_unfinished(
        study.runs, lambda run: run.figures(study.split), train_and_evaluate, say, write
    )


def _build(arm: Arm, data: RunData, towers) -> None:
    """Raises UserError if the fields, the model or the rules of an arm do not fit together."""
    check_config(arm.config)
    encode = data.encode.for_tasks(select_tasks(data.tasks, arm.config.data.labels))
    assemble(arm.config, make_mesh(), encode, towers).check()
