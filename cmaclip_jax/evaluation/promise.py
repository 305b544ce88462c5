"""Which threshold can be promised to keep a precision: Learn then Test, with exact binomial tests.

Taking the best of all thresholds whose lower bound is above the target would break the promise:
the best of many is lucky. So the thresholds to test, and their order, are fixed by counts of
decisions, without a look at which are right, and the risk is spent once (Angelopoulos et al. 2021,
with the fallback procedure of Wiens 2003).
"""

import numpy as np
from scipy.stats import binom, nbinom

# A sequence of tests starts at the smallest count of accepted decisions that can pass with no
# error. One error there would end it, and of 45 decisions at 98 % precision one is wrong more often
# than not. So the sequence starts again at the smallest counts that can pass with 7 and 30 errors.
SPARED_ERRORS = (0, 7, 30)
STEP = 1.05  # each count is 5 % above the one before


def last_promised(correct, accepted, target: float, risk: float, minimum: int) -> int | None:
    """The last tested threshold whose precision is above `target`, wrongly so at most by `risk`.

    correct, accepted: counts at each threshold, from the highest down.

    Each start of a sequence brings a share of the risk. A test that passes hands on the risk that
    it had; one that fails loses it. A test passes if the Clopper-Pearson lower bound at its risk
    reaches the target.
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
    """The places of `accepted` to test, most confident first, and the risk that each brings."""
    total = accepted[-1] if len(accepted) else 0
    for number in range(len(SPARED_ERRORS), 0, -1):  # as many starts as there are decisions for
        spared = SPARED_ERRORS[:number]
        starts = [max(_fewest(errors, target, risk / number), minimum) for errors in spared]
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


def _fewest(errors: int, target: float, risk: float) -> float:
    """The fewest decisions that, with so many errors, still show a precision above `target`."""
    if target >= 1:
        return np.inf
    return errors + 1 + int(nbinom.isf(risk, errors + 1, 1 - target))
