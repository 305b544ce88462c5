"""The loop: it trains any objective on any batches, and knows nothing of either."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cmaclip_jax.errors import Interrupted, UserError
from cmaclip_jax.models.objectives import Batch, Objective
from cmaclip_jax.parallel.cluster import leads
from cmaclip_jax.parallel.mesh import Prefetch, batch_sharding, to_device
from cmaclip_jax.parallel.rules import parameter_count, tree_shardings
from cmaclip_jax.parallel.stopping import StopAsked, Stopping, Watch
from cmaclip_jax.training.checkpoints import Checkpoints
from cmaclip_jax.training.compiling import Compiling
from cmaclip_jax.training.diagnosis import diagnose
from cmaclip_jax.training.optimizer import make_optimizer
from cmaclip_jax.training.parameter_table import (
    device_bytes,
    parameter_rows,
    parameter_summary,
    write_parameter_table,
)
from cmaclip_jax.training.profiling import Profiled
from cmaclip_jax.training.progress import Watcher
from cmaclip_jax.training.state import TrainState, create_state, start_from, state_template
from cmaclip_jax.training.step import make_train_step

# From a state, its step, and what every stream of batches has to be wrapped in so that a run can
# stop in the middle, to a score, higher being better (None: no score).
Evaluate = Callable[[TrainState, int, Watch], float | None]


def train(
    config: ConfigDict,
    objective: Objective,
    mesh: Mesh,
    example: Batch,
    batches: Callable[[int, Any], Iterator[Batch]],
    workdir: Path,
    watcher: Watcher,
    evaluate: Evaluate | None = None,
    pretrained: Any = None,
) -> TrainState:
    """Trains until `config.train.steps`, from the newest checkpoint if there is one.

    Args:
      example: a batch of the right shapes, to initialise with.
      batches: from a step, and the parameters as they are then, to this host's batches for
        that step and all that follow.
      evaluate: called every `config.eval.every` steps, where a checkpoint is saved as well, so
        that the best one is among those that stay.
      pretrained: parameters to begin with, where they have the model's names.

    Raises:
      Interrupted: after SIGTERM or SIGINT, with everything saved.
      UserError: a loss spiked or was not finite; the checkpoints stay as they were.
    """
    settings, steps = config.train, config.train.steps
    shapes = jax.eval_shape(objective.init, jax.random.key(0), example)
    optimizer = make_optimizer(settings, shapes)
    _tell_parameters(settings, shapes, mesh, workdir, watcher)

    # ---- the state: the newest checkpoint, or a beginning
    compiling = Compiling()
    init, shapes = state_template(objective, optimizer, example, settings.ema > 0, config.seed)
    checkpoints = Checkpoints(workdir, config.checkpoint.keep)
    start, state = checkpoints.restore_newest(shapes, mesh, watcher.say)
    if start:
        watcher.say(f"continuing from the checkpoint of step {start:,}")
    else:
        state = create_state(init, shapes, mesh)
        if pretrained is not None:
            state, lines = start_from(state, pretrained)
            watcher.say("from the pretrained weights:\n  " + "\n  ".join(lines))
    train_step = make_train_step(objective, optimizer, settings, config.seed, mesh, shapes)
    train_step = Profiled(train_step, config.profile, workdir, start, watcher.say)

    # ---- the steps
    def looks_at(step: int) -> bool:
        return bool(evaluate and config.eval.every and step % config.eval.every == 0)

    with (
        Stopping() as stopping,
        contextlib.closing(checkpoints),
        contextlib.closing(compiling),
        contextlib.closing(train_step),
    ):
        if start and looks_at(start) and not checkpoints.scored(start):
            score = _score(evaluate, state, start, stopping)  # it was stopped in the middle of that
            if score is not None:
                checkpoints.replace(state, start, score)
            if stopping.stops:
                raise _stopped(stopping, start, steps)
        stream = Prefetch(
            itertools.islice(batches(start, state.params), steps - start), batch_sharding(mesh)
        )
        watcher.resume(start, stream.waited)
        watcher.say("compiling the first step ...")
        for step, batch in enumerate(stream, start + 1):
            state, figures = train_step(state, batch)
            if step == start + 1:
                watcher.say(compiling.done())
                watcher.resume(step, stream.waited)
            watcher.add(figures)
            fine = True
            if step % settings.log_every == 0 or step == steps:
                fine = watcher.log(step, stream.waited)
                checkpoints.check()
            stops = stopping.asked()
            saves = stops or looks_at(step) or step % config.checkpoint.every == 0 or step == steps
            if not saves and fine:
                continue
            fine = fine and watcher.flush() and not bool(figures["bad"])
            if not fine:
                raise _spoilt(config, objective, mesh, state, batches, checkpoints)
            score = None
            if looks_at(step) and not stops:
                score = _score(evaluate, state, step, stopping)
            checkpoints.save(state, step, score)
            if stopping.stops:
                checkpoints.close()
                raise _stopped(stopping, step, steps)
            watcher.resume(step, stream.waited)
    return state


def _tell_parameters(settings, shapes, mesh: Mesh, workdir: Path, watcher: Watcher) -> None:
    """Says what the rules make of the parameters, and writes the whole table."""
    rows = parameter_rows(settings, shapes, tree_shardings(shapes, mesh))
    if leads():
        write_parameter_table(workdir / "parameters.txt", rows)
    watcher.say(parameter_summary(rows))
    watcher.say(
        f"{parameter_count(shapes):,} numbers in all on {mesh.devices.size} "
        f"{mesh.devices.flat[0].device_kind} device(s), {device_bytes(rows) / 1e6:,.2f} MB on "
        f"each; every parameter: {workdir}/parameters.txt"
    )


def _score(evaluate: Evaluate, state: TrainState, step: int, stopping: Stopping) -> float | None:
    """What an evaluation finds; nothing where the run was asked to stop in the middle of it."""
    try:
        return evaluate(state, step, stopping.watch)
    except StopAsked:
        return None


def _stopped(stopping: Stopping, step: int, steps: int) -> Interrupted:
    """The end of a run that was asked to stop, and has saved all."""
    return Interrupted(
        f"stopped by {stopping.signal.name} at step {step:,} of {steps:,}; all is saved, the same "
        "command continues",
        128 + stopping.signal,
    )


def _spoilt(config, objective, mesh, state: TrainState, batches, checkpoints) -> UserError:
    """The error for a state that met a bad step: what was bad, and where the run can resume."""
    step = int(state.step)
    batch = to_device(next(iter(batches(step, state.params))), batch_sharding(mesh))
    rng = jax.random.fold_in(jax.random.key(config.seed + 1), step)
    cause = diagnose(objective, config.train, state.params, state.opt_state, batch, rng)
    saved = checkpoints.latest_step()
    kept = f"the checkpoint of step {saved} is intact" if saved else "there is no checkpoint yet"
    return UserError(
        f"stopped at step {step + 1}: {cause}; {kept}; look at the data of that step, or "
        "lower train.learning_rate or train.clip in a new --workdir"
    )
