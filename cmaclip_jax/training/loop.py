"""The loop: it trains any objective on any batches, and knows nothing of either."""

import contextlib
import itertools
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cmaclip_jax.errors import Interrupted, UserError
from cmaclip_jax.models.objectives import Batch, Objective
from cmaclip_jax.parallel.cluster import any_process, leads
from cmaclip_jax.parallel.mesh import Prefetch, batch_sharding, to_device
from cmaclip_jax.parallel.rules import parameter_count, tree_shardings
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
from cmaclip_jax.training.progress import Watcher
from cmaclip_jax.training.state import TrainState, create_state, start_from, state_template
from cmaclip_jax.training.step import make_train_step


def train(
    config: ConfigDict,
    objective: Objective,
    mesh: Mesh,
    example: Batch,
    batches: Callable[[int, Any], Iterator[Batch]],
    workdir: Path,
    watcher: Watcher,
    evaluate: Callable[[TrainState, int], float | None] | None = None,
    pretrained: Any = None,
) -> TrainState:
    """Trains until `config.train.steps`, from the newest checkpoint if there is one.

    Args:
      example: a batch of the right shapes, to initialise with.
      batches: from a step, and the parameters as they are then, to this host's batches for
        that step and all that follow.
      evaluate: from a state and its step to a score, higher being better (None: no score);
        called every `config.eval.every` steps, where a checkpoint is saved as well, so that
        the best one is among those that stay.
      pretrained: parameters to begin with, where they have the model's names.

    Raises:
      Interrupted: after SIGTERM or SIGINT, with everything saved.
      UserError: a loss spiked or was not finite; the checkpoints stay as they were.
    """
    settings = config.train

    # ---- the parameters, and what the rules make of them
    shapes = jax.eval_shape(objective.init, jax.random.key(0), example)
    optimizer = make_optimizer(settings, shapes)
    rows = parameter_rows(settings, shapes, tree_shardings(shapes, mesh))
    if leads():
        write_parameter_table(workdir / "parameters.txt", rows)
    watcher.say(parameter_summary(rows))
    watcher.say(
        f"{parameter_count(shapes):,} numbers in all on {mesh.devices.size} "
        f"{mesh.devices.flat[0].device_kind} device(s), {device_bytes(rows) / 1e6:,.2f} MB on "
        f"each; every parameter: {workdir}/parameters.txt"
    )

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

    # ---- the steps
    steps = settings.steps
    with (
        stop_signals() as asked_to_stop,
        contextlib.closing(checkpoints),
        contextlib.closing(compiling),
    ):
        stream = Prefetch(
            itertools.islice(batches(start, state.params), steps - start), batch_sharding(mesh)
        )
        watcher.resume(start, stream.waited)
        watcher.say("compiling the first step ...")
        for step, batch in enumerate(stream, start + 1):
            state, figures = train_step(state, batch)
            if step == start + 1:
                watcher.say(compiling.done())
            watcher.add(figures)
            fine = True
            if step % settings.log_every == 0 or step == steps:
                fine = watcher.log(step, stream.waited)
            looks = bool(evaluate and config.eval.every and step % config.eval.every == 0)
            stops = step < steps and _stops(asked_to_stop, step, settings.log_every)
            saves = looks or stops or step % config.checkpoint.every == 0 or step == steps
            if saves:
                fine = fine and watcher.flush() and not bool(figures["bad"])
            if not fine:
                raise _spoilt(config, objective, mesh, state, batches, checkpoints)
            score = evaluate(state, step) if looks else None
            if saves:
                checkpoints.save(state, step, score)
            if stops:
                checkpoints.close()
                number = (asked_to_stop or [signal.SIGTERM])[0]  # or another host got it
                raise Interrupted(
                    f"stopped by {signal.Signals(number).name} at step {step:,} of {steps:,}; all "
                    "is saved, the same command continues",
                    128 + number,
                )
            if saves:
                watcher.resume(step, stream.waited)
    return state


def _stops(asked_to_stop: list[int], step: int, log_every: int) -> bool:
    """Whether to stop after this step. Several hosts agree on that, where they meet anyway."""
    if jax.process_count() == 1:
        return bool(asked_to_stop)
    return step % log_every == 0 and any_process(bool(asked_to_stop))


@contextlib.contextmanager
def stop_signals():
    """While open, SIGTERM and SIGINT fill the list that this yields; a second one kills."""
    received: list[int] = []
    before = {}

    def receive(number, _frame):
        received.append(number)
        signal.signal(number, before[number])

    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            before[number] = signal.signal(number, receive)
        except ValueError:  # not the main thread: whoever runs us there handles signals
            break
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _spoilt(config, objective, mesh, state: TrainState, batches, checkpoints) -> UserError:
    """The error for a state that met a bad step: what was bad, and where the run can resume."""
    step = int(state.step)
    batch = to_device(next(iter(batches(step, state.params))), batch_sharding(mesh))
    rng = jax.random.fold_in(jax.random.key(config.seed + 1), step)
    cause = diagnose(objective, state.params, state.opt_state, batch, rng)
    saved = checkpoints.latest_step()
    kept = f"the checkpoint of step {saved} is intact" if saved else "there is no checkpoint yet"
    return UserError(
        f"stopped at step {step + 1}: {cause}; {kept}; look at the data of that step, or "
        "lower train.learning_rate or train.clip in a new --workdir"
    )
