"""Memory and time of a step on chips that are not here, from the program compiled for them."""

import dataclasses
import math
import warnings
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from cmaclip_jax.parallel.memory import refusal_of
from cmaclip_jax.parallel.rules import tree_shardings
from cmaclip_jax.planning.program import Collective, Program
from cmaclip_jax.planning.topology import Topology


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of a chip's HBM.

    parts: {name: bytes} of the step's arguments: parameters, moments, the batch.
    temporary: the most that a step needs beside them; code: the program itself.
    """

    parts: Mapping[str, int]
    temporary: int
    code: int

    @property
    def total(self) -> int:
        return sum(self.parts.values()) + self.temporary + self.code


@dataclasses.dataclass(frozen=True)
class TooLarge:
    """The verdict on a step that does not fit, in bytes of a chip's HBM.

    parts: as in `Memory`. needed: those and what the step needs beside them.
    """

    parts: Mapping[str, int]
    needed: float
    available: float

    @property
    def temporary(self) -> float:
        """What a step needs beside its arguments."""
        return max(self.needed - sum(self.parts.values()), 0.0)


@dataclasses.dataclass(frozen=True)
class Step:
    """A compiled step, per chip: its memory, the bytes it moves through HBM and to others."""

    memory: Memory
    traffic: float
    collectives: list[Collective]


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds that a step takes at the chip's published rates, each by itself."""

    arithmetic: float
    memory: float
    link: float
    network: float

    @property
    def step(self) -> float:
        """Arithmetic and memory traffic overlap; transfers between chips overlap with neither."""
        return max(self.arithmetic, self.memory) + self.link + self.network


def compile_step(
    lowered: jax.stages.Lowered, parts: Mapping[str, int], chips: int, available: int
) -> Step | TooLarge:
    """Compiles a step. parts: {name: bytes a chip} of its arguments; available: bytes of a chip."""
    try:
        with warnings.catch_warnings():
            # A program for chips that are not here can be cached, but not be read again.
            warnings.filterwarnings("ignore", "Error reading persistent compilation cache")
            compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        refusal = refusal_of(error)
        if refusal is None or refusal.asked is None or refusal.available is None:
            raise
        # The message calls this figure temporaries, but the arguments are included in it.
        return TooLarge(parts, refusal.asked, refusal.available)
    analysis = compiled.memory_analysis()
    program = Program(compiled.as_text(), chips)
    return Step(memory_of(analysis, parts, available), program.traffic(), program.collectives())


def memory_of(analysis, parts: Mapping[str, int], available: int) -> Memory:
    """The memory of a program that the compiler accepted, from its analysis."""
    # Outputs that do not reuse the memory of an argument are temporary as well.
    temporary = (
        analysis.temp_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    )
    padding = analysis.argument_size_in_bytes - sum(parts.values())
    memory = Memory(parts, temporary + padding, analysis.generated_code_size_in_bytes)
    if memory.total <= available:
        return memory
    # The sum counts memory that is reused more than once; the peak includes the arguments.
    peak = analysis.peak_memory_in_bytes - sum(parts.values())
    return dataclasses.replace(memory, temporary=peak)


def bytes_a_chip(tree: Any, mesh: Mesh, shardings: Any = None) -> int:
    """Bytes of a tree that each chip of the mesh holds; by default sharded as parameters are."""
    shardings = tree_shardings(tree, mesh) if shardings is None else shardings
    sizes = jax.tree.map(
        lambda leaf, sharding: math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize,
        tree,
        shardings,
    )
    return sum(jax.tree.leaves(sizes))


def step_times(step: Step, flops: float, topology: Topology) -> Times:
    """flops: operations of the whole step, over all chips."""
    chip = topology.chip
    sent = {slices: 0.0 for slices in (False, True)}
    for one in step.collectives:
        sent[one.slices] += one.sent
    return Times(
        arithmetic=flops / len(topology.devices) / chip.flops,
        memory=step.traffic / chip.bandwidth,
        link=sent[False] / chip.link,
        network=sent[True] / chip.network,
    )
