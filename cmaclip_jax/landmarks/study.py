"""Noise x strength x remedy, over seeds: detectors trained on noisy points, judged by the truth."""

import dataclasses
import functools
import json
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from cmaclip_jax.errors import UserError
from cmaclip_jax.files import write_text
from cmaclip_jax.landmarks import annotating
from cmaclip_jax.landmarks.annotating import FITTED
from cmaclip_jax.landmarks.config import REMEDIES
from cmaclip_jax.landmarks.corruption import KINDS
from cmaclip_jax.landmarks.detector import HEADS
from cmaclip_jax.landmarks.detector_scores import DetectorScores, score_detector
from cmaclip_jax.landmarks.layouts import layout_of
from cmaclip_jax.landmarks.objective import POINTWISE
from cmaclip_jax.landmarks.pictures import AnnotatedFaces
from cmaclip_jax.landmarks.training import answers, train_detector
from cmaclip_jax.studies.framework import StudyRun, make_run

CLEAN, PLAIN = "none", "plain"
NOISES = (*KINDS, FITTED)
RESULT = "result.json"


@dataclasses.dataclass(frozen=True)
class Arm:
    """One line of the table: what was done to the annotations, and what against it.

    noise: one of NOISES, or CLEAN. strength: 0 for what has none, CLEAN and FITTED.
    faces: how many are trained on.
    """

    noise: str
    strength: float
    remedy: str
    faces: int

    @property
    def name(self) -> str:
        return f"{self.noise_named('-')}-{self.remedy}-{self.faces}"

    def noise_named(self, between: str = " ") -> str:
        """'isotropic 0.2'; 'none' and 'fitted' have no strength."""
        if self.noise in (CLEAN, FITTED):
            return self.noise
        return f"{self.noise}{between}{self.strength:g}"


@dataclasses.dataclass(frozen=True)
class StudyFaces:
    """The pictures of a study, with the truth: to train on, to judge accuracy and stability by."""

    train: AnnotatedFaces
    test: AnnotatedFaces
    videos: list[AnnotatedFaces]


def scores_of(run: StudyRun[Arm]) -> DetectorScores | None:
    """What a finished run found; None before that."""
    found = run.read(RESULT)
    return DetectorScores(**found) if found else None


def arms(config: ConfigDict) -> list[Arm]:
    """What a study compares; UserError where its config names what there is not.

    Plain training is under every noise and under none, also with `study.more_faces`.
    """
    fields, study = config.landmarks, config.landmarks.study
    _check(NOISES, study.noises, "study.noises")
    _check(HEADS, (fields.head,), "head")
    _check(POINTWISE, (fields.loss,), "loss")
    remedies = dict(_remedy(text, study.noises) for text in (PLAIN, *study.remedies))
    remedies[PLAIN] = (CLEAN, *study.noises)
    found = []
    for noise in (CLEAN, *study.noises):
        for strength in study.strengths if noise not in (CLEAN, FITTED) else (0.0,):
            own = [name for name, noises in remedies.items() if noise in noises]
            found += [Arm(noise, strength, name, fields.train) for name in own]
            found += [Arm(noise, strength, PLAIN, count) for count in study.more_faces]
    return list(dict.fromkeys(found))


def _remedy(text: str, noises: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """'wing:none,outliers' is Wing loss under these two, 'wing' under all noises of the study."""
    name, _, under = text.partition(":")
    _check(REMEDIES, (name,), "study.remedies")
    wanted = tuple(under.split(",")) if under else noises
    _check((CLEAN, *NOISES), wanted, "study.remedies")
    return name, wanted


def _check(known, wanted, field: str) -> None:
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise UserError(
            f"config.landmarks.{field} has no {unknown[0]!r}; there is {', '.join(known)}"
        )


def runs_of(config: ConfigDict, workdir: Path) -> list[StudyRun[Arm]]:
    """Every arm with every seed, seed by seed, so that a study that was stopped has all arms."""
    count = config.landmarks.study.seeds
    if count < 1:
        raise UserError(f"config.landmarks.study.seeds={count} must be at least 1")
    seeds = range(config.seed, config.seed + count)
    return [run_of(config, arm, seed, workdir) for seed in seeds for arm in arms(config)]


def run_of(config: ConfigDict, arm: Arm, seed: int, workdir: Path) -> StudyRun[Arm]:
    """One run of a study: its config says nothing of the other runs."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        del config.landmarks["study"]
        if arm.noise != FITTED:
            del config.landmarks["noise_model"]
    config.seed = seed
    config.landmarks.noise = arm.noise if arm.noise != CLEAN else ""
    config.landmarks.strength, config.landmarks.train = arm.strength, arm.faces
    config.landmarks.update(REMEDIES[arm.remedy][0])
    return make_run(arm, seed, config, workdir)


def train_and_score(
    config: ConfigDict, run: StudyRun[Arm], faces: StudyFaces, workdir: Path
) -> DetectorScores:
    """Annotates, trains and judges; what was found is kept in the run's folder.

    config: the study's.
    """
    scores = _train_and_score(config, run, faces, workdir)
    write_text(run.folder / RESULT, json.dumps(dataclasses.asdict(scores), indent=2) + "\n")
    return scores


def _train_and_score(
    config: ConfigDict, run: StudyRun[Arm], faces: StudyFaces, workdir: Path
) -> DetectorScores:
    truth = faces.train.first(run.arm.faces)
    annotated = truth.with_points(annotated_points(run.config, truth))
    if run.config.landmarks.relabel == "distilled":
        plain = dataclasses.replace(run.arm, remedy=PLAIN)
        teacher_run = run_of(config, plain, run.seed, workdir)  # mostly there already
        teacher = train_detector(teacher_run.config, annotated, teacher_run.folder)
        annotated = annotated.with_points(
            annotating.distilled(annotated.points, answers(teacher, truth.images))
        )
    detector = train_detector(run.config, annotated, run.folder)
    return score_detector(functools.partial(answers, detector), faces.test, faces.videos)


def check_fitted(config: ConfigDict, points: int) -> None:
    """Refuses a fitted noise that is not there, or of other points, before anything is trained."""
    if FITTED in config.landmarks.study.noises:
        annotating.read_fitted(config.landmarks.noise_model).check_points(points)


def annotated_points(config: ConfigDict, train: AnnotatedFaces) -> np.ndarray:
    """The training points as the config's annotators have marked them: [N,P,2]."""
    fields, truth = config.landmarks, train.points
    if fields.noise == FITTED:
        model = annotating.read_fitted(fields.noise_model)
        marks = annotating.fitted_marks(truth, model, fields.annotators, config.seed)
    else:
        layout = layout_of(truth.shape[1])
        marks = annotating.marks(
            truth, fields.noise, fields.strength, fields.annotators, config.seed, layout
        )
    if fields.relabel == "averaged":
        return annotating.averaged(marks)
    return annotating.one_each(marks, config.seed)
