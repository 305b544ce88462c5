"""A detector from a config: trained by the one loop, and asked about pictures."""

import contextlib
import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from cmaclip_jax.landmarks.detector import Detector
from cmaclip_jax.landmarks.encoder import open_encoder
from cmaclip_jax.landmarks.layouts import layout_of
from cmaclip_jax.landmarks.objective import Landmarks
from cmaclip_jax.landmarks.pictures import AnnotatedFaces, batch_of, train_batches
from cmaclip_jax.models import ImageEncoder
from cmaclip_jax.parallel.cluster import leads
from cmaclip_jax.parallel.mesh import check_batch, make_mesh
from cmaclip_jax.screen import Screen
from cmaclip_jax.training.assembly import Assembly
from cmaclip_jax.training.loop import train
from cmaclip_jax.training.progress import TrainingProgress
from cmaclip_jax.training.workdir import open_workdir

ASKED = 200  # pictures at once


@dataclasses.dataclass(frozen=True)
class TrainedDetector:
    """A detector that has learnt."""

    objective: Landmarks
    params: Any


def build_objective(config: ConfigDict, points: int, encoder: ImageEncoder) -> Landmarks:
    """The detector and the loss that `config.landmarks` describes."""
    fields = config.landmarks
    return Landmarks(
        model=Detector(encoder, points, fields.head),
        layout=layout_of(points),
        loss_name=fields.loss,
        anisotropic=fields.anisotropic,
        target=fields.target,
        consistency=fields.consistency,
        shift=fields.shift,
    )


def train_detector(config: ConfigDict, faces: AnnotatedFaces, workdir: Path) -> TrainedDetector:
    """Trains on these pictures and points, or goes on where a run in that folder was stopped.

    What there is to say while it does goes to `train.log` in that folder.
    """
    open_workdir(workdir, config)
    mesh = make_mesh(**config.mesh)
    check_batch(mesh, config.train.batch_size, config.train.accumulate)
    encoder, pretrained = open_encoder(config)
    objective = build_objective(config, faces.points.shape[1], encoder)
    size = config.train.batch_size

    def batches(start: int, params: Any):
        return train_batches(faces, config.seed, size, start, assembly.rows(size))

    example = batch_of(faces.images[:1], faces.points[:1], faces.sizes[:1])
    assembly = Assembly(config, mesh, objective, example)
    with (workdir / "train.log").open("a", buffering=1) as log:
        progress = TrainingProgress(
            workdir, config.train.steps, size, Screen(log, quiet=not leads(), width=100)
        )
        with contextlib.closing(progress):
            state = train(assembly, batches, workdir, progress, pretrained=pretrained)
    return TrainedDetector(objective, state.best_params)


def answers(detector: TrainedDetector, images: np.ndarray) -> np.ndarray:
    """The points of pictures u8 [N,S,S,3]: [N,P,2], 0 to 1 is the picture."""
    step, found = _step(detector.objective), []
    for first in range(0, len(images), ASKED):
        some = images[first : first + ASKED]
        padded = np.zeros((ASKED, *images.shape[1:]), np.uint8)
        padded[: len(some)] = some
        found.append(np.asarray(step(detector.params, padded))[: len(some)])
    return np.concatenate(found).astype(np.float64)


@functools.lru_cache(maxsize=4)
def _step(objective: Landmarks):
    """Compiled once for all detectors of a kind."""
    return jax.jit(lambda params, image: objective.predict(params, {"image": image})["points"])
