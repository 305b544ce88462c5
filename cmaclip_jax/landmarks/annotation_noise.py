"""A model of how annotators scatter around a face's points, fitted to repeated annotations.

This model is our own: the abstract of the paper does not describe the paper's noise model. The
noise of a point is bivariate, (along the contour, across it), in shares of the face's size. It is
Gaussian, or Student's t where rare large errors make the tails heavier. The mean over the
annotators of a face, the consensus, stands for its true points. The deviation of k annotators from
their own mean has only (k - 1) / k of the variance; the fit corrects for that.

The likelihood under Student's t: a bivariate t vector is a Gaussian vector with a random variance
v. The residual of one of k annotators from their mean then has the variance sum_a w_a^2 v_a, where
w is 1 - 1/k for this annotator and -1/k for the others. So the density of a residual is a mean of
Gaussian densities over random variances. The density depends on the length alone, so one table
serves all points.
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

FAMILIES = ("gaussian", "student")
LEVEL = 0.95  # of the confidence intervals
HELD_OUT = 0.3  # share of the faces that the families are compared on
RESAMPLES = 500  # of the bootstrap over faces
# Candidates for the degrees of freedom, a seventh apart; at 60 the t is almost a Gaussian.
FREEDOMS = np.geomspace(2.2, 60, 25)
LENGTHS = np.concatenate([[0], np.geomspace(1e-3, 150, 120)])  # squared, in variances
DRAWS = 6000  # random variances for each density


@dataclasses.dataclass(frozen=True)
class NoiseModel:
    """A fitted model. The first axis of an array is the point; an axis of 2 is (along, across).

    layout: the layout's name, '' for none.
    family: one of FAMILIES, chosen on held-out faces.
    deviations: [P,2] standard deviations.
    intervals: [P,2,2] confidence intervals of `deviations`; the last axis is (low, high).
    correlation: [P] between the errors along and across the contour.
    freedom: [P] degrees of freedom of Student's t, the largest of FREEDOMS where tails are light.
    biases: [P,A,2] offset of each annotator from the mean of all annotators.
    normality: [P,2] p-values of D'Agostino's test; a small one rejects the Gaussian.
    gain: log-likelihood of a held-out face under Student's t minus that under the Gaussian, and
        the standard error of that difference.
    faces: the number of faces in the fit.
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
        """Points with random annotation noise: [N,P,2] -> [N,P,2].

        annotators: [N] the annotator of each face, whose bias is added; None adds no bias.
        """
        points = np.asarray(points, np.float64)
        self.check_points(points.shape[1])
        noise = rng.standard_normal(points.shape)
        across = self.correlation * noise[..., 0]
        across += np.sqrt(1 - self.correlation**2) * noise[..., 1]
        noise = np.stack([noise[..., 0], across], -1) * self.deviations
        if self.family == "student":  # one factor for both coordinates
            squares = rng.chisquare(np.broadcast_to(self.freedom, noise.shape[:-1]))
            noise *= np.sqrt((self.freedom - 2) / squares)[..., None]  # the deviations stay
        if annotators is not None:
            noise += self.biases.swapaxes(0, 1)[np.asarray(annotators)]
        layout = next((known for known in LAYOUTS if known.name == self.layout), None)
        size = filled_sizes(points, layout)
        return points + out_of_frame(noise, tangents(points, layout)) * size

    def check_points(self, count: int) -> None:
        """Raises UserError if the model has another number of points."""
        if count != len(self.deviations):
            raise UserError(
                f"the noise is of {len(self.deviations)} points and the faces have {count}; fit "
                "it on annotations of these points"
            )

    def save(self, path: str | Path) -> None:
        """Writes the model as JSON with full precision; NaN becomes null."""
        fields = {name: _plain(value) for name, value in vars(self).items()}
        write_text(path, json.dumps(fields, indent=1, allow_nan=False) + "\n")


def load(path: str | Path) -> NoiseModel:
    """Reads a file that `NoiseModel.save` wrote."""
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
    """Fits a model to annotations [A,N,P,2] of A annotators on the same N faces; NaN is missing.

    biased: whether an annotator may have a constant offset per point; otherwise offsets are noise.
    level: of the confidence intervals.
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
    """The family, and the gain of t on held-out faces: its mean and standard error.

    Student's t must gain more than twice the standard error, as it can describe light tails too.
    """
    faces = residuals.values.shape[1]
    order = np.random.default_rng(seed).permutation(faces)
    held_out = max(2, round(HELD_OUT * faces))
    if faces - held_out < 3:
        return "gaussian", (float("nan"), float("nan"))
    train, test = residuals.of_faces(order[held_out:]), residuals.of_faces(order[:held_out])
    covariances = train.covariances()
    freedom = _freedoms(train, covariances, tables)
    gains = np.zeros(held_out)
    for point, covariance in enumerate(covariances):
        squares = _mahalanobis(test.values[:, :, point], covariance)  # [A, faces]
        number = int(np.flatnonzero(freedom[point] == FREEDOMS)[0])
        better = student_logs(squares, tables[number], FREEDOMS[number]) - gaussian_logs(squares)
        gains += np.nan_to_num(better).sum(0)
    gain, error = float(gains.mean()), float(gains.std(ddof=1) / np.sqrt(held_out))
    return FAMILIES[gain > 2 * error], (gain, error)


def _freedoms(residuals: Residuals, covariances: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """The most likely of FREEDOMS for every point, given its covariance: [P]."""
    best = []
    for point, covariance in enumerate(covariances):
        squares = _mahalanobis(residuals.values[:, :, point], covariance)
        squares = squares[np.isfinite(squares)]
        pairs = zip(tables, FREEDOMS, strict=True)
        best.append(np.argmax([student_logs(squares, *pair).sum() for pair in pairs]))
    return FREEDOMS[best]


def _mahalanobis(values: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Squared Mahalanobis distances from zero: [..., 2] -> [...]."""
    return np.einsum("...i,ij,...j", values, np.linalg.inv(covariance), values)


def _chi_square(residuals: Residuals, deviations: np.ndarray, level: float) -> np.ndarray:
    """Exact confidence intervals of Gaussian standard deviations: [P,2,2]."""
    freedom = residuals.freedom[:, None]
    tails = np.array([(1 + level) / 2, (1 - level) / 2])
    return deviations[..., None] * np.sqrt(freedom / chi2.ppf(tails, freedom))[:, None, :]


def _bootstrap(residuals: Residuals, level: float, seed: int) -> np.ndarray:
    """Confidence intervals from a bootstrap over faces: [P,2,2]."""
    tails = [(1 - level) / 2, (1 + level) / 2]
    return np.moveaxis(np.quantile(resampled(residuals, seed), tails, axis=0), 0, -1)


def resampled(residuals: Residuals, seed: int) -> np.ndarray:
    """Standard deviations in faces drawn with replacement, RESAMPLES times: [resamples,P,2]."""
    faces = residuals.values.shape[1]
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(faces, np.full(faces, 1 / faces), RESAMPLES)  # [resamples, faces]
    squares = np.nansum(residuals.raw**2, axis=0).reshape(faces, -1)
    sums = (drawn @ squares).reshape(RESAMPLES, -1, 2)
    freedom = drawn @ residuals.repeats * residuals.kept  # [resamples, P]
    return np.sqrt(sums / np.maximum(freedom, 1e-9)[..., None])


def _normality(residuals: Residuals) -> np.ndarray:
    """D'Agostino's p-values from one residual per face: residuals of a face are dependent."""
    first = np.isfinite(residuals.values[..., 0]).argmax(0)  # [N,P]: the first annotator present
    values = np.take_along_axis(residuals.values, first[None, ..., None], 0)[0]
    p_values = []
    for point in values.swapaxes(0, 1):
        own = point[np.isfinite(point).all(-1)]
        p_values.append(normaltest(own).pvalue if len(own) >= 20 else [np.nan, np.nan])
    return np.array(p_values)


def tabulate(counts: np.ndarray, seed: int) -> np.ndarray:
    """Log densities of residuals of covariance one: [freedoms, lengths].

    counts: [N,P] the number of annotators of a point of a face; draws follow its distribution.
    """
    rng = np.random.default_rng(seed)
    annotators = rng.choice(counts[counts > 1], DRAWS).astype(float)
    present = np.arange(counts.max()) < annotators[:, None]  # [draws, annotators]
    weights = np.where(present, 1 / annotators[:, None] ** 2, 0)
    weights[:, 0] = (1 - 1 / annotators) ** 2
    weights *= (annotators / (annotators - 1))[:, None]  # scaled to a variance of one
    tables = []
    for freedom in FREEDOMS:
        variances = (freedom - 2) / rng.chisquare(freedom, weights.shape)
        total = (weights * variances).sum(-1)
        densities = np.exp(-LENGTHS[:, None] / (2 * total)) / (2 * np.pi * total)
        tables.append(np.log(densities.mean(-1)))
    return np.array(tables)


def student_logs(squares: np.ndarray, table: np.ndarray, freedom: float) -> np.ndarray:
    """Log densities at squared lengths; beyond the table, those of the tail of t."""
    beyond = np.maximum(squares / LENGTHS[-1], 1)
    return np.interp(squares, LENGTHS, table) - (freedom / 2 + 1) * np.log(beyond)


def gaussian_logs(squares: np.ndarray) -> np.ndarray:
    """Log densities of a Gaussian of covariance one."""
    return -squares / 2 - np.log(2 * np.pi)


def _plain(value):
    """Arrays as nested lists, with None for NaN."""
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and np.isnan(value) else value
