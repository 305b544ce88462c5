"""Temperature scaling: one number per task corrects confidence that is too high or too low.

Exports contain a copy of this file, so it imports NumPy only.
"""

import numpy as np


def scale(probabilities, temperature: float, many: bool) -> np.ndarray:
    """Probabilities at a temperature; a temperature above 1 makes them less confident.

    They are computed in float64 and rounded to float32, the type of the numbers in answers.
    """
    scores = to_scores(np.asarray(probabilities), many) / temperature
    if many:
        scaled = np.exp(-np.logaddexp(0, -scores))
    else:
        scaled = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scaled /= scaled.sum(axis=-1, keepdims=True)
    return scaled.astype(np.float32)


def to_scores(probabilities: np.ndarray, many: bool) -> np.ndarray:
    """Log-probabilities, or logits of a many-label task: float64, always finite.

    A probability of 0 becomes the smallest number of its type. A probability of 1 becomes a number
    between 1 and the next smaller number of its type.
    """
    kind = np.finfo(probabilities.dtype)
    above_zero = np.maximum(probabilities.astype(np.float64), kind.tiny)
    if not many:
        return np.log(above_zero)
    return np.log(above_zero) - np.log(np.maximum(1 - above_zero, kind.eps / 4))
