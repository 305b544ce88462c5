"""Residuals of repeated annotations: their differences from the consensus of all annotators.

Our own way to separate annotation noise from the differences between faces.
"""

import dataclasses

import numpy as np

from cmaclip_jax.errors import UserError
from cmaclip_jax.landmarks.contour import into_frame, out_of_frame, tangents
from cmaclip_jax.landmarks.layouts import Layout
from cmaclip_jax.landmarks.metrics import face_sizes

ROUNDS = 20  # of estimating biases and consensus in turn; 1 is enough if no point is missing
FEWEST = 3  # degrees of freedom that a point needs


@dataclasses.dataclass(frozen=True)
class Residuals:
    """Annotations minus the consensus, as (along, across) the contour, in shares of the size.

    raw: [A,N,P,2] unscaled; NaN where a point is missing or has a single annotator.
    biases: [A,P,2] an annotator's offset from the mean of all; `raw` does not contain it.
    kept: [P] share of the degrees of freedom that remain after the biases were estimated.
    """

    raw: np.ndarray
    biases: np.ndarray
    kept: np.ndarray

    @property
    def present(self) -> np.ndarray:
        """Where there is a residual: [A,N,P]."""
        return np.isfinite(self.raw[..., 0])

    @property
    def counts(self) -> np.ndarray:
        """The number of annotators of a point: [N,P], 0 or at least 2."""
        return self.present.sum(0)

    @property
    def repeats(self) -> np.ndarray:
        """The degrees of freedom that the consensus leaves, `counts` - 1: [N,P]."""
        return np.maximum(self.counts - 1, 0)

    @property
    def freedom(self) -> np.ndarray:
        """Degrees of freedom of a point's variance: [P]."""
        return self.repeats.sum(0) * self.kept

    @property
    def values(self) -> np.ndarray:
        """Residuals scaled to the variance of the annotations: [A,N,P,2]."""
        counts = np.maximum(self.counts, 2)
        return self.raw * np.sqrt(counts / (counts - 1) / self.kept)[..., None]

    def covariances(self) -> np.ndarray:
        """Unbiased covariances of the annotations: [P,2,2]."""
        known = np.nan_to_num(self.raw)
        return np.einsum("anpi,anpj->pij", known, known) / self.freedom[:, None, None]

    def of_faces(self, faces: np.ndarray) -> "Residuals":
        """The residuals of these faces; biases stay those of all faces."""
        return Residuals(self.raw[:, faces], self.biases, self.kept)


def residuals_of(annotations, layout: Layout | None, biased: bool) -> Residuals:
    """The residuals of annotations [A,N,P,2], NaN where missing.

    biased: whether to estimate and remove a bias for each annotator and point.
    """
    annotations = np.array(annotations, np.float64)
    if annotations.ndim != 4 or annotations.shape[-1] != 2 or len(annotations) < 2:
        raise UserError(
            f"annotations have the shape {list(annotations.shape)}; give at least two annotators "
            "as [annotators, faces, points, 2]"
        )
    present = np.isfinite(annotations).all(-1)
    repeated = present & (present.sum(0) > 1)
    first = _mean(annotations, present)
    sizes, frame = face_sizes(first, layout), tangents(first, layout)
    useful = repeated.any((0, 2)) & np.isfinite(sizes)  # faces with repeated points and a size
    annotations, repeated, frame = annotations[:, useful], repeated[:, useful], frame[useful]
    annotations = annotations / sizes[useful, None, None]  # as shares of the size
    biases = np.zeros((len(annotations), annotations.shape[2], 2))
    for _ in range(ROUNDS if biased else 1):
        shifted = annotations - out_of_frame(biases[:, None], frame)
        away = shifted - _mean(shifted, repeated)
        raw = np.where(repeated[..., None], into_frame(away, frame), np.nan)
        if biased:
            biases += _mean(raw.swapaxes(0, 1), repeated.swapaxes(0, 1), otherwise=0)
            biases -= biases.mean(0)
    taken = biased * np.maximum(repeated.any(1).sum(0) - 1, 0)  # [P]
    total = np.maximum(repeated.sum(0) - 1, 0).sum(0)
    if (few := total - taken < FEWEST).any():
        raise UserError(
            f"point {few.argmax()} was annotated twice in too few faces to know its noise; "
            "annotate more faces, or leave the point out"
        )
    return Residuals(raw, biases, 1 - taken / total)


def _mean(values: np.ndarray, present: np.ndarray, otherwise: float = np.nan) -> np.ndarray:
    """The mean of the present values over the first axis: [A,...,2] -> [...,2]."""
    count = present.sum(0)[..., None]
    total = np.where(present[..., None], values, 0).sum(0)
    return np.where(count > 0, total / np.maximum(count, 1), otherwise)
