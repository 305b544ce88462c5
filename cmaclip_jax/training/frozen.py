"""Frozen parameters: a run has one copy of them, in memory and on disk.

They never change. So the averaged parameters and the checkpoints hold the other parameters alone,
and WORKDIR/frozen holds the frozen ones.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh, SingleDeviceSharding

from cmaclip_jax.errors import UserError
from cmaclip_jax.parallel.memory import refusal_of
from cmaclip_jax.parallel.rules import tree_shardings


def learnt_part(params: Any, frozen: Any) -> Any:
    """The parameters that learn.

    frozen: a tree of bools, one for every parameter; None: all learn.
    """
    return params if frozen is None else _part(params, frozen, False)


def frozen_part(params: Any, frozen: Any) -> Any:
    """The parameters that are frozen."""
    return _part(params, frozen, True)


def _part(params: Any, frozen: Any, wanted: bool) -> Any:
    stays = flatten_dict(frozen)
    return unflatten_dict({p: x for p, x in flatten_dict(params).items() if stays[p] == wanted})


def leaves_like(part: Any, params: Any) -> Any:
    """The parameters at the paths of `part`."""
    leaves = flatten_dict(params)
    return unflatten_dict({path: leaves[path] for path in flatten_dict(part)})


def joined(*parts: Any) -> Any:
    """One tree of the leaves of all parts. Of leaves with the same path, the last one counts."""
    leaves: dict[tuple[str, ...], Any] = {}
    for part in parts:
        leaves |= flatten_dict(part)
    return unflatten_dict(leaves)


def frozen_folder(workdir: str | Path) -> Path:
    """Where a run keeps its frozen parameters."""
    return Path(workdir).resolve() / "frozen"


def write_frozen(workdir: str | Path, part: Any) -> None:
    """Writes the frozen parameters of a run. Every process of the run calls this."""
    with ocp.StandardCheckpointer() as writer:
        writer.save(frozen_folder(workdir), part, force=True)


def restore_frozen(workdir: str | Path, shapes: Any, mesh: Mesh) -> Any:
    """The frozen parameters of a run that continues, laid out on this mesh."""
    folder, target = _existing(workdir), laid_out(shapes, mesh)
    with _readable(folder), ocp.StandardCheckpointer() as reader:
        return reader.restore(folder, target)


def read_frozen(workdir: str | Path) -> Any:
    """The frozen parameters of a run, on the host."""
    folder = _existing(workdir)
    with _readable(folder):
        return read_to_host(folder, lambda saved: saved)


def _existing(workdir: str | Path) -> Path:
    folder = frozen_folder(workdir)
    if not folder.exists():
        raise UserError(
            f"{folder} is missing; the checkpoints do not repeat its parameters; copy it back, or "
            "train in another --workdir"
        )
    return folder


@contextlib.contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """Raises UserError where the folder cannot be read."""
    try:
        yield
    except Exception as error:  # Orbax raises errors of any type for a damaged file
        if refusal_of(error):  # out of memory: the folder may be intact
            raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{folder} cannot be read ({reason}); copy it from a backup, or train in another "
            "--workdir"
        ) from error


def laid_out(shapes: Any, mesh: Mesh) -> Any:
    """The shapes with the layout of the sharding rules, as Orbax restores them."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        tree_shardings(shapes, mesh),
    )


def read_to_host(folder: Path, wanted: Callable[[Any], Any]) -> Any:
    """A part of what Orbax saved in a folder. `wanted` chooses it from the tree of saved shapes.

    Nothing is written, because the run may be writing its next checkpoint.
    """
    here = SingleDeviceSharding(jax.local_devices()[0])
    handler = ocp.PyTreeCheckpointHandler()
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
        wanted(handler.metadata(folder).tree),
    )
    how = ocp.checkpoint_utils.construct_restore_args(target)
    read = ocp.args.PyTreeRestore(target, restore_args=how, partial_restore=True)
    try:
        return jax.device_get(handler.restore(folder, args=read))
    finally:
        handler.close()
