"""Whether a run fits, how long it takes, and what limits its speed."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from cmaclip_jax.parallel.mesh import batch_sharding
from cmaclip_jax.parallel.rules import parameter_count
from cmaclip_jax.planning.costs import Step, Times, TooLarge, bytes_a_chip, compile_step, step_times
from cmaclip_jax.planning.program import by_kind
from cmaclip_jax.planning.run import Operations, PlannedRun
from cmaclip_jax.planning.topology import Topology


@dataclasses.dataclass(frozen=True, eq=False)
class Verdict:
    """
    operations: of a train step, as XLA counts them.
    """

    run: PlannedRun
    topology: Topology
    operations: Operations
    train: Step | TooLarge
    evaluation: Step | TooLarge | None

    @property
    def fits(self) -> bool:
        """Whether both steps fit; a step that was not compiled counts as fitting."""
        return not any(isinstance(step, TooLarge) for step in (self.train, self.evaluation))

    @property
    def settings(self) -> ConfigDict:
        return self.run.config.train

    @functools.cached_property
    def needed(self) -> float:
        """Operations of a train step that the model asks for, by our own count."""
        return sum(self.run.arithmetic().values())

    @functools.cached_property
    def times(self) -> Times:
        return step_times(self.train, self.operations.executed, self.topology)

    @property
    def utilisation(self) -> float:
        """The share of the chips' peak that the model's own operations take (MFU)."""
        peak = self.topology.chip.flops * len(self.topology.devices)
        return self.needed / self.times.step / peak

    @property
    def examples_per_second(self) -> float:
        return self.settings.batch_size / self.times.step

    def figures(self) -> dict[str, Any]:
        """All figures, for JSON."""
        chips, settings = len(self.topology.devices), self.settings
        figures: dict[str, Any] = {
            "topology": str(self.topology),
            "chips": chips,
            "hosts": self.topology.hosts,
            "mesh": dict(self.run.mesh.shape),
            "batch_size": settings.batch_size,
            "accumulate": settings.accumulate,
            "remat": self.run.config.model.remat,
            "parameters": parameter_count(self.run.parameter_shapes),
            "fits": self.fits,
            "flops": {
                "ours": self.needed,
                "xla": self.operations.plain,
                "xla_with_recomputing": self.operations.executed,
            },
            "memory": {"of": self.topology.chip.memory}
            | {name: memory_figures(step) for name, step in self._steps()},
        }
        if isinstance(self.train, TooLarge):
            return figures
        hours = settings.steps * self.times.step / 3600
        collectives = by_kind(self.train.collectives).items()
        return figures | {
            "collectives": {kind: {"times": n, "bytes": sent} for kind, (n, sent) in collectives},
            "seconds": dataclasses.asdict(self.times) | {"step": self.times.step},
            "utilisation": self.utilisation,
            "examples_per_second": self.examples_per_second,
            "examples_per_second_per_host": self.examples_per_second / self.topology.hosts,
            "steps": settings.steps,
            "hours": hours,
            "chip_hours": hours * chips,
        }

    def _steps(self):
        steps = {"train": self.train, "evaluation": self.evaluation}
        return ((name, step) for name, step in steps.items() if step is not None)


def judge(
    run: PlannedRun, topology: Topology, operations: Operations, evaluation: bool = True
) -> Verdict:
    """Compiles a run's steps for a topology; `evaluation`: that step too."""
    parts = state_parts(run)
    if sum(parts.values()) > topology.chip.memory:  # the compiler would need a minute to find out
        train = TooLarge(parts, sum(parts.values()), topology.chip.memory)
    else:
        train = _compiled(run.lower_train(), parts, topology)
    verdict = Verdict(run, topology, operations, train, None)
    return with_evaluation(verdict) if evaluation and verdict.fits else verdict


def with_evaluation(verdict: Verdict) -> Verdict:
    """The verdict, with the evaluation step compiled as well."""
    run = verdict.run
    batch = bytes_a_chip(*_batch(run, run.config.eval.batch_size))
    parts = {"parameters": bytes_a_chip(run.parameter_shapes, run.mesh), "batch": batch}
    step = _compiled(run.lower_evaluation(), parts, verdict.topology)
    return dataclasses.replace(verdict, evaluation=step)


def _compiled(lowered: jax.stages.Lowered, parts, topology: Topology) -> Step | TooLarge:
    return compile_step(lowered, parts, len(topology.devices), topology.chip.memory)


def state_parts(run: PlannedRun) -> dict[str, int]:
    """{what: bytes a chip} of a train step's arguments."""
    state = run.state_shapes
    parts = {
        "parameters": bytes_a_chip(state.params, run.mesh),
        "moments": bytes_a_chip(state.opt_state, run.mesh),
    }
    if state.ema is not None:
        parts["averaged parameters"] = bytes_a_chip(state.ema, run.mesh)
    return parts | {"batch": bytes_a_chip(*_batch(run, run.config.train.batch_size))}


def _batch(run: PlannedRun, rows: int):
    """The arguments of `bytes_a_chip` for a batch."""
    batch = run.batch(rows)
    return batch, run.mesh, jax.tree.map(lambda _: batch_sharding(run.mesh), batch)


def memory_figures(step: Step | TooLarge) -> Mapping[str, float]:
    """{name: bytes of a chip}; for a step that does not fit, also the bytes that are available."""
    if isinstance(step, TooLarge):
        figures = {"temporary": step.temporary, "total": step.needed, "available": step.available}
        return dict(step.parts) | figures
    memory = step.memory
    return dict(memory.parts) | {
        "temporary": memory.temporary,
        "code": memory.code,
        "total": memory.total,
    }
