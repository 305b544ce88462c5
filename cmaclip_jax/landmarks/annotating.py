"""Simulated annotations of true points, and how they are combined for training."""

from pathlib import Path

import numpy as np

from cmaclip_jax.errors import UserError
from cmaclip_jax.landmarks.annotation_noise import NoiseModel, load
from cmaclip_jax.landmarks.corruption import corrupt
from cmaclip_jax.landmarks.layouts import Layout

FITTED = "fitted"  # the noise of the model in the file `landmarks.noise_model`


def read_fitted(path: str) -> NoiseModel:
    """The noise model that `cmaclip landmarks noise` wrote to `path`."""
    option = "--config.landmarks.noise_model=FILE.json, which `cmaclip landmarks noise` writes"
    if not path:
        raise UserError(f"the noise {FITTED!r} needs {option}")
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"there is no noise model at {path}; give {option}")
    return load(file)


def fitted_marks(truth: np.ndarray, model: NoiseModel, annotators: int, seed: int) -> np.ndarray:
    """Every annotator's points under a fitted noise model: truth [N,P,2] -> [A,N,P,2].

    Random errors are independent. The biases of the model's annotators repeat in turn if
    `annotators` is larger than their number.
    """
    marks = []
    for number in range(annotators):
        annotator = np.full(len(truth), number % model.biases.shape[1])
        marks.append(model.sample(np.random.default_rng((seed, number)), truth, annotator))
    return np.stack(marks)


def marks(
    truth: np.ndarray, kind: str, strength: float, annotators: int, seed: int, layout: Layout | None
) -> np.ndarray:
    """Every annotator's points under a noise of corruption.py: truth [N,P,2] -> [A,N,P,2].

    With 'bias' all annotators have the same offsets, with 'annotators' each has its own. The other
    noises are drawn independently for each annotator.
    """
    if not kind:
        return np.broadcast_to(truth, (annotators, *truth.shape))
    marks = []
    for number in range(annotators):
        own_seed = seed if kind in ("bias", "annotators") else seed + 1_000 * number
        annotator = np.full(len(truth), number)  # `corrupt` reads it for 'annotators' only
        marks.append(corrupt(truth, kind, strength, own_seed, layout, annotator))
    return np.stack(marks)


def one_each(marks: np.ndarray, seed: int) -> np.ndarray:
    """The points of one random annotator for each face: [A,N,P,2] -> [N,P,2]."""
    chosen = np.random.default_rng(seed).integers(len(marks), size=marks.shape[1])
    return marks[chosen, np.arange(marks.shape[1])]


def averaged(marks: np.ndarray) -> np.ndarray:
    """The mean over annotators; NaN for a point that no annotator marked."""
    with np.errstate(invalid="ignore"):
        return np.nanmean(marks, axis=0)
