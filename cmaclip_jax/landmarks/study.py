"""The study: detectors trained under each noise, strength, remedy and seed, and their scores."""

import dataclasses
import functools
import json
from collections.abc import Iterable
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
    """One line of the table: a noise of the annotations, and a remedy against it.

    noise: one of NOISES, or CLEAN. strength: 0 for CLEAN and FITTED.
    faces: the number of training faces.
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
    """The pictures of a study with true points: for training, accuracy and stability."""

    train: AnnotatedFaces
    test: AnnotatedFaces
    videos: list[AnnotatedFaces]


def scores_of(run: StudyRun[Arm]) -> DetectorScores | None:
    """The scores of a finished run; None before that."""
    scores = run.read(RESULT)
    return DetectorScores(**scores) if scores else None


def arms(config: ConfigDict) -> list[Arm]:
    """The arms of a study. Plain training is in every noise and in CLEAN, for all numbers of faces.

    Raises:
      UserError: the config names an unknown noise, remedy, head or loss.
    """
    fields, study = config.landmarks, config.landmarks.study
    check_names(NOISES, study.noises, "study.noises")
    check_names(HEADS, (fields.head,), "head")
    check_names(POINTWISE, (fields.loss,), "loss")
    remedies = dict(_remedy(text, study.noises) for text in (PLAIN, *study.remedies))
    remedies[PLAIN] = (CLEAN, *study.noises)
    chosen = []
    for noise in (CLEAN, *study.noises):
        for strength in study.strengths if noise not in (CLEAN, FITTED) else (0.0,):
            own = [name for name, noises in remedies.items() if noise in noises]
            chosen += [Arm(noise, strength, name, fields.train) for name in own]
            chosen += [Arm(noise, strength, PLAIN, count) for count in study.more_faces]
    return list(dict.fromkeys(chosen))


def _remedy(text: str, noises: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """A remedy and its noises: 'wing:none,outliers' names two, 'wing' means all of the study."""
    name, _, under = text.partition(":")
    check_names(REMEDIES, (name,), "study.remedies")
    wanted = tuple(under.split(",")) if under else noises
    check_names((CLEAN, *NOISES), wanted, "study.remedies")
    return name, wanted


def check_names(known: Iterable[str], wanted: Iterable[str], field: str) -> None:
    """Raises UserError if a name in `config.landmarks.FIELD` is unknown."""
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise UserError(
            f"config.landmarks.{field} has no {unknown[0]!r}; there is {', '.join(known)}"
        )


def runs_of(config: ConfigDict, workdir: Path) -> list[StudyRun[Arm]]:
    """Every arm with every seed; all arms of a seed come before the next seed."""
    count = config.landmarks.study.seeds
    if count < 1:
        raise UserError(f"config.landmarks.study.seeds={count} must be at least 1")
    seeds = range(config.seed, config.seed + count)
    return [run_of(config, arm, seed, workdir) for seed in seeds for arm in arms(config)]


def run_of(config: ConfigDict, arm: Arm, seed: int, workdir: Path) -> StudyRun[Arm]:
    """One run of a study; its config holds no field of the other runs."""
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
    """Annotates the faces, trains, and writes the scores into the run's folder.

    config: the study's. A distilled detector trains on the answers of the plain detector for its
    own training faces, which contain no single annotation's errors and no missing points.
    """
    truth = faces.train.first(run.arm.faces)
    annotated = truth.with_points(annotated_points(run.config, truth))
    if run.config.landmarks.relabel == "distilled":
        plain = dataclasses.replace(run.arm, remedy=PLAIN)
        teacher_run = run_of(config, plain, run.seed, workdir)  # usually trained before
        teacher = train_detector(teacher_run.config, annotated, teacher_run.folder)
        annotated = annotated.with_points(answers(teacher, truth.images))
    detector = train_detector(run.config, annotated, run.folder)
    scores = score_detector(functools.partial(answers, detector), faces.test, faces.videos)
    write_text(run.folder / RESULT, json.dumps(dataclasses.asdict(scores), indent=2) + "\n")
    return scores


def check_fitted(config: ConfigDict, points: int) -> None:
    """Raises UserError if the fitted noise is missing or has another number of points."""
    if FITTED in config.landmarks.study.noises:
        annotating.read_fitted(config.landmarks.noise_model).check_points(points)


def annotated_points(config: ConfigDict, train: AnnotatedFaces) -> np.ndarray:
    """The training points as the annotators of the config mark them: [N,P,2]."""
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
