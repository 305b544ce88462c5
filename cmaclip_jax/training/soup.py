"""A greedy soup: the average of a run's best checkpoints (Wortsman et al., 2022).

The parameters of one training at several steps often have an average that answers better than each
of them. The average costs nothing when it answers, because it has the size of one checkpoint.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from cmaclip_jax.files import whole_file
from cmaclip_jax.parallel.cluster import leads
from cmaclip_jax.training.frozen import learnt_part
from cmaclip_jax.training.saved_parameters import (
    best_steps,
    checkpoint_parameters,
    chosen_step,
    frozen_apart,
    soup_file,
)


def write_soup(
    workdir: Path,
    most: int,
    score: Callable[[Any], float | None],
    say: Callable[[str], None],
    frozen: Any = None,
) -> Any:
    """The soup of up to `most` judged checkpoints, kept beside the last one; None without any.

    The best checkpoint begins the soup. Each of the others, in the order of their scores, joins if
    the score of the average does not fall.

    score: gives the score of parameters that lie on the host. Every process computes the same
        soup, and the leader writes it.
    frozen: a tree of bools; the file of the soup leaves these parameters out if the checkpoints
        do.
    """
    newest = chosen_step(workdir)
    file = soup_file(workdir, newest)
    if leads():
        file.unlink(missing_ok=True)  # of a run that ended before with other settings
    soup, size, best = None, 0, -math.inf
    for step in best_steps(workdir, most):
        params = checkpoint_parameters(workdir, step)
        mixed = params if soup is None else _with_another(soup, size, params)
        reached = score(mixed)
        joins = reached is not None and reached >= best
        told = "no score" if reached is None else f"{reached:.4f}"
        what = f"      soup {'with' if size else 'of'} step {step:,}: {told}"
        say(what if joins else f"{what}, left out")
        if joins:
            soup, size, best = mixed, size + 1, reached
    if soup is None:
        if most:
            say("no checkpoint was judged on the way (eval.every, eval.watch): there is no soup")
        return None
    if leads():
        with whole_file(file) as part:
            kept = learnt_part(soup, frozen) if frozen_apart(workdir, newest) else soup
            np.savez(part, **flatten_dict(kept, sep="/"))
    say(f"the run answers with the mean of {size} checkpoint(s), {best:.4f}, kept in {file}")
    return soup


def _with_another(soup: Any, size: int, params: Any) -> Any:
    """The mean of `size` + 1 checkpoints, from the mean of `size` and one more."""
    return jax.tree.map(lambda mean, new: mean + (new - mean) / (size + 1), soup, params)
