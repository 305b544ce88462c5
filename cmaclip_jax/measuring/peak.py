"""The peak arithmetic rate of devices: published by their maker, or measured."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from cmaclip_jax.measuring.clock import interleaved
from cmaclip_jax.planning.chips import TPUS

# Operations a second of dense bfloat16 matrix products: NVIDIA's data sheets. A device is the
# first whose name its own kind contains.
GPUS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10G": 70e12,
    "A10": 125e12,
}
SIDES = {"cpu": (1024, 2048)}  # of the matrices that are multiplied
LARGE = (4096, 8192)  # on accelerators
SECONDS = 2.0


@dataclasses.dataclass(frozen=True)
class Peak:
    """
    flops: operations a second of all devices.
    source: where the figure comes from, in words.
    """

    flops: float
    source: str


def peak_of(devices: Sequence[jax.Device], dtype) -> Peak:
    """The peak rate of these devices, which are all of one kind, for numbers of this type."""
    kind = devices[0].device_kind
    published = {chip.kind: chip.flops for chip in TPUS.values()}.get(kind) or next(
        (flops for name, flops in GPUS.items() if name in kind), None
    )
    if published and jnp.dtype(dtype) == jnp.bfloat16:
        return Peak(published * len(devices), "as published")
    best = max(_product(devices[0], side, dtype) for side in SIDES.get(_platform(devices), LARGE))
    return Peak(best * len(devices), "the fastest matrix product measured here")


def _platform(devices: Sequence[jax.Device]) -> str:
    return devices[0].platform


def _product(device: jax.Device, side: int, dtype) -> float:
    """Operations a second of a product of two square matrices."""
    matrix = jax.device_put(jnp.ones((side, side), dtype), device)
    multiply = jax.jit(jnp.matmul)

    def turns(count: int) -> None:
        result = matrix
        for _ in range(count):
            result = multiply(matrix, matrix)
        result.block_until_ready()

    times = interleaved({"product": turns}, SECONDS)["product"].blocks
    return 2 * side**3 / min(times)
