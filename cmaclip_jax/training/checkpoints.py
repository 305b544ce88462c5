"""Orbax checkpoints, written in the background; the newest and the best ones are kept."""

import contextlib
import dataclasses
import logging
import math
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh
from orbax.checkpoint.checkpoint_managers import preservation_policy as preservation

from cmaclip_jax.errors import UserError
from cmaclip_jax.files import free_space, full_disk
from cmaclip_jax.parallel.cluster import leads, wait_for_all
from cmaclip_jax.parallel.memory import refusal_of
from cmaclip_jax.parallel.rules import path_name
from cmaclip_jax.training.frozen import (
    frozen_folder,
    frozen_part,
    joined,
    laid_out,
    learnt_part,
    leaves_like,
    restore_frozen,
    write_frozen,
)
from cmaclip_jax.training.saved_parameters import APART, SCORE, checkpoint_steps
from cmaclip_jax.training.state import TrainState

UNFINISHED = "*.orbax-checkpoint-tmp*"  # folders that Orbax was writing


class _Manager(ocp.CheckpointManager):
    """Orbax's manager without its check for preemption.

    JAX counts these checks in every process, and only `Stopping` may make them.
    """

    def reached_preemption(self, step: int) -> bool:
        return False


# Orbax's threads log an error with its traceback, and then raise it in the main thread. For a full
# disk, the UserError of `_room` is enough.
logging.getLogger("absl").addFilter(
    lambda record: not (record.exc_info and full_disk(record.exc_info[1]))
)


def _report_unless_of_a_failed_save(unraisable, report=sys.unraisablehook) -> None:
    """Ignores the errors of the remaining writes of a failed save: their event loop is closed."""
    if str(unraisable.exc_value) != "Event loop is closed":
        report(unraisable)


sys.unraisablehook = _report_unless_of_a_failed_save


class Checkpoints:
    """The folder `checkpoints/` of a run.

    Threads write a checkpoint while the run goes on. If the disk is full, the next call of any
    method raises UserError, and the incomplete checkpoint is removed.
    """

    def __init__(self, workdir: str | Path, keep: int, best: int = 1, frozen: Any = None):
        """
        keep, best: how many of the newest checkpoints and of the best ones are kept.
        frozen: a tree of bools. Frozen parameters are not in the checkpoints but in a folder of
            their own (frozen.py). If a run began without this folder, it continues without it.
        """
        newest = preservation.LatestN(keep)
        highest = preservation.BestN(get_metric_fn=lambda metrics: metrics[SCORE], n=best)
        self._writing, self._bytes, self._closed = 0, 0, False
        self._workdir = Path(workdir)
        self._frozen = frozen if frozen and any(jax.tree.leaves(frozen)) else None
        self._keeps_frozen = False  # whether the folder of the frozen parameters is complete
        self._manager = _Manager(
            Path(workdir).resolve() / "checkpoints",
            options=ocp.CheckpointManagerOptions(
                preservation_policy=preservation.AnyPreservationPolicy([newest, highest]),
                best_fn=lambda metrics: metrics[SCORE],
                cleanup_tmp_directories=True,
            ),
        )

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, state: TrainState, step: int, score: float | None = None) -> None:
        """Starts writing and returns at once. Without a score it is never the best checkpoint."""
        metrics = {SCORE: -math.inf if score is None else score, APART: bool(self._frozen)}
        with self._room():
            self._manager.wait_until_finished()  # for the checkpoint before
            self._writing, self._bytes = step, _bytes_of(state)
            if self._frozen:
                if not self._keeps_frozen:
                    write_frozen(self._workdir, frozen_part(state.params, self._frozen))
                    self._keeps_frozen = True
                state = dataclasses.replace(state, params=learnt_part(state.params, self._frozen))
                self._bytes = _bytes_of(state)
            self._manager.save(step, args=ocp.args.StandardSave(state), metrics=metrics, force=True)

    def check(self) -> None:
        """Raises UserError if there was no room for the checkpoint that is being written."""
        with self._room():
            self._manager.check_for_errors()

    def scored(self, step: int) -> bool:
        """Whether the checkpoint of a step was saved with a score."""
        return (self._manager.metrics(step) or {}).get(SCORE, -math.inf) > -math.inf

    def replace(self, state: TrainState, step: int, score: float) -> None:
        """Saves a step again, with a score that it lacked."""
        self._manager.delete(step)
        self.save(state, step, score)

    def restore_newest(
        self, shapes: TrainState, mesh: Mesh, say: Callable[[str], None]
    ) -> tuple[int, TrainState | None]:
        """The newest step whose state can be read, and that state; `(0, None)` without any.

        Newer checkpoints that cannot be read are renamed to STEP.damaged, with a line each. So a
        run with a damaged last checkpoint continues from the one before.

        Raises:
          UserError: a readable checkpoint is of another model; or there are checkpoints and none
            can be read, and a new start is not what the user asked for.
        """
        reasons: dict[int, str] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                self._check_tree(self._held(shapes, step), step)
                state = self.restore(shapes, mesh, step)
            except UserError:
                raise
            except Exception as error:  # Orbax raises errors of any type for a damaged file
                if refusal_of(error):  # out of memory: the file may be intact
                    raise
                reasons[step] = " ".join(str(error).split())[:200]
                continue
            for damaged, reason in reasons.items():
                say(f"the checkpoint of step {damaged:,} cannot be read ({reason}); set aside")
            self._set_aside(list(reasons))
            return step, state
        if reasons:
            raise UserError(
                f"no checkpoint in {self._manager.directory} can be read "
                f"({next(iter(reasons.values()))}); name another --workdir to begin anew"
            )
        return 0, None

    def _check_tree(self, shapes: TrainState, step: int) -> None:
        """Raises UserError if the names or shapes of a checkpoint are not those of the model."""
        saved = _by_path(_saved_tree(Path(self._manager.directory) / str(step)))
        wanted = _by_path(shapes)
        wrong = [
            f"{path}: {saved.get(path, 'missing')} there, {shape} here"
            for path, shape in wanted.items()
            if saved.get(path) != shape
        ]
        wrong += [f"{path}: unknown here" for path in saved if path not in wanted]
        if wrong:
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise UserError(
                f"the checkpoint of step {step:,} is not of this model ({'; '.join(wrong[:3])}"
                f"{more}); name another --workdir"
            )

    def _set_aside(self, steps: list[int]) -> None:
        if not steps:
            return
        if leads():
            for step in steps:
                folder = self._manager.directory / str(step)
                folder.rename(folder.with_name(f"{step}.damaged"))
        wait_for_all("setting a damaged checkpoint aside")
        self._manager.reload()

    def restore(self, shapes: TrainState, mesh: Mesh, step: int) -> TrainState:
        """The state of `step`, laid out on this mesh."""
        held = self._held(shapes, step)
        target = ocp.args.StandardRestore(laid_out(held, mesh))
        state = self._manager.restore(step, args=target)
        if self._frozen is None:
            return state
        if held.params is shapes.params:
            self._frozen = None  # the run goes on with whole checkpoints
        else:
            wanted = frozen_part(shapes.params, self._frozen)
            kept = restore_frozen(self._workdir, wanted, mesh)
            state = dataclasses.replace(state, params=joined(state.params, kept))
            self._keeps_frozen = True
        ema = None if shapes.ema is None else leaves_like(shapes.ema, state.ema)
        return dataclasses.replace(state, ema=ema)

    def _held(self, shapes: TrainState, step: int) -> TrainState:
        """The shapes as the checkpoint of a step holds them, with or without frozen parameters.

        Runs of version 0.1 have all parameters in every checkpoint, and in the average.
        """
        if self._frozen is None:
            return shapes
        saved = _by_path(_saved_tree(Path(self._manager.directory) / str(step)))
        some = next(iter(flatten_dict(frozen_part(shapes.params, self._frozen), sep="/")))
        params, ema = shapes.params, shapes.ema
        if f"params/{some}" not in saved:
            params = learnt_part(params, self._frozen)
        if ema is not None and f"ema/{some}" in saved:
            ema = shapes.params
        return dataclasses.replace(shapes, params=params, ema=ema)

    def close(self) -> None:
        """Waits until all checkpoints are on disk."""
        if not self._closed:
            with self._room():
                self._manager.wait_until_finished()
            self._closed = True
            self._manager.close()

    @contextlib.contextmanager
    def _room(self) -> Iterator[None]:
        """Turns a full disk into a UserError, and removes the incomplete checkpoint."""
        try:
            yield
        except Exception as error:
            if not full_disk(error):
                raise
            self._closed = True
            with contextlib.suppress(Exception):  # the same error, from other threads
                self._manager.close()
            folder = Path(self._manager.directory)
            unfinished = [
                *folder.glob(UNFINISHED),
                *frozen_folder(self._workdir).parent.glob(UNFINISHED),
            ]
            for part in unfinished if leads() else ():
                shutil.rmtree(part, ignore_errors=True)
            steps = checkpoint_steps(folder)
            kept = f"the checkpoint of step {max(steps):,} is intact; " if steps else ""
            raise UserError(
                f"no room for the checkpoint of step {self._writing:,} in {folder}: it needs up "
                f"to {self._bytes / 1e6:,.1f} MB and {free_space(folder)} are free; {kept}make "
                "room, and the same command continues"
            ) from None


def _bytes_of(state: TrainState) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(state))


def _saved_tree(folder: Path):
    """What the checkpoint in a folder says that it holds."""
    handler = ocp.PyTreeCheckpointHandler()
    try:
        return handler.metadata(folder / "default").tree
    finally:
        handler.close()


def _by_path(tree) -> dict[str, tuple]:
    """{path: shape} of every array in a tree."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {path_name(path): tuple(leaf.shape) for path, leaf in leaves}
