"""The file twins.npz: the arrays of twins, with which a stopped audit goes on."""

import dataclasses
from pathlib import Path

import numpy as np

from cmaclip_jax.auditing.twins import Twins
from cmaclip_jax.files import whole_file

TWINS = "twins.npz"


def write_twins(path: Path, twins: Twins) -> None:
    """Writes the arrays of twins."""
    arrays = {field.name: getattr(twins, field.name) for field in dataclasses.fields(Twins)}
    with whole_file(path) as part:
        np.savez_compressed(part, **arrays)


def read_twins(path: Path) -> Twins:
    """The twins that `write_twins` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return Twins(**arrays)
