"""Names the first tensor that is not finite, after a bad step."""

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
    """A sentence about what went wrong in a step with these parameters and this batch.

    Tensors are checked in the order in which a step computes them: parameters, outputs of modules,
    losses, gradients. If all are finite, the loss spiked, and the sentence names the gradient that
    grew most relative to its own history.

    If the step accumulates over parts of the batch, the parts are checked one after the other, as
    the whole batch may not fit into memory. With several hosts, every host has to call this; all
    return the same sentence.

    settings: `config.train`.
    """
    bad = _not_finite(params)
    if bad:
        return f"parameter {bad} is not finite"
    for part, part_rng in _parts(batch, rng, settings.accumulate):
        outputs, sums = _inspected_loss(objective, params, part, part_rng)
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
    """The parts of a batch over which a step accumulates, each with its random key."""
    if parts == 1:
        yield batch, rng
        return

    @jax.jit
    def part_of(batch: Batch, index):
        return jax.tree.map(lambda x: interleaved_parts(x, parts)[index], batch)

    for index in range(parts):
        yield part_of(batch, index), jax.random.fold_in(rng, index)


def _not_finite(tree) -> str:
    """The path of the first array in a tree that is not finite; '' if all are."""
    finite = jax.jit(lambda tree: jax.tree.map(_is_finite, tree))(tree)
    paths = jax.tree_util.tree_leaves_with_path(jax.device_get(finite))
    return next((path_name(path) for path, finite in paths if not finite), "")


def _is_finite(array) -> jax.Array:
    """Whether an array is finite: a single value, which every host can read."""
    return jnp.all(jnp.isfinite(array))


def _inspected_loss(objective: Objective, params, batch: Batch, rng):
    """The modules whose outputs are not finite, in order of computation; and the sums of the loss.

    It runs one operation at a time, which is slow, but it runs once at most.
    """
    bad: list[str] = []

    def record(call, args, kwargs, context):
        result = call(*args, **kwargs)
        arrays = [x for x in jax.tree.leaves(result) if isinstance(x, jax.Array)]
        concrete = [x for x in arrays if not isinstance(x, jax.core.Tracer)]
        if context.method_name == "__call__" and not all(map(_is_finite, concrete)):
            bad.append("/".join(context.module.path) or "the model")
        return result

    with jax.disable_jit(), nn.intercept_methods(record):
        _, sums = objective.loss(params, batch, rng)
    return bad, sums


def _largest_growth(gradients, opt_state) -> tuple[str, float]:
    """The parameter whose gradient is largest relative to Adam's second moment; and the ratio."""
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
