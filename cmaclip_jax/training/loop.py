"""The training loop: it trains any objective on any batches, and knows nothing of either."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from cmaclip_jax.errors import Interrupted, UserError
from cmaclip_jax.models.objectives import Batch
from cmaclip_jax.parallel.cluster import leads
from cmaclip_jax.parallel.mesh import Prefetch, batch_sharding, to_device
from cmaclip_jax.parallel.rules import parameter_count, tree_shardings
from cmaclip_jax.parallel.stopping import Stoppable, Stopping, StopRequested
from cmaclip_jax.training.assembly import Assembly
from cmaclip_jax.training.checkpoints import Checkpoints
from cmaclip_jax.training.compiling import Compiling
from cmaclip_jax.training.parameter_table import (
    device_bytes,
    parameter_rows,
    parameter_summary,
    write_parameter_table,
)
from cmaclip_jax.training.profiling import Profiled
from cmaclip_jax.training.progress import TrainingProgress
from cmaclip_jax.training.state import TrainState, start_from

# `(state, step, stoppable) -> score`: a higher score is better, and None is no score. The function
# wraps its stream of batches in `stoppable`, so that a run can stop in the middle of an evaluation.
Evaluate = Callable[[TrainState, int, Stoppable], float | None]
# `(step, parameters) -> this host's batches`, for that step and all that follow.
Batches = Callable[[int, Any], Iterator[Batch]]


def train(
    assembly: Assembly,
    batches: Batches,
    workdir: Path,
    progress: TrainingProgress,
    evaluate: Evaluate | None = None,
    pretrained: Any = None,
) -> TrainState:
    """Trains until `config.train.steps`, from the newest checkpoint if there is one.

    Args:
      evaluate: called every `config.eval.every` steps. A checkpoint is saved at the same step, so
        that the best one is among those that are kept.
      pretrained: parameters to begin with, where they have the model's names.

    Raises:
      Interrupted: after SIGTERM or SIGINT, with everything saved.
      UserError: a loss spiked or was not finite; the checkpoints stay as they were.
    """
    config = assembly.config
    _describe_parameters(assembly, workdir, progress)
    keep, best = config.checkpoint.keep, max(config.eval.soup, 1)
    checkpoints = Checkpoints(workdir, keep, best, assembly.frozen)
    start, state = _first_state(assembly, checkpoints, pretrained, progress)
    train_step = Profiled(assembly.train_step, config.profile, workdir, start, progress.say)
    closing = contextlib.closing
    with Stopping() as stopping, closing(checkpoints), closing(train_step):
        saving = _Saving(config, checkpoints, stopping, evaluate)
        saving.complete(state, start)
        updates = _updates(assembly, train_step, state, start, batches, progress)
        for step, state, figures, waited in updates:
            good = _log(config, progress, checkpoints, step, figures, waited)
            if not saving.is_due(step) and good:
                continue
            if not (good and progress.flush() and not bool(figures["bad"])):
                raise _bad_step_error(assembly, state, batches, checkpoints)
            saving.save(state, step)
            progress.resume(step, waited)
    return state


def _updates(
    assembly: Assembly,
    train_step: Callable,
    state: TrainState,
    start: int,
    batches: Batches,
    progress: TrainingProgress,
) -> Iterator[tuple[int, TrainState, dict, float]]:
    """After every update: its step, the state, the figures, and seconds spent waiting for input."""
    made, left = batches(start, state.params), assembly.config.train.steps - start
    stream = Prefetch(made, batch_sharding(assembly.mesh), left)
    progress.resume(start, stream.waited)
    progress.say("compiling the first step ...")
    with contextlib.closing(Compiling()) as compiling:
        for step, batch in enumerate(stream, start + 1):
            state, figures = train_step(state, batch)
            if step == start + 1:
                progress.say(compiling.done())
                progress.resume(step, stream.waited)
            yield step, state, figures, stream.waited


def _log(config, progress, checkpoints, step: int, figures, waited: float) -> bool:
    """Ends an interval of steps every `log_every` steps; False if the one before had a bad step."""
    progress.add(figures)
    if step % config.train.log_every and step != config.train.steps:
        return True
    good = progress.log(step, waited)
    checkpoints.check()
    return good


def _first_state(
    assembly: Assembly, checkpoints: Checkpoints, pretrained: Any, progress: TrainingProgress
) -> tuple[int, TrainState]:
    """The step and the state of the newest checkpoint; 0 and a new state where there is none."""
    start, state = checkpoints.restore_newest(assembly.state_shapes, assembly.mesh, progress.say)
    if start:
        progress.say(f"continuing from the checkpoint of step {start:,}")
        return start, state
    state = assembly.create_state()
    if pretrained is not None:
        state, lines = start_from(state, pretrained)
        progress.say("from the pretrained weights:\n  " + "\n  ".join(lines))
    return start, state


class _Saving:
    """When a checkpoint is saved, with which score, and whether the run stops after it."""

    def __init__(
        self,
        config: ConfigDict,
        checkpoints: Checkpoints,
        stopping: Stopping,
        evaluate: Evaluate | None,
    ):
        self._config, self._checkpoints = config, checkpoints
        self._stopping, self._evaluate = stopping, evaluate
        self._stop_asked = False

    def complete(self, state: TrainState, start: int) -> None:
        """Evaluates a run that continues at a step whose evaluation was cut short by a stop."""
        if not (start and self._is_evaluated(start)) or self._checkpoints.scored(start):
            return
        score = self._score(state, start)
        if score is not None:
            self._checkpoints.replace(state, start, score)
        if self._stopping.stops:
            raise self._interrupted(start)

    def is_due(self, step: int) -> bool:
        """Whether a checkpoint is saved after this step. All hosts agree on a stop here."""
        self._stop_asked = self._stopping.asked()
        regular = step % self._config.checkpoint.every == 0 or step == self._config.train.steps
        return self._stop_asked or self._is_evaluated(step) or regular

    def save(self, state: TrainState, step: int) -> None:
        """Saves a checkpoint, with its score where an evaluation is due; or ends the run."""
        evaluated = self._is_evaluated(step) and not self._stop_asked
        self._checkpoints.save(state, step, self._score(state, step) if evaluated else None)
        if self._stopping.stops:
            self._checkpoints.close()
            raise self._interrupted(step)

    def _is_evaluated(self, step: int) -> bool:
        every = self._config.eval.every
        return bool(self._evaluate and every and step % every == 0)

    def _score(self, state: TrainState, step: int) -> float | None:
        """The score of a state; None where the run was asked to stop during the evaluation."""
        try:
            return self._evaluate(state, step, self._stopping.stoppable)
        except StopRequested:
            return None

    def _interrupted(self, step: int) -> Interrupted:
        signal, steps = self._stopping.signal, self._config.train.steps
        return Interrupted(
            f"stopped by {signal.name} at step {step:,} of {steps:,}; all is saved, the same "
            "command continues",
            128 + signal,
        )


def _describe_parameters(assembly: Assembly, workdir: Path, progress: TrainingProgress) -> None:
    """Writes parameters.txt: rate, decay and layout of every parameter; shows a summary."""
    shapes, mesh = assembly.parameter_shapes, assembly.mesh
    assembly.check()  # an error in the rules comes before the first line
    rows = parameter_rows(assembly.config.train, shapes, tree_shardings(shapes, mesh))
    if leads():
        write_parameter_table(workdir / "parameters.txt", rows)
    progress.say(parameter_summary(rows))
    progress.say(
        f"{parameter_count(shapes):,} numbers in all on {mesh.devices.size} "
        f"{mesh.devices.flat[0].device_kind} device(s), {device_bytes(rows) / 1e6:,.2f} MB on "
        f"each; every parameter: {workdir}/parameters.txt"
    )


def _bad_step_error(
    assembly: Assembly, state: TrainState, batches: Batches, checkpoints: Checkpoints
) -> UserError:
    """The error for a state that met a bad step: its cause, and where the run can resume."""
    from cmaclip_jax.training.diagnosis import diagnose  # wanted after a bad step alone

    config, step = assembly.config, int(state.step)
    batch = to_device(next(iter(batches(step, state.params))), batch_sharding(assembly.mesh))
    rng = jax.random.fold_in(jax.random.key(config.seed + 1), step)
    cause = diagnose(assembly.objective, config.train, state.params, state.opt_state, batch, rng)
    saved = checkpoints.latest_step()
    kept = f"the checkpoint of step {saved} is intact" if saved else "there is no checkpoint yet"
    return UserError(
        f"stopped at step {step + 1}: {cause}; {kept}; look at the data of that step, or "
        "lower train.learning_rate or train.clip in a new --workdir"
    )
