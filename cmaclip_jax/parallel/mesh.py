"""One mesh for everything: `data` x `fsdp` x `tensor`; one device is the mesh of one.

`data` splits the batch. `fsdp` splits the batch and the parameters. `tensor` splits heads and MLPs.
Over several TPU slices, only `data` crosses the network between the slices.
"""

import collections
import itertools
import math
import time
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental.mesh_utils import create_device_mesh, create_hybrid_device_mesh
from jax.sharding import Mesh, NamedSharding

from cmaclip_jax.errors import DoesNotDivide, UserError, nearest_multiples
from cmaclip_jax.models.layout import ROWS

AXES = ("data", "fsdp", "tensor")


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1, devices=None) -> Mesh:
    """The mesh of these sizes over all devices; a size of -1 takes the remaining devices.

    Neighbours on the mesh are neighbours in hardware. JAX splits a physical axis only if no whole
    axes fit, as for fsdp=8 on 16x16 chips.
    """
    devices = jax.devices() if devices is None else devices
    sizes = dict(zip(AXES, (data, fsdp, tensor), strict=True))
    free = [axis for axis, size in sizes.items() if size == -1]
    fixed = math.prod(size for size in sizes.values() if size != -1)
    wanted = ", ".join(f"mesh.{axis}={size}" for axis, size in sizes.items())
    if len(free) > 1 or fixed < 1:
        raise UserError(f"{wanted}: sizes are 1 or more, and one of them may be -1")
    if free:
        sizes[free[0]] = len(devices) // fixed
    if math.prod(sizes.values()) != len(devices):
        raise DoesNotDivide(
            f"{wanted} does not fill {len(devices)} device(s); "
            f"use --config.mesh.data=-1 with fsdp x tensor that divides {len(devices)}"
        )
    kinds = (jax.sharding.AxisType.Auto,) * 3
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if devices[0].platform != "tpu" or slices == 1:
        shape = tuple(sizes.values())
        placed = create_device_mesh(shape, devices, allow_split_physical_axes=True)
        return Mesh(placed, AXES, axis_types=kinds)
    if sizes["data"] % slices:
        raise DoesNotDivide(
            f"mesh.data={sizes['data']} does not divide over {slices} slices, which only data may "
            "cross; use fewer mesh.fsdp and mesh.tensor"
        )
    inside = (sizes["data"] // slices, sizes["fsdp"], sizes["tensor"])
    across = (slices, 1, 1)
    placed = create_hybrid_device_mesh(inside, across, devices, allow_split_physical_axes=True)
    return Mesh(placed, AXES, axis_types=kinds)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Splits the rows of a batch over all devices of `data` and `fsdp`."""
    return NamedSharding(mesh, ROWS)


def check_batch(mesh: Mesh, batch_size: int, parts: int = 1, name: str = "train.batch_size"):
    """Raises DoesNotDivide if a batch in so many parts does not divide over the mesh."""
    rows = mesh.shape["data"] * mesh.shape["fsdp"] * parts
    if batch_size % rows:
        over = f"{mesh.devices.size} device(s)" + (f" in {parts} parts" if parts > 1 else "")
        raise DoesNotDivide(
            f"config.{name}={batch_size} does not divide over {over}; "
            f"use {nearest_multiples(batch_size, rows)}"
        )


def shared_rows(mesh: Mesh, most: int) -> int:
    """The largest number of rows up to `most` that divides over a mesh; at least one a device."""
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    return max(most // parts, 1) * parts


def host_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """The rows of a batch that the devices of this process hold, in order.

    If devices of several processes hold the same rows, because `tensor` spans the processes, each
    of these processes loads the rows.
    """
    indices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,))
    spans = {place[0].indices(batch_size)[:2] for place in indices.values()}
    return np.concatenate([np.arange(*span) for span in sorted(spans)])


def to_device(batch, sharding: NamedSharding):
    """Global arrays from the rows of every host; uint8 pictures stay uint8."""
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch
    )


class Prefetch:
    """Keeps two of the next `count` batches on the device ahead of their use.

    No further batch is asked for, and the stream of batches stays open: closing a stream waits for
    the batches that are being made, and this time would count as waiting for input.

    waited: the seconds that the loop has waited for input.
    """

    def __init__(self, batches: Iterator, sharding: NamedSharding, count: int):
        self.waited = 0.0
        self._batches, self._left = batches, count
        self._sharding = sharding
        self._queue: collections.deque = collections.deque()
        self._fill(2)

    def __iter__(self):
        return self

    def __next__(self):
        if not self._queue:
            raise StopIteration
        batch = self._queue.popleft()
        self._fill(1)
        return batch

    def _fill(self, count: int) -> None:
        start = time.perf_counter()
        for batch in itertools.islice(self._batches, min(count, self._left)):
            self._queue.append(to_device(batch, self._sharding))
            self._left -= 1
        self.waited += time.perf_counter() - start
