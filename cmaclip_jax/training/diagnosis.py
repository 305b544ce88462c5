"""Names the tensor with which a run went bad, once it has."""

from collections.abc import Iterator

import flax.linen as nn
import jax
import numpy as np

from cmaclip_jax.models.objectives import Objective
from cmaclip_jax.parallel.rules import path_name


def diagnose(objective: Objective, params, opt_state, batch, rng) -> str:
    """What went wrong in a step from these parameters with this batch, in a few words.

    Looks in the order in which a step computes: parameters, the modules' outputs, the
    losses, the gradients. Where all of them are finite, it was a spike, and the gradient
    that has outgrown its own history most is named.
    """
    bad = next(_not_finite(params), None)
    if bad:
        return f"parameter {bad} is not finite"
    outputs, sums = _watched_loss(objective, params, batch, rng)
    if outputs:
        return f"the output of {outputs[0]} is not finite"
    bad = next(_not_finite(sums), None)
    if bad:
        return f"{bad.rsplit('/', 1)[0]} is not finite, though every module's output is"
    gradients = jax.jit(jax.grad(lambda p: objective.loss(p, batch, rng)[0]))(params)
    bad = next(_not_finite(gradients), None)
    if bad:
        return f"the gradient of {bad} is not finite"
    name, ratio = _largest_growth(gradients, opt_state)
    return f"the loss spiked; the gradient of {name} is {ratio:.0f} times what it used to be"


def _not_finite(tree) -> Iterator[str]:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not np.all(np.isfinite(jax.device_get(leaf))):
            yield path_name(path)


def _watched_loss(objective: Objective, params, batch, rng):
    """The modules whose outputs are not finite, first things first; and the loss's sums.

    Runs operation by operation: slow, and done once in a run's life.
    """
    seen: list[str] = []

    def watch(call, args, kwargs, context):
        result = call(*args, **kwargs)
        arrays = [x for x in jax.tree.leaves(result) if isinstance(x, jax.Array)]
        concrete = [x for x in arrays if not isinstance(x, jax.core.Tracer)]
        if context.method_name == "__call__" and not all(
            np.all(np.isfinite(np.asarray(x))) for x in concrete
        ):
            seen.append("/".join(context.module.path) or "the model")
        return result

    with jax.disable_jit(), nn.intercept_methods(watch):
        _, sums = objective.loss(params, batch, rng)
    return seen, sums


def _largest_growth(gradients, opt_state) -> tuple[str, float]:
    """The parameter whose gradient is largest against Adam's memory of it, and how much."""
    memory = {
        path_name(path).partition("/nu/")[2]: float(np.sqrt(np.sum(leaf)))
        for path, leaf in jax.tree_util.tree_leaves_with_path(opt_state)
        if "/nu/" in path_name(path)
    }
    growth = {
        path_name(path): float(np.linalg.norm(leaf)) / (memory[path_name(path)] + 1e-12)
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradients)
        if path_name(path) in memory
    }
    name = max(growth, key=growth.get)
    return name, growth[name]
