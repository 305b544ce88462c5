"""A trained run, opened from its folder to answer; no parameter in it changes."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from cmaclip_jax.data.batches import BatchEncoder
from cmaclip_jax.models import Objective
from cmaclip_jax.parallel.mesh import make_mesh, shared_rows
from cmaclip_jax.runs.assembly import assemble
from cmaclip_jax.runs.batch_encoder import kept_encoder
from cmaclip_jax.runs.towers import kept_towers
from cmaclip_jax.tasks import Task
from cmaclip_jax.training.assembly import Assembly
from cmaclip_jax.training.checkpoints import NEWEST, read_parameters


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedRun:
    """A trained run that is ready to answer.

    step: of the checkpoint. params: its parameters, in the layout that answering uses.
    """

    workdir: Path
    step: int
    encode: BatchEncoder
    assembly: Assembly
    params: Any

    @property
    def config(self) -> ConfigDict:
        return self.assembly.config

    @property
    def mesh(self) -> Mesh:
        return self.assembly.mesh

    @property
    def objective(self) -> Objective:
        return self.assembly.objective

    @property
    def predict_step(self) -> Callable:
        """`(params, batch) -> outcome`, compiled once."""
        return self.assembly.predict_step

    @property
    def tasks(self) -> tuple[Task, ...]:
        return self.encode.tasks

    @property
    def batch_size(self) -> int:
        """The largest number of pairs that are answered at once: it divides over the devices."""
        return shared_rows(self.assembly.mesh, self.config.eval.batch_size)


def open_trained(
    workdir: str | Path,
    config: ConfigDict,
    devices=None,
    checkpoint: str | int = NEWEST,
) -> TrainedRun:
    """The run in `workdir`, over all `devices`, whatever mesh it was trained on.

    config: as `saved_config` reads it, perhaps with changes.
    checkpoint: 'newest', 'best' or a step.
    """
    workdir = Path(workdir)
    mesh = make_mesh(devices=devices)
    step, params = read_parameters(workdir, checkpoint)
    towers = kept_towers(config, workdir)
    encode = kept_encoder(config, workdir, towers)
    assembly = assemble(config, mesh, encode, towers)
    return TrainedRun(workdir, step, encode, assembly, assembly.to_answer(params))
