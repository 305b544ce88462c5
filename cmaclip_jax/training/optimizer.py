"""AdamW with warm-up and cosine, and everything that rules say about single parameters."""

import re

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from cmaclip_jax.errors import UserError
from cmaclip_jax.parallel.rules import match_rules, path_name


def make_schedule(settings: ConfigDict) -> optax.Schedule:
    """From 0 up to the peak over the warm-up's share of the steps, then a cosine to 0.

    A share of less than one step is no warm-up: the first update has the peak rate.
    """
    warmup = int(settings.warmup * settings.steps)
    cosine = optax.cosine_decay_schedule(settings.learning_rate, max(settings.steps - warmup, 1))
    if not warmup:
        return cosine
    rise = optax.linear_schedule(0.0, settings.learning_rate, warmup)
    return optax.join_schedules([rise, cosine], [warmup])


def make_optimizer(settings: ConfigDict, params) -> optax.GradientTransformation:
    """The update rule of `config.train` for parameters of these paths and shapes.

    A frozen parameter has no moments, takes no part in the gradient's norm and is not
    decayed; the train step does not even differentiate it.
    """
    frozen = frozen_parameters(settings, params)
    decay = match_rules(settings.weight_decay, params, "train.weight_decay")
    rates = jax.tree.map(
        lambda rate, still: 0.0 if still else rate, rate_factors(settings, params), frozen
    )
    adam = clipped_adam(settings.clip, settings.b1, settings.b2, settings.epsilon)
    return optax.chain(
        optax.masked(adam, jax.tree.map(lambda still: not still, frozen)),
        optax.stateless(lambda updates, p: jax.tree.map(_decayed, updates, p, decay)),
        optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, rates)),
        optax.scale_by_learning_rate(make_schedule(settings)),
    )


def clipped_adam(clip: float, b1: float, b2: float, epsilon: float) -> optax.GradientTransformation:
    """`optax.clip_by_global_norm`, where `clip` is not 0, and `optax.scale_by_adam` behind it.

    The same numbers and the same state, so written that every parameter's step and moments are
    read from four arrays and written to three in a single pass. XLA for CPUs writes down, and
    reads again, whatever two results share; so the three of them share nothing here.
    """
    limit = optax.clip_by_global_norm(clip) if clip else optax.identity()
    init = optax.chain(limit, optax.scale_by_adam(b1, b2, epsilon)).init

    def update(gradients, state, params=None):
        del params
        limited, adam = state
        count = optax.safe_increment(adam.count)
        scale = _clipping(gradients, clip)
        first, second = (1 - decay**count for decay in (b1, b2))

        def mean_of(gradient, mean):
            return b1 * mean + gradient * ((1 - b1) * scale)

        def square_of(gradient, square):
            clipped = gradient * scale
            return b2 * square + (1 - b2) * (clipped * clipped)

        def direction(*moments):
            gradient, mean, square = _apart(*moments)
            root = jnp.sqrt(square_of(gradient, square) / second)
            return mean_of(gradient, mean) / first / (root + epsilon)

        new = optax.ScaleByAdamState(
            count=count,
            mu=jax.tree.map(mean_of, gradients, adam.mu),
            nu=jax.tree.map(square_of, gradients, adam.nu),
        )
        return jax.tree.map(direction, gradients, adam.mu, adam.nu), (limited, new)

    return optax.GradientTransformation(init, update)


def _clipping(gradients, clip: float):
    """What clipping multiplies all gradients with."""
    if not clip:
        return 1.0
    norm = optax.global_norm(gradients)
    return jnp.where(norm < clip, 1.0, clip / norm)


def _apart(*arrays):
    """The same arrays, but on a CPU no result of theirs is taken from an equal one of others."""
    return jax.lax.platform_dependent(
        *arrays, cpu=lambda *same: jax.lax.optimization_barrier(same), default=lambda *same: same
    )


def _decayed(update, param, factor):
    return update + factor * param


def frozen_parameters(settings: ConfigDict, params):
    """A tree of bools: which parameters `train.freeze` holds still."""
    rules = [*((regex, True) for regex in settings.freeze), (".*", False)]
    frozen = match_rules(rules, params, "train.freeze")
    if all(jax.tree.leaves(frozen)):
        raise UserError("train.freeze matches every parameter: nothing is left to learn")
    return frozen


def rate_factors(settings: ConfigDict, params):
    """What the learning rate is multiplied with, for every parameter: a float or an array."""
    factors = match_rules(settings.rates, params, "train.rates")
    decays = match_rules([*settings.layer_decay, (".*", 1.0)], params, "train.layer_decay")
    depths = tower_depths(params)

    def factor(path, leaf, rate, decay):
        return (
            rate if decay == 1.0 else rate * decay ** layers_from_end(path_name(path), leaf, depths)
        )

    return jax.tree_util.tree_map_with_path(factor, params, factors, decays)


def tower_depths(params) -> dict[str, int]:
    """How many layers each tower has, by its name.

    A tower's layers are stacked in `stack/blocks`. The last layer of sequence-wise attention is
    `last`, apart from its stack.
    """
    depths = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = path_name(path)
        tower, _, stacked = name.partition("/stack/blocks/")
        if stacked:
            depths.setdefault(tower, {})["stack"] = leaf.shape[0]
        tower, _, last = name.partition("/last/")
        if last:
            depths.setdefault(tower, {})["last"] = 1
    return {tower: sum(parts.values()) for tower, parts in depths.items()}


def layers_from_end(name: str, leaf, depths: dict[str, int]):
    """How many layers of its tower a parameter is from the tower's end.

    What follows the last layer is 0 away, the last layer 1, and what precedes the first layer
    one more than the tower has layers. For stacked layers this is an array along their axis.
    """
    tower = next((tower for tower in depths if name.startswith(f"{tower}/")), None)
    if tower is None:
        return 0
    depth = depths[tower]
    if name.startswith(f"{tower}/stack/blocks/"):
        return (depth - jnp.arange(leaf.shape[0])).reshape(-1, *[1] * (leaf.ndim - 1))
    if name.startswith(f"{tower}/last/"):
        return 1
    return 0 if re.fullmatch(r"[^/]+/(post_norm|norm|projection)/.*", name) else depth + 1
