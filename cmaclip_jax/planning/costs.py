"""What a step will cost on chips that are not here: compiled for them, and read off."""

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

    parts: {what: bytes} of what stays: parameters, moments and the like, and the batch.
    temporary: what a step needs beside them at its fullest moment; code: the program itself.
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

    parts: {what: bytes} of what stays, as in `Memory`; needed: with what a step needs beside it.
    """

    parts: Mapping[str, int]
    needed: float
    available: float

    @property
    def temporary(self) -> float:
        """What a step needs beside what stays."""
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
        """Arithmetic and memory overlap, what goes between chips is taken to overlap with none."""
        return max(self.arithmetic, self.memory) + self.link + self.network


def compile_step(
    lowered: jax.stages.Lowered, parts: Mapping[str, int], chips: int, available: int
) -> Step | TooLarge:
    """Compiles; parts: {what: bytes a chip} of the step's arguments; available: of a chip."""
    try:
        with warnings.catch_warnings():
            # A program for chips that are not here can be cached, but not be read again.
            warnings.filterwarnings("ignore", "Error reading persistent compilation cache")
            compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        refusal = refusal_of(error)
        if refusal is None or refusal.asked is None or refusal.available is None:
            raise
        # It says that temporaries need so much, but has added the arguments to them.
        return TooLarge(parts, refusal.asked, refusal.available)
    found = compiled.memory_analysis()
    program = Program(compiled.as_text(), chips)
    return Step(memory_of(found, parts, available), program.traffic(), program.collectives())


def memory_of(found, parts: Mapping[str, int], available: int) -> Memory:
    """Bytes of a chip from what the compiler says of a program that it has accepted."""
    # Outputs that take the place of no argument are temporary as well.
    temporary = found.temp_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    padding = found.argument_size_in_bytes - sum(parts.values())
    memory = Memory(parts, temporary + padding, found.generated_code_size_in_bytes)
    if memory.total <= available:
        return memory
    # Room that is used twice is in the sum twice; the peak, arguments and all, is what there is.
    peak = found.peak_memory_in_bytes - sum(parts.values())
    return dataclasses.replace(memory, temporary=peak)


def bytes_a_chip(tree: Any, mesh: Mesh, shardings: Any = None) -> int:
    """Bytes of a tree of arrays that a chip of the mesh holds, by default as parameters lie."""
    shardings = tree_shardings(tree, mesh) if shardings is None else shardings
    held = jax.tree.map(
        lambda leaf, sharding: math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize,
        tree,
        shardings,
    )
    return sum(jax.tree.leaves(held))


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
