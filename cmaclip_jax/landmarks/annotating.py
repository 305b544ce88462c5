"""What annotators make of true points, and what is made of their marks before training."""

from pathlib import Path

import numpy as np

from cmaclip_jax.errors import UserError
from cmaclip_jax.landmarks.annotation_noise import NoiseModel, load
from cmaclip_jax.landmarks.corruption import corrupt
from cmaclip_jax.landmarks.layouts import Layout

FITTED = "fitted"  # the noise that `landmarks.noise_model` holds


def read_fitted(path: str) -> NoiseModel:
    """The noise that `cmaclip landmarks noise` wrote to `path`."""
    where = "--config.landmarks.noise_model=FILE.json, which `cmaclip landmarks noise` writes"
    if not path:
        raise UserError(f"the noise {FITTED!r} needs {where}")
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"no noise was fitted to {path}: it is not there; name {where}")
    return load(file)


def fitted_marks(truth: np.ndarray, model: NoiseModel, annotators: int, seed: int) -> np.ndarray:
    """All annotators' marks under a fitted noise: truth [N,P,2] -> [A,N,P,2].

    Each draws on his own. Those beyond the annotators of the model have the biases of the first
    again.
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
    """All annotators' marks of all faces: truth [N,P,2] -> [A,N,P,2].

    A bias is everybody's; of 'annotators' each has his own; all else differs between them.
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
    """Every face as one annotator, drawn by lot, has marked it: [A,N,P,2] -> [N,P,2]."""
    who = np.random.default_rng(seed).integers(len(marks), size=marks.shape[1])
    return marks[who, np.arange(marks.shape[1])]


def averaged(marks: np.ndarray) -> np.ndarray:
    """The mean of what all annotators have marked; of the points that at least one has."""
    with np.errstate(invalid="ignore"):
        return np.nanmean(marks, axis=0)


def distilled(told: np.ndarray, answered: np.ndarray) -> np.ndarray:
    """What a detector answered about its own training faces, in place of what it was told.

    It has seen too many faces to learn each one's errors by heart; where a point was not marked,
    it still has an answer.
    """
    return np.broadcast_to(answered, told.shape).copy()
