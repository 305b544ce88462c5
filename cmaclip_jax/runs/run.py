"""A run: the parts that a config describes, put together once, and evaluated in one place."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
from rich.console import Console

from cmaclip_jax.runs.assembly import build_objective
from cmaclip_jax.evaluation.evaluator import Outcome, collect, make_predict_step, score
from cmaclip_jax.runs.features import Features, with_features
from cmaclip_jax.runs.inputs import Data, open_data
from cmaclip_jax.models import Objective
from cmaclip_jax.parallel.cluster import leader_first, leads
from cmaclip_jax.parallel.mesh import check_batch, make_mesh
from cmaclip_jax.parallel.stopping import Watch
from cmaclip_jax.runs.towers import Towers, open_towers
from cmaclip_jax.training import Watcher, open_workdir, train
from cmaclip_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """`reads` gives the batches: the data itself, or what frozen encoders made of it."""

    config: ConfigDict
    workdir: Path
    mesh: Mesh
    towers: Towers
    data: Data
    objective: Objective
    reads: Data | Features
    watcher: Watcher

    def train(self) -> TrainState:
        """Trains to the last step, looking at `eval.watch` on the way."""
        return train(
            self.config,
            self.objective,
            self.mesh,
            self.data.encode.empty(1),
            self.reads.train_batches,
            self.workdir,
            self.watcher,
            self._watch,
            self.towers.params,
        )

    def outcome(self, state: TrainState, split: str, watch: Watch = iter) -> Outcome:
        """What the run answers to every pair of a split. `watch` may stop the batches."""
        params = self.objective.ready(state.best_params)
        batches = watch(self.reads.eval_batches(split, params))
        return collect(self._predict_step, params, batches, self.mesh)

    @functools.cached_property
    def _predict_step(self) -> Callable:
        """Compiled once, for whatever parameters."""
        shapes = jax.eval_shape(
            lambda batch: self.objective.ready(self.objective.init(jax.random.key(0), batch)),
            self.data.encode.empty(1),
        )
        return make_predict_step(self.objective, self.mesh, shapes)

    def _watch(self, state: TrainState, step: int, watch: Watch) -> float | None:
        """Evaluates on the way, shows it, and returns what the best checkpoint is chosen by."""
        split, wanted = self.config.eval.watch, self.config.eval
        outcome = self.outcome(state, split, watch)
        how = wanted.precisions, wanted.top_k, self.config.model.inputs
        figures = score(outcome, self.data.tasks, split, step, *how)
        tasks = figures["tasks"].items()
        accuracies = {name: task["accuracy"] for name, task in tasks if task["examples"]}
        self.watcher.write(step, {f"{split}/{name}": value for name, value in accuracies.items()})
        shown = "  ".join(f"{name} {value:.3f}" for name, value in accuracies.items())
        self.watcher.say(f"      {split} accuracy: {shown}")
        return figures["mean"].get("accuracy")


def open_run(config: ConfigDict, workdir: Path) -> Run:
    """Opens everything that a config names, and takes the folder; cheap checks come first."""
    workdir = Path(workdir)
    mesh = make_mesh(**config.mesh)
    check_batch(mesh, config.train.batch_size, config.train.accumulate)
    check_batch(mesh, config.eval.batch_size, name="eval.batch_size")
    with leader_first("opening the run's folder and data"):
        if leads():
            open_workdir(workdir, config)
        towers = open_towers(config, workdir)
        data = open_data(config, workdir, towers)
        found = data.check_records()
    data = data.over(mesh)
    objective = build_objective(config, data.encode, towers)
    watcher = Watcher(workdir, config.train.steps, config.train.batch_size, Console(stderr=True))
    try:
        reads, about = with_features(
            data, objective, config.train, mesh, workdir / "features", watcher.track
        )
        for line in filter(None, [*data.lines(), *found, about]):
            watcher.say(line)
    except BaseException:
        watcher.close()
        raise
    return Run(config, workdir, mesh, towers, data, objective, reads, watcher)
