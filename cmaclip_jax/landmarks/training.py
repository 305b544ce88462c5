"""Trains a landmark detector from a config, and finds the landmarks of pictures."""

import contextlib
import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from cmaclip_jax.errors import UserError
from cmaclip_jax.landmarks.detector import Detector
from cmaclip_jax.landmarks.layouts import layout_of
from cmaclip_jax.landmarks.objective import Landmarks
from cmaclip_jax.landmarks.pictures import AnnotatedFaces, batch_of, train_batches
from cmaclip_jax.models import ImageEncoder, image_encoder
from cmaclip_jax.parallel.cluster import leads
from cmaclip_jax.parallel.mesh import check_batch, make_mesh
from cmaclip_jax.runs.pretrained import read_clip
from cmaclip_jax.screen import Screen
from cmaclip_jax.training.assembly import Assembly
from cmaclip_jax.training.loop import train
from cmaclip_jax.training.progress import TrainingProgress
from cmaclip_jax.training.workdir import open_workdir

ANSWER_BATCH = 200  # pictures


@dataclasses.dataclass(frozen=True)
class TrainedDetector:
    """A detector and its trained parameters."""

    objective: Landmarks
    params: Any


def open_encoder(config: ConfigDict) -> tuple[ImageEncoder, Any]:
    """The encoder at the picture size of the config, and its pretrained parameters.

    The parameters are `{"image": parameters}` of `model.pretrained`, or None without one.
    """
    fields, stem = config.model, tuple(config.landmarks.stem)
    params = None
    if config.model.lora.rank or config.model.lora.source:
        raise UserError("landmarks tune the whole encoder; leave model.lora out")
    if fields.pretrained:
        if stem:
            raise UserError(
                "a pretrained encoder has its own first layer; add --config.landmarks.stem='()'"
            )
        encoder, params = _pretrained(fields.pretrained)
    else:
        stem_fields = {"stem": stem, "patch_hidden": 0} if stem else {}
        encoder = image_encoder(fields.image, **stem_fields)
    size, patch = config.data.image_size or encoder.image_size, encoder.patch_size
    if size % patch and size != encoder.image_size:
        raise UserError(
            f"data.image_size={size} does not divide into patches of {patch}; use "
            f"{max(size // patch, 1) * patch}"
        )
    return encoder.clone(image_size=size, unroll=fields.unroll), params


@functools.lru_cache(maxsize=1)
def _pretrained(source: str) -> tuple[ImageEncoder, Any]:
    """The image encoder of a CLIP, cached for the other runs of a study; needs no tokenizer."""
    weights = read_clip(source)
    return weights.model.image, {"image": weights.params["image"]}


def build_objective(config: ConfigDict, points: int, encoder: ImageEncoder) -> Landmarks:
    """The detector and its losses, from `config.landmarks`."""
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
    """Trains on these pictures and points, or continues a stopped run in `workdir`.

    Progress is written to `train.log` in that folder.
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
    """The points of pictures u8 [N,S,S,3]: [N,P,2]; 0 to 1 spans the picture."""
    step, points = _step(detector.objective), []
    for first in range(0, len(images), ANSWER_BATCH):
        batch = images[first : first + ANSWER_BATCH]
        padded = np.zeros((ANSWER_BATCH, *images.shape[1:]), np.uint8)
        padded[: len(batch)] = batch
        points.append(np.asarray(step(detector.params, padded))[: len(batch)])
    return np.concatenate(points).astype(np.float64)


@functools.lru_cache(maxsize=4)
def _step(objective: Landmarks):
    """The compiled prediction, cached for detectors with the same objective."""
    return jax.jit(lambda params, image: objective.predict(params, {"image": image})["points"])
