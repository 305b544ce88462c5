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
        raise UserError(f"no noise was fitted to {path}: it is not there; name {option}")
    return load(file)


def fitted_marks(truth: np.ndarray, model: NoiseModel, annotators: int, seed: int) -> np.ndarray:
    """Every annotator's points under a fitted noise model: truth [N,P,2] -> [A,N,P,2].

    Random errors are independent. The biases of the model's annotators repeat in turn if
    `annotators` is larger than their number.
    """
    known = model.biases.shape[1]
    return np.stack(
        [
            model.sample(
                np.random.default_rng((seed, number)), truth, np.full(len(truth), number % known)
            )
            for number in range(annotators)
        ]
    )


def marks(
    truth: np.ndarray, kind: str, strength: float, annotators: int, seed: int, layout: Layout | None
) -> np.ndarray:
    """Every annotator's points under a noise of corruption.py: truth [N,P,2] -> [A,N,P,2].

    With 'bias' all annotators have the same offsets, with 'annotators' each has its own. The other
    noises are drawn independently for each annotator.
    """
    if not kind:
        return np.broadcast_to(truth, (annotators, *truth.shape))
    return np.stack(
        [
            corrupt(
                truth,
                kind,
                strength,
                seed if kind in ("bias", "annotators") else seed + 1_000 * number,
                layout,
                **({"who": np.full(len(truth), number)} if kind == "annotators" else {}),
            )
            for number in range(annotators)
        ]
    )


def one_each(marks: np.ndarray, seed: int) -> np.ndarray:
    """The points of one random annotator for each face: [A,N,P,2] -> [N,P,2]."""
    chosen = np.random.default_rng(seed).integers(len(marks), size=marks.shape[1])
    return marks[chosen, np.arange(marks.shape[1])]


def averaged(marks: np.ndarray) -> np.ndarray:
    """The mean over annotators; NaN for a point that no annotator marked."""
    with np.errstate(invalid="ignore"):
        return np.nanmean(marks, axis=0)
