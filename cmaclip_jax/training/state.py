"""The state of a training: what one step leaves for the next, created on its devices."""

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh

from cmaclip_jax.models.objectives import Objective
from cmaclip_jax.parallel.rules import tree_shardings
from cmaclip_jax.training.frozen import joined, learnt_part, leaves_like
from cmaclip_jax.weights.fit import fit


@flax.struct.dataclass
class TrainState:
    """
    step: updates made so far; batches are counted from 0, so also the number of the next batch.
    ema: averages of the parameters that learn, or None where no average is kept.
    loss_average: a running mean of the loss, against which spikes are detected.
    bad: a loss spiked or was not finite. From that step on nothing else in the state changes, so
        the rest of it is the last good state.
    """

    step: jax.Array
    params: Any
    opt_state: optax.OptState
    ema: Any
    loss_average: jax.Array
    bad: jax.Array

    @property
    def best_params(self):
        """The parameters to evaluate: the averaged ones, if an average is kept."""
        return self.params if self.ema is None else joined(self.params, self.ema)


def seed_argument(seed: int) -> np.ndarray:
    """A seed as an argument of a compiled program: runs with other seeds use the same program."""
    return np.asarray(seed).astype(np.int32)


def state_template(objective: Objective, optimizer, batch, ema: bool, frozen=None):
    """`(init, shapes)`: `init(seed)` makes the state; the shapes are those of that state.

    ema: whether an average is kept, of the parameters that are not `frozen`.
    """

    def init(seed) -> TrainState:
        params = objective.init(jax.random.key(seed), batch)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=optimizer.init(params),
            ema=jax.tree.map(jnp.copy, learnt_part(params, frozen)) if ema else None,
            loss_average=jnp.zeros(()),
            bad=jnp.zeros((), bool),
        )

    return init, jax.eval_shape(init, seed_argument(0))


def start_from(state: TrainState, pretrained) -> tuple[TrainState, list[str]]:
    """The state with pretrained parameters instead of random ones; and lines that describe them."""
    params, lines = replace_parameters(state.params, pretrained)
    ema = None if state.ema is None else jax.tree.map(jnp.copy, leaves_like(state.ema, params))
    return dataclasses.replace(state, params=params, ema=ema), lines


def replace_parameters(params, pretrained):
    """`params` with the values of `pretrained`; and lines on what was taken and what was not."""
    taken, lines = fit(pretrained, params)
    placed = flatten_dict(params)
    for path, value in flatten_dict(taken).items():
        drawn = placed[path]
        take: Callable = functools.partial(operator.getitem, value)
        placed[path] = jax.make_array_from_callback(drawn.shape, drawn.sharding, take)
    return unflatten_dict(placed), lines


def create_state(init, seed: np.ndarray, shapes: TrainState, mesh: Mesh) -> TrainState:
    """The first state, every leaf created on its own devices."""
    return jax.jit(init, out_shardings=tree_shardings(shapes, mesh))(seed)
