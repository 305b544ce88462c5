"""AdamW with warm-up and cosine decay, and the rules for single parameters."""

import re

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from cmaclip_jax.errors import UserError
from cmaclip_jax.models.adapters import has_adapters, is_of_adapter, is_of_base
from cmaclip_jax.parallel.rules import match_rules, path_name
from cmaclip_jax.training.cpu_adamw import clipped_adam


def make_schedule(settings: ConfigDict) -> optax.Schedule:
    """A linear warm-up from 0 to the peak rate, then a cosine decay to 0.

    `warmup` is a share of the steps. With less than one step of warm-up, the first update has the
    peak rate.
    """
    warmup = int(settings.warmup * settings.steps)
    cosine = optax.cosine_decay_schedule(settings.learning_rate, max(settings.steps - warmup, 1))
    if not warmup:
        return cosine
    rise = optax.linear_schedule(0.0, settings.learning_rate, warmup)
    return optax.join_schedules([rise, cosine], [warmup])


def make_optimizer(settings: ConfigDict, params) -> optax.GradientTransformation:
    """The update rule of `config.train` for parameters of these paths and shapes.

    A frozen parameter has no moments, no part in the gradient's norm and no weight decay; the
    train step does not compute its gradient.
    """
    frozen = frozen_parameters(settings, params)
    decay = match_rules(settings.weight_decay, params, "train.weight_decay")
    rates = jax.tree.map(
        lambda rate, is_frozen: 0.0 if is_frozen else rate, rate_factors(settings, params), frozen
    )
    adam = clipped_adam(settings.clip, settings.b1, settings.b2, settings.epsilon)
    return optax.chain(
        optax.masked(adam, jax.tree.map(lambda is_frozen: not is_frozen, frozen)),
        optax.stateless(lambda updates, p: jax.tree.map(_decayed, updates, p, decay)),
        optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, rates)),
        optax.scale_by_learning_rate(make_schedule(settings)),
    )


def _decayed(update, param, factor):
    return update + factor * param


def frozen_parameters(settings: ConfigDict, params):
    """A tree of bools: which parameters `train.freeze` freezes.

    The encoders' own parameters are frozen too where there are adapters.
    """
    rules = [*((regex, True) for regex in settings.freeze), (".*", False)]
    frozen = match_rules(rules, params, "train.freeze")
    if has_adapters(params):
        _check_adapters_learn(frozen)
        frozen = jax.tree_util.tree_map_with_path(
            lambda path, is_frozen: is_frozen or is_of_base(path_name(path)), frozen
        )
    if all(jax.tree.leaves(frozen)):
        raise UserError("train.freeze matches every parameter: nothing is left to learn")
    return frozen


def _check_adapters_learn(frozen) -> None:
    """Raises UserError where `train.freeze` freezes every adapter."""
    leaves = jax.tree_util.tree_leaves_with_path(frozen)
    if all(is_frozen for path, is_frozen in leaves if is_of_adapter(path_name(path))):
        raise UserError(
            "train.freeze freezes every adapter; leave it out: with model.lora the encoders "
            "themselves do not learn"
        )


def rate_factors(settings: ConfigDict, params):
    """The factor of the learning rate of every parameter; an array for stacked layers."""
    factors = match_rules(settings.rates, params, "train.rates")
    decays = match_rules([*settings.layer_decay, (".*", 1.0)], params, "train.layer_decay")
    depths = tower_depths(params)

    def factor(path, leaf, rate, decay):
        return (
            rate if decay == 1.0 else rate * decay ** layers_from_end(path_name(path), leaf, depths)
        )

    return jax.tree_util.tree_map_with_path(factor, params, factors, decays)


def tower_depths(params) -> dict[str, int]:
    """{tower: number of layers}.

    The layers of a tower are stacked in `stack/blocks`. Sequence-wise attention has its last layer
    in `last`, outside the stack.
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
    """The distance of a parameter from the end of its tower, in layers.

    Parameters after the last layer have distance 0, the last layer has 1, and parameters before
    the first layer have the number of layers plus 1. Stacked layers have an array of distances.
    """
    tower = next((tower for tower in depths if name.startswith(f"{tower}/")), None)
    if tower is None:
        return 0
    depth = depths[tower]
    if name.startswith(f"{tower}/stack/blocks/"):
        return (depth - jnp.arange(leaf.shape[0])).reshape(-1, *[1] * (leaf.ndim - 1))
    if name.startswith(f"{tower}/last/"):
        return 1
    return 0 if re.fullmatch(r"[^/]+/(post_norm|norm|pool|projection)/.*", name) else depth + 1
