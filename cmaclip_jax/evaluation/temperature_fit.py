"""The temperature of a task, fitted to known labels."""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_expit, log_softmax

from cmaclip_jax.evaluation.temperature import to_scores

LIMITS = (1 / 20, 20)


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray, many: bool) -> float:
    """The temperature that makes the known labels most likely; 1 if there are no labels.

    probabilities: [N,C]. labels: [N], or [N,C] of a many-label task.
    """
    if not len(labels):
        return 1.0
    labels = labels.astype(int)
    scores = to_scores(probabilities, many)
    signs = 2 * (labels > 0) - 1

    def loss(log_temperature):
        scaled = scores / np.exp(log_temperature)
        if many:
            return -np.mean(log_expit(signs * scaled))
        return -np.mean(log_softmax(scaled, axis=-1)[np.arange(len(labels)), labels])

    best = minimize_scalar(loss, bounds=np.log(LIMITS), method="bounded")
    return float(np.exp(best.x))
