"""Names the tensor with which a run went bad, once it has."""

from collections.abc import Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from cmaclip_jax.models.objectives import Batch, Objective
from cmaclip_jax.parallel.rules import path_name
from cmaclip_jax.training.optimizer import frozen_parameters
from cmaclip_jax.training.step import accumulate, interleaved_parts


def diagnose(
    objective: Objective, settings: ConfigDict, params, opt_state, batch: Batch, rng
) -> str:
    """What went wrong in a step from these parameters with this batch, in a few words.

    Looks in the order in which a step computes: parameters, the modules' outputs, the
    losses, the gradients. Where all of them are finite, it was a spike, and the gradient
    that has outgrown its own history most is named.

    A batch that the step takes in parts is looked at in the same parts, one after the other: the
    whole may not fit into memory. Several hosts look together and say the same, so every host
    has to call this.

    settings: `config.train`.
    """
    bad = _not_finite(params)
    if bad:
        return f"parameter {bad} is not finite"
    for part, part_rng in _parts(batch, rng, settings.accumulate):
        outputs, sums = _watched_loss(objective, params, part, part_rng)
        if outputs:
            return f"the output of {outputs[0]} is not finite"
        bad = _not_finite(sums)
        if bad:
            return f"{bad.rsplit('/', 1)[0]} is not finite, though every module's output is"
    frozen = frozen_parameters(settings, params)
    _, _, gradients = jax.jit(
        lambda params, batch: accumulate(objective, frozen, params, batch, rng, settings.accumulate)
    )(params, batch)
    bad = _not_finite(gradients)
    if bad:
        return f"the gradient of {bad} is not finite"
    name, ratio = _largest_growth(gradients, opt_state)
    return f"the loss spiked; the gradient of {name} is {ratio:.0f} times what it used to be"


def _parts(batch: Batch, rng, parts: int) -> Iterator[tuple[Batch, jax.Array]]:
    """The parts in which a step takes a batch, each with its randomness."""
    if parts == 1:
        yield batch, rng
        return

    @jax.jit
    def part_of(batch: Batch, index):
        return jax.tree.map(lambda x: interleaved_parts(x, parts)[index], batch)

    for index in range(parts):
        yield part_of(batch, index), jax.random.fold_in(rng, index)


def _not_finite(tree) -> str:
    """The path of the first array in a tree that is not finite; '' where all are."""
    finite = jax.jit(lambda tree: jax.tree.map(_is_finite, tree))(tree)
    paths = jax.tree_util.tree_leaves_with_path(jax.device_get(finite))
    return next((path_name(path) for path, fine in paths if not fine), "")


def _is_finite(array) -> jax.Array:
    """Whether all of an array is finite: one value, which every host of several can read."""
    return jnp.all(jnp.isfinite(array))


def _watched_loss(objective: Objective, params, batch: Batch, rng):
    """The modules whose outputs are not finite, first things first; and the loss's sums.

    Runs operation by operation: slow, and done once in a run's life.
    """
    seen: list[str] = []

    def watch(call, args, kwargs, context):
        result = call(*args, **kwargs)
        arrays = [x for x in jax.tree.leaves(result) if isinstance(x, jax.Array)]
        concrete = [x for x in arrays if not isinstance(x, jax.core.Tracer)]
        if context.method_name == "__call__" and not all(map(_is_finite, concrete)):
            seen.append("/".join(context.module.path) or "the model")
        return result

    with jax.disable_jit(), nn.intercept_methods(watch):
        _, sums = objective.loss(params, batch, rng)
    return seen, sums


def _largest_growth(gradients, opt_state) -> tuple[str, float]:
    """The parameter whose gradient is largest against Adam's memory of it, and how much."""
    lengths = jax.jit(lambda tree: jax.tree.map(lambda x: jnp.sqrt(jnp.sum(x**2)), tree))
    roots = jax.jit(lambda tree: jax.tree.map(lambda x: jnp.sqrt(jnp.sum(x)), tree))
    memory = {
        path_name(path).partition("/nu/")[2]: float(root)
        for path, root in jax.tree_util.tree_leaves_with_path(jax.device_get(roots(opt_state)))
        if "/nu/" in path_name(path)
    }
    growth = {
        path_name(path): float(length) / (memory[path_name(path)] + 1e-12)
        for path, length in jax.tree_util.tree_leaves_with_path(jax.device_get(lengths(gradients)))
        if path_name(path) in memory
    }
    name = max(growth, key=growth.get)
    return name, growth[name]
