"""One update, as one compiled function."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from cmaclip_jax.models.objectives import Objective, divisor
from cmaclip_jax.parallel.mesh import batch_sharding
from cmaclip_jax.parallel.rules import tree_shardings
from cmaclip_jax.training.frozen import leaves_like
from cmaclip_jax.training.optimizer import frozen_parameters
from cmaclip_jax.training.state import TrainState

MEMORY = 0.98  # decay of the running mean of the loss, against which a spike is measured
SETTLED = 50  # steps before a large loss counts as a spike
LEAST = 0.1  # the least mean to compare with: at a loss near 0 one wrong answer is no spike


def make_train_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    settings: ConfigDict,
    mesh: Mesh,
    shapes: TrainState,
):
    """`(seed, state, batch) -> (state, figures)`, jitted over the mesh; the old state is donated.

    figures: `sums` (of the objective), `grad_norm` and `bad`. Randomness is a function of seed
    and step.
    """
    frozen = frozen_parameters(settings, shapes.params)

    def train_step(seed, state: TrainState, batch):
        rng = jax.random.fold_in(jax.random.key(seed + 1), state.step)
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            loss, sums, gradients = accumulate(
                objective, frozen, state.params, batch, rng, settings.accumulate
            )
        norm = optax.global_norm(gradients)
        bad = state.bad | is_bad(state, loss, norm, settings.spike)
        updated = _updated(state, loss, gradients, optimizer, frozen, settings.ema)
        kept = jax.tree.map(
            lambda old, new: old if old is new else jnp.where(bad, old, new), state, updated
        )
        return kept.replace(bad=bad), {"sums": sums, "grad_norm": norm, "bad": bad}

    shardings, everywhere = tree_shardings(shapes, mesh), NamedSharding(mesh, PartitionSpec())
    return jax.jit(
        train_step,
        in_shardings=(everywhere, shardings, batch_sharding(mesh)),
        out_shardings=(shardings, everywhere),
        donate_argnames="state",
    )


def _updated(
    state: TrainState, loss, gradients, optimizer: optax.GradientTransformation, frozen, decay
) -> TrainState:
    """The state after an update by these gradients. `decay` is that of the averaged parameters."""
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = keep_frozen(frozen, state.params, optax.apply_updates(state.params, updates))
    average = jnp.where(state.step == 0, loss, state.loss_average)
    ema = state.ema
    if ema is not None:
        share = 1 - averaging_decay(state.step + 1, decay)
        ema = optax.incremental_update(leaves_like(ema, params), ema, share)
    return dataclasses.replace(
        state,
        step=state.step + 1,
        params=params,
        opt_state=opt_state,
        ema=ema,
        loss_average=MEMORY * average + (1 - MEMORY) * loss,
    )


def averaging_decay(step, decay: float):
    """The decay of the averaged parameters in update number `step`, counted from 1.

    The decay rises to `decay` with the length of the run so far. A constant decay of 0.998 would
    leave 13 % of a random start in the average after 1,000 updates, and some of every early
    update beside it. With the rise the average spans the last ninth of the updates, at most.
    """
    return jnp.minimum(decay, (1 + step) / (10 + step))


def is_bad(state: TrainState, loss, norm, spike: float):
    """Whether the loss or the gradient is not finite, or the loss is a spike."""
    bad = ~jnp.isfinite(loss) | ~jnp.isfinite(norm)
    if spike:
        bad |= (state.step >= SETTLED) & (loss > spike * jnp.maximum(state.loss_average, LEAST))
    return bad


def accumulate(objective: Objective, frozen, params, batch, rng, parts: int):
    """Loss, sums and gradients of a batch, computed in `parts` one after the other.

    The result equals that of the whole batch, except for terms that compare examples with one
    another: the contrastive loss sees only the pairs of its own part. Frozen parameters are not
    differentiated; their gradients are zeros that cost nothing.
    """
    leaves, structure = jax.tree.flatten(params)
    is_frozen = jax.tree.leaves(frozen)

    def whole(learnt):
        """A leaf for every parameter: from those that learn, None for the frozen ones."""
        learnt = iter(learnt)
        return [None if stays else next(learnt) for stays in is_frozen]

    def loss_of(learnt, batch, rng):
        merged = [
            old if new is None else new for old, new in zip(leaves, whole(learnt), strict=True)
        ]
        return objective.loss(jax.tree.unflatten(structure, merged), batch, rng)

    gradient = jax.value_and_grad(loss_of, has_aux=True)
    learnt = [leaf for leaf, stays in zip(leaves, is_frozen, strict=True) if not stays]
    if parts == 1:
        (loss, sums), gradients = gradient(learnt, batch, rng)
    else:
        (loss, sums), gradients = _in_parts(gradient, learnt, batch, rng, parts)
    gradients = [
        jnp.zeros_like(leaf) if found is None else found
        for leaf, found in zip(leaves, whole(gradients), strict=True)
    ]
    return loss, sums, jax.tree.unflatten(structure, gradients)


def _in_parts(gradient, learnt, batch, rng, parts: int):
    """The loss, sums and gradients of the whole batch, from those of its parts.

    A part's loss is the mean over its own examples, so it is weighted by their weight: padding may
    leave one part full and another almost empty.
    """

    def one_part(total, part_and_index):
        part, index = part_and_index
        (loss, sums), gradients = gradient(learnt, part, jax.random.fold_in(rng, index))
        _, examples = sums["loss"]
        weighted = jax.tree.map(lambda x: x * examples, (loss, gradients))
        return jax.tree.map(jnp.add, total, ((weighted[0], sums), weighted[1])), None

    split = jax.tree.map(lambda x: interleaved_parts(x, parts), batch)
    first = jax.tree.map(lambda x: x[0], split)
    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(gradient, learnt, first, rng)
    )
    total, _ = jax.lax.scan(one_part, zeros, (split, jnp.arange(parts)))
    (loss, sums), gradients = total
    examples = divisor(sums["loss"][1])
    return (loss / examples, sums), [g / examples for g in gradients]


def keep_frozen(frozen, old, new):
    """The new parameters, with the old arrays themselves where frozen: nothing is copied."""
    return jax.tree.map(lambda stays, was, now: was if stays else now, frozen, old, new)


def interleaved_parts(x, parts: int):
    """[B,...] -> [parts,B/parts,...], with every `parts`-th row in a part.

    Each part then spreads over all devices that hold the batch, and no row moves to another device.
    """
    return x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)
