"""The threshold whose precision can be promised: Learn then Test, with exact binomial tests.

The best of all thresholds with a lower bound above the target would break the promise, because the
best of many has been lucky. So the tested thresholds and their order depend on the counts of
decisions alone, not on which decisions are right, and the tests share the risk (Angelopoulos et
al. 2021, with the fallback procedure of Wiens 2003).
"""

import numpy as np
from scipy.stats import binom, nbinom

# A sequence of tests starts at the smallest count of accepted decisions that passes with no error.
# One error there ends the sequence, and of 45 decisions at 98 % precision one is probably wrong. So
# the sequence starts again at the smallest counts that pass with 7 and with 30 errors.
SPARED_ERRORS = (0, 7, 30)
STEP = 1.05  # each count is 5 % above the one before


def last_promised(correct, accepted, target: float, risk: float, minimum: int) -> int | None:
    """The place of the last threshold that passes; None if none does.

    correct, accepted: counts at each threshold, from the highest threshold down.
    risk: the largest probability that the true precision there is below `target`.

    Each start of the sequence adds a share of the risk. A test that passes gives its risk to the
    next test; the risk of a test that fails is lost. A test passes if the Clopper-Pearson lower
    bound at its risk reaches the target.
    """
    shares = _tested_places(accepted, target, risk, minimum)
    places = np.fromiter(shares, int)
    chances = binom.sf(correct[places] - 1, accepted[places], target)
    last, carried = None, 0.0
    for place, chance in zip(places, chances, strict=True):
        carried += shares[place]
        last, carried = (place, carried) if chance <= carried else (last, 0.0)
    return last


def _tested_places(accepted, target: float, risk: float, minimum: int) -> dict[int, float]:
    """{place in `accepted`: risk that is added there}, for each test, most confident first."""
    total = accepted[-1] if len(accepted) else 0
    for number in range(len(SPARED_ERRORS), 0, -1):  # as many starts as there are decisions for
        spared = SPARED_ERRORS[:number]
        starts = [
            max(fewest_decisions(errors, target, risk / number), minimum) for errors in spared
        ]
        if starts[-1] <= total:
            break
    counts = [starts[0]]
    while counts[-1] < total:
        counts.append(min(max(counts[-1] + 1, int(counts[-1] * STEP)), total))
    counts = sorted({*counts, *starts})
    shares: dict[int, float] = {}
    for count in counts:
        place = int(np.searchsorted(accepted, count))  # equal confidences are accepted together
        if place < len(accepted):
            shares[place] = shares.get(place, 0.0) + starts.count(count) * risk / len(starts)
    return shares


def fewest_decisions(errors: int, target: float, risk: float) -> float:
    """The smallest number of decisions that passes the test with this many errors."""
    if target >= 1:
        return np.inf
    return errors + 1 + int(nbinom.isf(risk, errors + 1, 1 - target))
