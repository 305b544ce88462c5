"""The bytes that a compiled program moves through HBM and between chips, read from its text.

XLA's cost analysis counts the body of a loop once and does not list collectives. This module walks
the instructions and counts those of a loop once for every iteration.
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# Operations that move no bytes, or whose bytes are counted where they start.
FREE = ("parameter", "tuple", "get-tuple-element", "bitcast", "constant", "while", "call")
FREE += ("conditional", "after-all", "partition-id", "replica-id", "custom-call")
MOVES = ("copy-start", "slice-start", "slice", "dynamic-slice")  # as much as is cut out, no more

COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%([\w.\-]+) = (.*)$")
OPERATION = re.compile(r" ([a-z][\w\-]*)\(")
ARRAY = re.compile(r"\b([a-z]+)(\d*)\w*\[([\d,]*)\](\{[^}]*\})?")
CALLED = re.compile(r"\b(?:calls|to_apply|called_computations)=\{?%([\w.\-]+)")
# What goes over the network is handed to the host, which takes it to the slices that are named.
SLICES = re.compile(r'_xla_megascale_target="\{([\d,]+)\}.*_xla_megascale_transfer_type="(\w+)"')
LOOP = re.compile(r"condition=%([\w.\-]+), body=%([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """
    shape: of its result, as text: arrays, or tuples of them.
    rest: its operands (up to the first bracket that closes) and attributes, as text.
    """

    name: str
    shape: str
    operation: str
    rest: str


@dataclasses.dataclass(frozen=True)
class Collective:
    """
    size: bytes of the whole array, as each member has it before or after.
    members: the chips that take part, or the slices.
    times: how often it runs in a step.
    slices: whether it goes between slices, over the network.
    """

    kind: str
    size: int
    members: int
    times: int
    slices: bool = False

    @property
    def sent(self) -> float:
        """Bytes that each chip sends in a step, on a ring."""
        others = (self.members - 1) / self.members
        rounds = {"all-reduce": 2 * others, "collective-permute": 1.0}.get(self.kind, others)
        return self.size * rounds * self.times


class Program:
    """The instructions of a compiled program, parsed from its text."""

    def __init__(self, text: str, chips: int):
        self._chips = chips
        self._computations: dict[str, list[Instruction]] = {}
        self._entry = ""
        for line in text.splitlines():
            self._read(line)

    def collectives(self) -> list[Collective]:
        """Every collective of a step."""
        found = []
        for one, times, _ in self._walk(self._entry, inside=True):
            kind = one.operation.removesuffix("-start")
            between_slices = SLICES.search(one.rest) if kind == "send" else None
            if kind in COLLECTIVES:
                members = group_size(one.rest, self._chips)
                size = _array_bytes(one.shape, largest=one.operation.endswith("-start"))
                if kind == "reduce-scatter":
                    size *= members  # its result is one chip's share
                found.append(Collective(kind, size, members, times))
            elif between_slices:
                members, kind = between_slices[1].count(",") + 1, _kind(between_slices[2])
                size = _array_bytes(one.shape, largest=True)
                if kind == "all-gather":
                    size *= members  # it sends one slice's share
                found.append(Collective(kind, size, members, times, slices=True))
        return [one for one in found if one.members > 1]

    def traffic(self) -> float:
        """Bytes that a step reads from HBM and writes to it, estimated from its instructions.

        In a loop, an array with as many rows as the loop has iterations is taken to be stacked: an
        iteration reads one row.
        """
        total = 0.0
        for one, times, turns in self._walk(self._entry):
            if one.operation in MOVES:
                total += times * _moved_bytes(one.shape)
            elif one.operation not in FREE and not one.operation.endswith("-done"):
                shapes = [one.shape, *self._operands(one)]
                total += times * sum(_hbm_bytes(shape, turns) for shape in shapes)
        return total

    def _read(self, line: str) -> None:
        head = COMPUTATION.match(line)
        if head:
            self._current = self._computations.setdefault(head[2], [])
            self._entry = head[2] if head[1] else self._entry
            return
        found = INSTRUCTION.match(line)
        operation = found and OPERATION.search(" " + found[2])
        if operation:
            shape, rest = found[2][: operation.start()], found[2][operation.end() - 1 :]
            self._current.append(Instruction(found[1], shape, operation[1], rest))

    def _walk(self, computation: str, times: int = 1, turns: int = 1, inside: bool = False):
        """(instruction, how often it runs, the turns of the loop around it), loops entered.

        inside: whether to enter what fusions and asynchronous calls are made of as well.
        """
        for one in self._computations[computation]:
            yield one, times, turns
            loop = LOOP.search(one.rest) if one.operation == "while" else None
            if loop:
                count = self._turns(loop[1])
                yield from self._walk(loop[2], times * count, count, inside)
            elif one.operation == "call" or (inside and _wraps(one)):
                for name in CALLED.findall(one.rest):
                    yield from self._walk(name, times, turns, inside)

    def _turns(self, condition: str) -> int:
        """How often a loop turns: what its counter is compared with."""
        constants = [
            int(one.rest.split(")")[0])
            for one in self._computations[condition]
            if one.operation == "constant" and re.match(r"s32\[\]", one.shape)
        ]
        return max(constants, default=1)

    def _operands(self, one: Instruction) -> Iterator[str]:
        names = re.findall(r"%([\w.\-]+)", one.rest.split(")")[0])
        return (self._shapes[name] for name in names if name in self._shapes)

    @functools.cached_property
    def _shapes(self) -> Mapping[str, str]:
        instructions = (one for some in self._computations.values() for one in some)
        return {one.name: one.shape for one in instructions}


def group_size(attributes: str, chips: int) -> int:
    """How many chips a group of a collective has, in any of the ways that XLA writes them."""
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", attributes)
    if mesh:
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", mesh[1])}
        return math.prod(sizes[name] for name in re.findall(r"'(\w+)'", mesh[2]))
    iota = re.search(r"replica_groups=\[\d+,(\d+)\]<=", attributes)
    if iota:
        return int(iota[1])
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", attributes)
    if listed:
        return listed[1].count(",") + 1
    return chips  # of a permutation, or all of them


def by_kind(found: list[Collective]) -> dict[str, tuple[int, float]]:
    """{kind, and whether between slices: (how many a step, bytes that a chip sends)}."""
    totals: dict[str, tuple[int, float]] = collections.defaultdict(lambda: (0, 0.0))
    for one in found:
        name = f"{one.kind} between slices" if one.slices else one.kind
        count, sent = totals[name]
        totals[name] = (count + one.times, sent + one.sent)
    return dict(totals)


def _kind(transfer: str) -> str:
    """'all-reduce' for 'ALL_REDUCE'; what is no collective sends its array once."""
    name = transfer.lower().replace("_", "-")
    return name if name in COLLECTIVES else "collective-permute"


def _wraps(one: Instruction) -> bool:
    return one.operation in ("fusion", "async-start")


def _arrays(shape: str) -> Iterator[tuple[tuple[int, ...], int, str]]:
    """(lengths, bytes, layout) of every array in a shape's text."""
    for kind, bits, lengths, layout in ARRAY.findall(shape):
        sizes = tuple(int(x) for x in lengths.split(",") if x)
        width = 1 if kind == "pred" else int(bits or 0) / 8
        yield sizes, math.ceil(math.prod(sizes) * width), layout


def _array_bytes(shape: str, largest: bool = False) -> int:
    sizes = [size for _, size, _ in _arrays(shape)]
    return (max if largest else sum)(sizes or [0])


def _moved_bytes(shape: str) -> int:
    """Bytes of HBM that a copy reads or writes: as many as the smaller of its two ends has."""
    ends = [(size, layout) for lengths, size, layout in _arrays(shape) if lengths]
    size = min((size for size, _ in ends), default=0)
    return size * sum("S(" not in layout for _, layout in ends)


def _hbm_bytes(shape: str, turns: int) -> float:
    """Bytes of a shape that lie in HBM; `S(1)` and up in a layout are memories on the chip."""
    return sum(
        size / (turns if turns > 1 and lengths[:1] == (turns,) else 1)
        for lengths, size, layout in _arrays(shape)
        if "S(" not in layout
    )
