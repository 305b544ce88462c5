"""What is left of repeated annotations when their consensus is taken away.

Our own reconstruction of how annotation noise can be told from the faces themselves.
"""

import dataclasses

import numpy as np

from cmaclip_jax.errors import UserError
from cmaclip_jax.landmarks.contour import into_frame, out_of_frame, tangents
from cmaclip_jax.landmarks.layouts import Layout
from cmaclip_jax.landmarks.metrics import face_sizes

ROUNDS = 20  # of biases given the consensus and back; one is enough if nothing is missing
FEWEST = 3  # repeats that a point needs


@dataclasses.dataclass(frozen=True)
class Residuals:
    """Annotations less the consensus, as shares of the size, as (along, across) the contour.

    raw: [A,N,P,2] as they are, NaN where missing or alone.
    biases: [A,P,2] what an annotator is off the mean of all; taken out of `raw`.
    kept: [P] share of the degrees of freedom that the biases left.
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
        """How many annotators met at a point: [N,P], 0 or at least 2."""
        return self.present.sum(0)

    @property
    def repeats(self) -> np.ndarray:
        """Annotations beyond the one that the consensus takes: [N,P]."""
        return np.maximum(self.counts - 1, 0)

    @property
    def freedom(self) -> np.ndarray:
        """Degrees of freedom of a point's variance: [P]."""
        return self.repeats.sum(0) * self.kept

    @property
    def values(self) -> np.ndarray:
        """Residuals stretched to the variance of the annotations: [A,N,P,2]."""
        counts = np.maximum(self.counts, 2)
        return self.raw * np.sqrt(counts / (counts - 1) / self.kept)[..., None]

    def covariances(self) -> np.ndarray:
        """Of the annotations, unbiased: [P,2,2]."""
        known = np.nan_to_num(self.raw)
        return np.einsum("anpi,anpj->pij", known, known) / self.freedom[:, None, None]

    def of_faces(self, faces: np.ndarray) -> "Residuals":
        """Those of some faces; the biases are those of all."""
        return Residuals(self.raw[:, faces], self.biases, self.kept)


def residuals_of(annotations, layout: Layout | None, biased: bool) -> Residuals:
    """Residuals of annotations [A,N,P,2] from every face's mean, NaN where missing."""
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
    seen = repeated.any((0, 2)) & np.isfinite(sizes)  # faces that say something
    annotations, repeated, frame = annotations[:, seen], repeated[:, seen], frame[seen]
    annotations = annotations / sizes[seen, None, None]  # as shares of the size
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
    """The mean over the first axis of what is present: [A,...,2] -> [...,2]."""
    count = present.sum(0)[..., None]
    total = np.where(present[..., None], values, 0).sum(0)
    return np.where(count > 0, total / np.maximum(count, 1), otherwise)
