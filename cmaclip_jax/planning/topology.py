"""TPU slices that are not here, as devices for which JAX can compile."""

import dataclasses
import importlib.util
import re
from typing import Any

from jax.experimental.topologies import get_topology_desc

from cmaclip_jax.errors import UserError
from cmaclip_jax.planning.chips import TPUS, Chip

# The shapes that Google rents, by their number of chips. Names of v4, v5p count cores, 2 a chip.
FLAT = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
CUBES = {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8"}
CUBES |= {256: "4x8x8", 512: "8x8x8", 1024: "8x8x16", 2048: "8x16x16"}
SHAPES = {"v4": CUBES, "v5e": FLAT, "v5p": CUBES, "v6e": FLAT}

# Chips of the hosts whose bounds differ from 2x2.
ONE_HOST = {"1x1": [1, 1, 1], "2x4": [2, 4, 1]}


@dataclasses.dataclass(frozen=True)
class Topology:
    """
    name: '4x4', of one slice; `devices` are those of all slices, one a chip.
    """

    chip: Chip
    name: str
    slices: int
    devices: list[Any]

    @property
    def hosts(self) -> int:
        """How many machines the chips are in."""
        return len({device.process_index for device in self.devices})

    def __str__(self):
        slices = f"{self.slices} x " if self.slices > 1 else ""
        return f"{slices}{self.chip.name}:{self.name}"


def open_topology(name: str, slices: int = 1) -> Topology:
    """The slices called 'v5e:4x4', or 'v5e-16' as one rents them.

    Raises:
      UserError: there is none of that name, or no libtpu to compile with.
    """
    chip, shape = _parsed(name)
    if slices < 1:
        raise UserError(f"--slices={slices} must be at least 1")
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "planning for TPUs compiles with their own compiler; pip install 'cmaclip_jax[tpu]'"
        )
    options: dict[str, Any] = {"num_slices": slices}
    if chip.name == "v4":
        options["chip_config_name"] = "megacore"  # both cores as one device, as JAX shows them
    if shape in ONE_HOST:
        options["chips_per_host_bounds"] = ONE_HOST[shape]
    try:
        topology = get_topology_desc(
            platform="tpu", topology_name=f"{chip.name}:{shape}", **options
        )
    except Exception as error:  # libtpu's own, of a type that JAX does not name in public
        reason = " ".join(str(error).split())
        raise UserError(f"no topology {name!r}: {reason}") from error
    return Topology(chip, shape, slices, list(topology.devices))


def _parsed(name: str) -> tuple[Chip, str]:
    found = re.fullmatch(r"(\w+)(?::(\d+x\d+(?:x\d+)?)|-(\d+))", name)
    known = ", ".join(TPUS)
    if not found or found[1] not in TPUS:
        raise UserError(f"no topology {name!r}; write CHIP:SHAPE as v5e:16x16 (chips: {known})")
    chip, shape, number = TPUS[found[1]], found[2], found[3]
    if shape:
        return chip, shape
    shapes, per_chip = SHAPES[chip.name], 2 if SHAPES[chip.name] is CUBES else 1
    rented = {count * per_chip: shape for count, shape in shapes.items()}
    if int(number) not in rented:
        names = ", ".join(f"{chip.name}-{count}" for count in rented)
        raise UserError(f"no topology {name!r}; there is {names}, or write its shape")
    return chip, rented[int(number)]
