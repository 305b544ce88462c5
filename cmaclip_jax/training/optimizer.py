"""AdamW with warm-up and cosine, and everything that rules say about single parameters."""

import re

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from cmaclip_jax.errors import UserError
from cmaclip_jax.parallel.rules import match_rules, path_name


def make_schedule(settings: ConfigDict) -> optax.Schedule:
    """From 0 up to the peak over the warm-up's share of the steps, then a cosine to 0."""
    warmup = max(1, int(settings.warmup * settings.steps))
    return optax.warmup_cosine_decay_schedule(
        0.0, settings.learning_rate, warmup, max(settings.steps, warmup + 1)
    )


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
    clip = optax.clip_by_global_norm(settings.clip) if settings.clip else optax.identity()
    adam = optax.scale_by_adam(settings.b1, settings.b2, settings.epsilon)
    return optax.chain(
        optax.masked(optax.chain(clip, adam), jax.tree.map(lambda still: not still, frozen)),
        optax.stateless(lambda updates, p: jax.tree.map(_decayed, updates, p, decay)),
        optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, rates)),
        optax.scale_by_learning_rate(make_schedule(settings)),
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
        return rate if decay == 1.0 else rate * decay ** layers_above(path_name(path), leaf, depths)

    return jax.tree_util.tree_map_with_path(factor, params, factors, decays)


def tower_depths(params) -> dict[str, int]:
    """How many stacked layers each tower has, by its name."""
    depths = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        tower, _, rest = path_name(path).partition("/stack/blocks/")
        if rest:
            depths[tower] = leaf.shape[0]
    return depths


def layers_above(name: str, leaf, depths: dict[str, int]):
    """How many layers of its tower lie above a parameter, 0 for what follows the last one.

    For the stacked parameters of a tower's blocks this is an array along their layer axis.
    """
    tower = next((tower for tower in depths if name.startswith(f"{tower}/")), None)
    if tower is None:
        return 0
    if name.startswith(f"{tower}/stack/blocks/"):
        above = jnp.arange(depths[tower] - 1, -1, -1) + 1
        return above.reshape(-1, *[1] * (leaf.ndim - 1))
    return 0 if re.fullmatch(r".*/(post_norm|norm|projection)/.*", name) else depths[tower] + 1
