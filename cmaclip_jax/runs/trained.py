"""A trained run, opened from its folder to answer; no parameter in it changes."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cmaclip_jax.data.batches import BatchEncoder
from cmaclip_jax.errors import UserError
from cmaclip_jax.evaluation.predictor import Predictor
from cmaclip_jax.models import Objective
from cmaclip_jax.parallel.mesh import make_mesh, shared_rows
from cmaclip_jax.runs.batch_encoder import kept_encoder
from cmaclip_jax.runs.objectives import build_objective
from cmaclip_jax.runs.towers import kept_towers
from cmaclip_jax.tasks import Task
from cmaclip_jax.training.saved_parameters import NEWEST, read_parameters


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedRun:
    """A trained run that is ready to answer.

    step: of the checkpoint. params: its parameters, in the layout that answering uses.
    """

    workdir: Path
    step: int
    encode: BatchEncoder
    predictor: Predictor
    params: Any

    @property
    def config(self) -> ConfigDict:
        return self.predictor.config

    @property
    def dtype(self) -> str:
        """The name of the type that the network computes in."""
        model = self.objective.model
        return np.dtype((model.image or model.text).dtype).name

    @property
    def mesh(self) -> Mesh:
        return self.predictor.mesh

    @property
    def objective(self) -> Objective:
        return self.predictor.objective

    @property
    def predict_step(self) -> Callable:
        """`(params, batch) -> outcome`, compiled once."""
        return self.predictor.predict_step

    @property
    def tasks(self) -> tuple[Task, ...]:
        return self.encode.tasks

    @property
    def batch_size(self) -> int:
        """The largest number of pairs that are answered at once: it divides over the devices."""
        return shared_rows(self.predictor.mesh, self.config.eval.batch_size)


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
    predictor = Predictor(config, mesh, build_objective(config, encode, towers), encode.empty(1))
    _check_complete(params, predictor.parameter_shapes, workdir)
    return TrainedRun(workdir, step, encode, predictor, predictor.to_answer(params))


def _check_complete(params: Any, shapes: Any, workdir: Path) -> None:
    """Raises UserError where the run's folder lacks parameters of its network."""
    lacking = sorted({*flatten_dict(shapes, sep="/")} - {*flatten_dict(params, sep="/")})
    if lacking:
        raise UserError(
            f"the parameters in {workdir} do not fit its config: {len(lacking)} are missing, "
            f"{lacking[0]} among them; take the folder as training or `cmaclip push` wrote it"
        )
