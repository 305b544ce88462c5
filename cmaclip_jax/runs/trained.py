"""A finished run, opened from its folder to be looked at or asked; no number in it changes."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cmaclip_jax.runs.assembly import build_objective
from cmaclip_jax.evaluation.evaluator import Outcome, collect, make_predict_step
from cmaclip_jax.runs.inputs import Data, kept_data, open_data
from cmaclip_jax.models import Objective
from cmaclip_jax.parallel.mesh import make_mesh
from cmaclip_jax.parallel.rules import tree_shardings
from cmaclip_jax.tasks import Task
from cmaclip_jax.runs.towers import open_towers
from cmaclip_jax.training.checkpoints import NEWEST, read_parameters


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """
    data: in batches that the devices of `mesh` share, of which this host reads its own rows;
        without any source, unless the run was opened to be evaluated.
    step: of the checkpoint whose parameters these are, ready to predict.
    """

    workdir: Path
    config: ConfigDict
    step: int
    data: Data
    objective: Objective
    mesh: Mesh
    params: Any

    @property
    def tasks(self) -> tuple[Task, ...]:
        return self.data.tasks

    @functools.cached_property
    def predict_step(self) -> Callable:
        """`(params, batch) -> outcome`, compiled once."""
        return make_predict_step(self.objective, self.mesh, self.params)

    def outcome(self, split: str, track: Callable = lambda batches, **_: batches) -> Outcome:
        """What the run answers to every pair of a split. `track` shows how far it is."""
        size = self.data.config.eval.batch_size
        batches = track(
            self.data.eval_batches(split),
            what=f"evaluating {split}",
            total=-(-len(self.data.source(split)) // size),
        )
        return collect(self.predict_step, self.params, batches, self.mesh)


def open_trained(
    workdir: str | Path,
    config: ConfigDict,
    sources: bool = False,
    devices=None,
    checkpoint: str | int = NEWEST,
) -> Trained:
    """The run in `workdir`, over all `devices`, whatever it was trained on.

    config: as `saved_config` reads it, perhaps with changes.
    sources: whether its data is opened too.
    checkpoint: 'newest', 'best' or a step.
    """
    workdir = Path(workdir)
    mesh = make_mesh(devices=devices)
    step, params = read_parameters(workdir, checkpoint)
    towers = open_towers(config, workdir)
    data = (open_data if sources else kept_data)(config, workdir, towers).over(mesh)
    objective = build_objective(config, data.encode, towers)
    ready = jax.eval_shape(objective.ready, params)
    params = jax.jit(objective.ready, out_shardings=tree_shardings(ready, mesh))(params)
    return Trained(workdir, config, step, data, objective, mesh, params)
