"""The memory of a train step, estimated from shapes.

Compiling a large model takes minutes; an estimate takes seconds.
"""

import math
from typing import Any

import jax

from cmaclip_jax.planning.costs import Step, TooLarge, bytes_a_chip
from cmaclip_jax.planning.run import PlannedRun

UNSURE, SURE = 1.5, 1.1  # an estimate over this multiple of the memory: before, after `learn`


class Estimate:
    """Estimates bytes of a chip, and corrects itself by every step that was compiled."""

    def __init__(self):
        self._kept: dict[str, float] = {}
        self._factors: dict[str, float] = {}

    def needs(self, run: PlannedRun, state: int) -> float:
        """Bytes of a chip for a step; state: those of its arguments."""
        factor = self._factors.get(run.config.model.remat, 1.0)
        return state + _gradients(run) + factor * self._kept_at_once(run)

    def rules_out(self, run: PlannedRun, state: int, available: float) -> bool:
        """Whether a step is so much too large that it need not be compiled."""
        margin = SURE if run.config.model.remat in self._factors else UNSURE
        return self.needs(run, state) > margin * available

    def learn(self, run: PlannedRun, step: Step | TooLarge) -> None:
        """Corrects the estimates for this `model.remat` by the compiler's figure."""
        temporary = step.temporary if isinstance(step, TooLarge) else step.memory.temporary
        kept = max(temporary - _gradients(run), 1)
        self._factors[run.config.model.remat] = kept / self._kept_at_once(run)

    def _kept_at_once(self, run: PlannedRun) -> float:
        """Bytes that the backward pass keeps of the pairs that a chip computes at once."""
        settings, mesh = run.config.train, run.mesh.shape
        remat = run.config.model.remat
        if remat not in self._kept:
            self._kept[remat] = kept_a_pair(run)
        rows = settings.batch_size / settings.accumulate / (mesh["data"] * mesh["fsdp"])
        return rows * self._kept[remat]


def kept_a_pair(run: PlannedRun, rows: int = 8) -> float:
    """Bytes that the backward pass keeps for each additional pair."""

    def backward(params: Any, batch: Any):
        def loss(params):
            return run.objective.loss(params, batch, jax.random.key(0))[0]

        with jax.sharding.use_abstract_mesh(run.mesh.abstract_mesh):
            return jax.vjp(loss, params)[1]  # a tree: its leaves are what it keeps

    fewer, more = (
        _bytes(jax.eval_shape(backward, run.parameter_shapes, run.batch(size)))
        for size in (rows, 2 * rows)
    )
    return (more - fewer) / rows


def _gradients(run: PlannedRun) -> int:
    return bytes_a_chip(run.parameter_shapes, run.mesh)


def _bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
