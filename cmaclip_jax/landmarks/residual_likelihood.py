"""How likely residuals from a mean are, if annotators scatter like Student's t.

Our own derivation. A vector of bivariate t is a Gaussian one with a random variance v. What
k annotators leave behind their mean is then Gaussian too with the variance sum_a w_a^2 v_a,
where w is 1 - 1/k for the annotator and -1/k for the others. So the density of residuals is
a mean of Gaussian densities over drawn variances: not a t, but as surely computed. It depends
on the length alone, and is tabulated once for all points.
"""

import numpy as np

# Degrees of freedom that are told apart, one step being a seventh; at 60 it is near a Gaussian.
FREEDOMS = np.geomspace(2.2, 60, 25)
LENGTHS = np.concatenate([[0], np.geomspace(1e-3, 150, 120)])  # squared, in variances
DRAWS = 6000


def tabulate(counts: np.ndarray, seed: int) -> np.ndarray:
    """Log densities of residuals of covariance one: [freedoms, lengths].

    counts: [N,P] how many annotators a residual is from; drawn from as they occur.
    """
    rng = np.random.default_rng(seed)
    annotators = rng.choice(counts[counts > 1], DRAWS).astype(float)
    here = np.arange(counts.max()) < annotators[:, None]  # [draws, annotators]
    weights = np.where(here, 1 / annotators[:, None] ** 2, 0)
    weights[:, 0] = (1 - 1 / annotators) ** 2
    weights *= (annotators / (annotators - 1))[:, None]  # stretched to the variance of one
    tables = []
    for freedom in FREEDOMS:
        variances = (freedom - 2) / rng.chisquare(freedom, weights.shape)
        total = (weights * variances).sum(-1)
        densities = np.exp(-LENGTHS[:, None] / (2 * total)) / (2 * np.pi * total)
        tables.append(np.log(densities.mean(-1)))
    return np.array(tables)


def student_logs(squares: np.ndarray, table: np.ndarray, freedom: float) -> np.ndarray:
    """Log densities at squared lengths; beyond the table as the tail of t falls."""
    beyond = np.maximum(squares / LENGTHS[-1], 1)
    return np.interp(squares, LENGTHS, table) - (freedom / 2 + 1) * np.log(beyond)


def gaussian_logs(squares: np.ndarray) -> np.ndarray:
    """Log densities of a Gaussian of covariance one."""
    return -squares / 2 - np.log(2 * np.pi)
