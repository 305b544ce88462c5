"""How annotators scatter about a face's points, learned from faces that several annotated.

Our own reconstruction: of the paper we know that it models the noise of annotations, not how.
A point's noise is bivariate, in the frame of its contour (along it, across it) and as a share
of the face's size: Gaussian, or Student's t where rare large slips make its tails heavier.
Only repeated annotations tell noise from faces, so every face's truth is its consensus, and
what k annotators lose to their own mean, (k - 1) / k of the variance, is put back.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
from scipy.stats import chi2, normaltest

from cmaclip_jax.errors import UserError
from cmaclip_jax.files import write_text
from cmaclip_jax.landmarks.consensus import Residuals, residuals_of
from cmaclip_jax.landmarks.contour import out_of_frame, tangents
from cmaclip_jax.landmarks.corruption import filled_sizes
from cmaclip_jax.landmarks.layouts import LAYOUTS, Layout
from cmaclip_jax.landmarks.residual_likelihood import (
    FREEDOMS,
    gaussian_logs,
    student_logs,
    tabulate,
)

FAMILIES = ("gaussian", "student")
LEVEL = 0.95  # of the confidence intervals
HELD_OUT = 0.3  # share of the faces that choose between the families
RESAMPLES = 500  # of the bootstrap over faces


@dataclasses.dataclass(frozen=True)
class NoiseModel:
    """What `fit` found; the first axis of its arrays is the point, the last (along, across).

    layout: the layout's name, '' for none.
    family: one of FAMILIES, chosen by held-out faces.
    deviations: [P,2] standard deviations.
    intervals: [P,2,2] of them, at the level that `fit` was given; the last axis is (low, high).
    correlation: [P] of the two.
    freedom: [P] degrees of freedom of Student's t, the largest of FREEDOMS where tails are light.
    biases: [P,A,2] how far an annotator is off the mean of all, which itself may be off.
    normality: [P,2] p-values of D'Agostino's test; small ones speak against a Gaussian.
    gain: by how much Student's t explains a held-out face better (log-likelihood), and its
        standard error.
    faces: how many faces were used.
    """

    layout: str
    family: str
    deviations: np.ndarray
    intervals: np.ndarray
    correlation: np.ndarray
    freedom: np.ndarray
    biases: np.ndarray
    normality: np.ndarray
    gain: tuple[float, float]
    faces: int

    def sample(self, rng: np.random.Generator, points, annotators=None) -> np.ndarray:
        """Faces as somebody would annotate them: [N,P,2] -> [N,P,2].

        annotators: [N] whose biases come on top; None for none.
        """
        points = np.asarray(points, np.float64)
        self.check_points(points.shape[1])
        noise = rng.standard_normal(points.shape)
        across = self.correlation * noise[..., 0]
        across += np.sqrt(1 - self.correlation**2) * noise[..., 1]
        noise = np.stack([noise[..., 0], across], -1) * self.deviations
        if self.family == "student":  # the same stretch for both coordinates
            squares = rng.chisquare(np.broadcast_to(self.freedom, noise.shape[:-1]))
            noise *= np.sqrt((self.freedom - 2) / squares)[..., None]  # keeps the deviations
        if annotators is not None:
            noise += self.biases.swapaxes(0, 1)[np.asarray(annotators)]
        layout = next((known for known in LAYOUTS if known.name == self.layout), None)
        size = filled_sizes(points, layout)
        return points + out_of_frame(noise, tangents(points, layout)) * size

    def check_points(self, count: int) -> None:
        """UserError where faces of so many points cannot have this noise."""
        if count != len(self.deviations):
            raise UserError(
                f"the noise is of {len(self.deviations)} points and the faces have {count}; fit "
                "it on annotations of these points"
            )

    def save(self, path: str | Path) -> None:
        """Writes it as JSON, every number in full; NaN becomes null."""
        fields = {name: _plain(value) for name, value in vars(self).items()}
        write_text(path, json.dumps(fields, indent=1, allow_nan=False) + "\n")


def load(path: str | Path) -> NoiseModel:
    """What `NoiseModel.save` wrote."""
    try:
        fields = json.loads(Path(path).read_text())
        types = {field.name: field.type for field in dataclasses.fields(NoiseModel)}
        arrays = {
            name: np.array(value, np.float64) if types[name] is np.ndarray else value
            for name, value in fields.items()
        }
        gain = tuple(np.nan if value is None else value for value in fields["gain"])
        return NoiseModel(**arrays | {"gain": gain})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no saved model of annotation noise; save it again") from error


def fit(
    annotations, layout: Layout | None, biased: bool = True, seed: int = 0, level: float = LEVEL
) -> NoiseModel:
    """The noise of annotations [A,N,P,2]: A annotators, the same N faces, NaN where missing.

    biased: whether every annotator may have a constant offset per point. Without, it counts
        as noise.
    """
    residuals = residuals_of(annotations, layout, biased)
    covariances = residuals.covariances()
    if (flat := ~(np.linalg.det(covariances) > 0)).any():
        raise UserError(
            f"all annotators agree on point {flat.argmax()} to the last digit; give every "
            "annotator's own points"
        )
    tables = tabulate(residuals.counts, seed)
    family, gain = _choose(residuals, tables, seed)
    deviations = np.sqrt(np.diagonal(covariances, axis1=-2, axis2=-1))
    intervals = (
        _chi_square(residuals, deviations, level)
        if family == "gaussian"
        else _bootstrap(residuals, level, seed)
    )
    return NoiseModel(
        layout=layout.name if layout else "",
        family=family,
        deviations=deviations,
        intervals=intervals,
        correlation=covariances[:, 0, 1] / deviations.prod(-1),
        freedom=_freedoms(residuals, covariances, tables),
        biases=residuals.biases.swapaxes(0, 1),
        normality=_normality(residuals),
        gain=gain,
        faces=residuals.values.shape[1],
    )


def _choose(residuals: Residuals, tables: np.ndarray, seed: int):
    """The family, and how much better t explains the held-out faces: mean and standard error.

    Heavy tails are believed only if the gain is twice its error: t has light tails too.
    """
    faces = residuals.values.shape[1]
    order = np.random.default_rng(seed).permutation(faces)
    held = max(2, round(HELD_OUT * faces))
    if faces - held < 3:
        return "gaussian", (float("nan"), float("nan"))
    train, test = residuals.of_faces(order[held:]), residuals.of_faces(order[:held])
    covariances = train.covariances()
    freedom = _freedoms(train, covariances, tables)
    gains = np.zeros(held)
    for point, covariance in enumerate(covariances):
        squares = _mahalanobis(test.values[:, :, point], covariance)  # [A, faces]
        number = int(np.flatnonzero(freedom[point] == FREEDOMS)[0])
        better = student_logs(squares, tables[number], FREEDOMS[number]) - gaussian_logs(squares)
        gains += np.nan_to_num(better).sum(0)
    gain, error = float(gains.mean()), float(gains.std(ddof=1) / np.sqrt(held))
    return FAMILIES[gain > 2 * error], (gain, error)


def _freedoms(residuals: Residuals, covariances: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """The likeliest of FREEDOMS for every point, its covariance given: [P]."""
    best = []
    for point, covariance in enumerate(covariances):
        squares = _mahalanobis(residuals.values[:, :, point], covariance)
        squares = squares[np.isfinite(squares)]
        pairs = zip(tables, FREEDOMS, strict=True)
        best.append(np.argmax([student_logs(squares, *pair).sum() for pair in pairs]))
    return FREEDOMS[best]


def _mahalanobis(values: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Squared distances from zero in standard deviations: [..., 2] -> [...]."""
    return np.einsum("...i,ij,...j", values, np.linalg.inv(covariance), values)


def _chi_square(residuals: Residuals, deviations: np.ndarray, level: float) -> np.ndarray:
    """Intervals of Gaussian standard deviations, exact: [P,2,2]."""
    freedom = residuals.freedom[:, None]
    tails = np.array([(1 + level) / 2, (1 - level) / 2])
    return deviations[..., None] * np.sqrt(freedom / chi2.ppf(tails, freedom))[:, None, :]


def _bootstrap(residuals: Residuals, level: float, seed: int) -> np.ndarray:
    """Intervals from faces drawn again with replacement: [P,2,2]."""
    tails = [(1 - level) / 2, (1 + level) / 2]
    return np.moveaxis(np.quantile(redrawn(residuals, seed), tails, axis=0), 0, -1)


def redrawn(residuals: Residuals, seed: int) -> np.ndarray:
    """Deviations of faces drawn again with replacement, many times: [resamples,P,2]."""
    faces = residuals.values.shape[1]
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(faces, np.full(faces, 1 / faces), RESAMPLES)  # [resamples, faces]
    squares = np.nansum(residuals.raw**2, axis=0).reshape(faces, -1)
    found = (drawn @ squares).reshape(RESAMPLES, -1, 2)
    freedom = drawn @ residuals.repeats * residuals.kept  # [resamples, P]
    return np.sqrt(found / np.maximum(freedom, 1e-9)[..., None])


def _normality(residuals: Residuals) -> np.ndarray:
    """D'Agostino's p-values over one residual a face, as those of a face depend on each other."""
    first = np.isfinite(residuals.values[..., 0]).argmax(0)  # [N,P]: an annotator who was there
    values = np.take_along_axis(residuals.values, first[None, ..., None], 0)[0]
    found = []
    for point in values.swapaxes(0, 1):
        own = point[np.isfinite(point).all(-1)]
        found.append(normaltest(own).pvalue if len(own) >= 20 else [np.nan, np.nan])
    return np.array(found)


def _plain(value):
    """Arrays as lists, with None for NaN."""
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and np.isnan(value) else value
