"""A run's assembly from its config, for training, evaluating, answering, planning and measuring."""

from collections.abc import Sequence
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from cmaclip_jax.data.batches import BatchEncoder
from cmaclip_jax.parallel.mesh import check_batch, make_mesh
from cmaclip_jax.runs.objectives import build_objective
from cmaclip_jax.runs.towers import Towers
from cmaclip_jax.training.assembly import Assembly


def assemble(config: ConfigDict, mesh: Mesh, encode: BatchEncoder, towers: Towers) -> Assembly:
    """The assembly of a run that classifies pairs, or trains a CLIP on them."""
    objective = build_objective(config, encode, towers)
    return Assembly(config, mesh, objective, encode.empty(1))


def checked_mesh(config: ConfigDict, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh of a config over these devices (all devices by default).

    Raises:
      DoesNotDivide: a batch of training or evaluation does not divide over the mesh.
    """
    mesh = make_mesh(**config.mesh, devices=devices)
    check_batch(mesh, config.train.batch_size, config.train.accumulate)
    check_batch(mesh, config.eval.batch_size, name="eval.batch_size")
    return mesh
