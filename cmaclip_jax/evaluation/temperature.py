"""Temperature scaling: one number per task corrects confidence that is too high or too low."""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit, log_softmax, softmax

LIMITS = (1 / 20, 20)


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray, many: bool) -> float:
    """The temperature that makes the known labels most likely; 1 if there are no labels.

    probabilities: [N,C]. labels: [N], or [N,C] of a many-label task.
    """
    if not len(labels):
        return 1.0
    labels = labels.astype(int)
    scores = _scores(probabilities, many)
    signs = 2 * (labels > 0) - 1

    def loss(log_temperature):
        scaled = scores / np.exp(log_temperature)
        if many:
            return -np.mean(log_expit(signs * scaled))
        return -np.mean(log_softmax(scaled, axis=-1)[np.arange(len(labels)), labels])

    best = minimize_scalar(loss, bounds=np.log(LIMITS), method="bounded")
    return float(np.exp(best.x))


def scale(probabilities, temperature: float, many: bool) -> np.ndarray:
    """Probabilities at a temperature; a temperature above 1 makes them less confident.

    They are computed in float64 and rounded to float32, the type of the numbers in answers.
    """
    scores = _scores(np.asarray(probabilities), many) / temperature
    return (expit(scores) if many else softmax(scores, axis=-1)).astype(np.float32)


def _scores(probabilities: np.ndarray, many: bool) -> np.ndarray:
    """Log-probabilities, or logits of a many-label task: float64, always finite.

    A probability of 0 becomes the smallest number of its type. A probability of 1 becomes a number
    between 1 and the next smaller number of its type.
    """
    kind = np.finfo(probabilities.dtype)
    above_zero = np.maximum(probabilities.astype(np.float64), kind.tiny)
    if not many:
        return np.log(above_zero)
    return np.log(above_zero) - np.log(np.maximum(1 - above_zero, kind.eps / 4))
