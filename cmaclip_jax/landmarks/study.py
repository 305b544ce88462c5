"""Noise x strength x remedy, over seeds: detectors trained on noisy points, judged by the truth."""

import dataclasses
import functools
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from cmaclip_jax.errors import UserError
from cmaclip_jax.landmarks import annotating
from cmaclip_jax.landmarks.config import REMEDIES
from cmaclip_jax.landmarks.corruption import KINDS
from cmaclip_jax.landmarks.detector import HEADS
from cmaclip_jax.landmarks.judging import Judged, judge_detector
from cmaclip_jax.landmarks.layouts import layout_of
from cmaclip_jax.landmarks.losses import POINTWISE
from cmaclip_jax.landmarks.pictures import Marked
from cmaclip_jax.landmarks.training import answers, train_detector

CLEAN = "none"
RESULT = "result.json"


@dataclasses.dataclass(frozen=True)
class Arm:
    """One cell of the table: what was done to the annotations, and what against it."""

    noise: str
    strength: float
    remedy: str

    @property
    def name(self) -> str:
        return f"{self.noise}-{self.strength:g}-{self.remedy}" if self.noise else CLEAN


@dataclasses.dataclass(frozen=True)
class Faces:
    """The pictures of a study, with the truth: to train on, to judge accuracy and stability by."""

    train: Marked
    test: Marked
    videos: list[Marked]


def arms(config: ConfigDict) -> list[Arm]:
    """What a study compares; UserError where its config names what there is not."""
    study = config.landmarks.study
    for known, wanted, field in (
        (KINDS, study.noises, "study.noises"),
        (REMEDIES, study.remedies, "study.remedies"),
        (HEADS, (config.landmarks.head,), "head"),
        (POINTWISE, (config.landmarks.loss,), "loss"),
    ):
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise UserError(
                f"config.landmarks.{field} has no {unknown[0]!r}; there is {', '.join(known)}"
            )
    cells = itertools.product(study.noises, study.strengths, study.remedies)
    return [Arm("", 0.0, "plain"), *(Arm(*cell) for cell in cells)]


def run_study(
    config: ConfigDict, faces: Faces, workdir: Path, say: Callable[[str], None]
) -> Iterator[tuple[Arm, int, Judged]]:
    """Every arm with every seed, seed by seed; what is there already is not trained again."""
    seeds = range(config.seed, config.seed + config.landmarks.study.seeds)
    wanted = [(arm, seed) for seed in seeds for arm in arms(config)]
    for number, (arm, seed) in enumerate(wanted, 1):
        folder = workdir / arm.name / f"seed-{seed}"
        kept = folder / RESULT
        if kept.exists():
            yield arm, seed, Judged(**json.loads(kept.read_text()))
            continue
        say(f"{number} of {len(wanted)}: {arm.name}, seed {seed}")
        judged = _run(arm_config(config, arm, seed), faces, folder)
        kept.write_text(json.dumps(dataclasses.asdict(judged), indent=2) + "\n")
        yield arm, seed, judged


def arm_config(config: ConfigDict, arm: Arm, seed: int) -> ConfigDict:
    """The config of one run of the study."""
    config = config.copy_and_resolve_references()
    config.seed = seed
    config.landmarks.noise, config.landmarks.strength = arm.noise, arm.strength
    config.landmarks.update(REMEDIES[arm.remedy][0])
    return config


def _run(config: ConfigDict, faces: Faces, folder: Path) -> Judged:
    """Annotates, trains, and judges."""
    told = faces.train.with_points(told_points(config, faces.train))
    if config.landmarks.relabel == "distilled":
        plain = config.copy_and_resolve_references()
        plain.landmarks.relabel = ""
        teacher = train_detector(plain, told, folder / "teacher")
        answered = answers(teacher, faces.train.images)
        told = told.with_points(annotating.distilled(told.points, answered))
    detector = train_detector(config, told, folder)
    return judge_detector(functools.partial(answers, detector), faces.test, faces.videos)


def told_points(config: ConfigDict, train: Marked) -> np.ndarray:
    """The training points as the config's annotators have marked them: [N,P,2]."""
    fields, layout = config.landmarks, layout_of(train.points.shape[1])
    marks = annotating.marks(
        train.points, fields.noise, fields.strength, fields.annotators, config.seed, layout
    )
    if fields.relabel == "averaged":
        return annotating.averaged(marks)
    return annotating.one_each(marks, config.seed)
