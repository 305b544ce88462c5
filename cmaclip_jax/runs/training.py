"""A run that trains: from a config to a trained, evaluated run in its folder."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import jax
from ml_collections import ConfigDict

from cmaclip_jax.data.batches import Batch
from cmaclip_jax.errors import UserError
from cmaclip_jax.evaluation.predictor import Outcome, collect
from cmaclip_jax.evaluation.scores import score, watched, watched_score
from cmaclip_jax.evaluation.tables import watched_line
from cmaclip_jax.parallel.cluster import leader_first, leads
from cmaclip_jax.parallel.stopping import Stoppable
from cmaclip_jax.runs.assembly import assemble, checked_mesh
from cmaclip_jax.runs.compute_type import with_training_type
from cmaclip_jax.runs.data import RunData, open_data
from cmaclip_jax.runs.record_checks import check_records, describe_data
from cmaclip_jax.runs.results import write_results
from cmaclip_jax.runs.towers import Towers, open_towers
from cmaclip_jax.training.assembly import Assembly
from cmaclip_jax.training.lock import holding
from cmaclip_jax.training.loop import train
from cmaclip_jax.training.progress import TrainingProgress
from cmaclip_jax.training.soup import write_soup
from cmaclip_jax.training.state import TrainState
from cmaclip_jax.training.workdir import open_workdir


def train_and_evaluate(config: ConfigDict, workdir: Path) -> dict:
    """A whole run; returns what it wrote to `evaluation/SPLIT.json`."""
    with holding(workdir):
        run = open_run(config, workdir)
        try:
            params = run.final_parameters(run.train())
            split = run.data.last_split()
            outcome = run.outcome(params, split)
        finally:
            run.progress.close()
        return write_results(run, outcome, split, config.train.steps, run.progress.screen)


class BatchSource(Protocol):
    """Gives batches: the data of a run, or the kept features of its frozen encoders."""

    def train_batches(self, start: int, params: Any) -> Iterator[Batch]: ...
    def eval_batches(self, split: str, params: Any) -> Iterator[Batch]: ...


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A run that is opened to train."""

    workdir: Path
    assembly: Assembly
    towers: Towers
    data: RunData
    reads: BatchSource
    progress: TrainingProgress

    @property
    def config(self) -> ConfigDict:
        return self.assembly.config

    def train(self) -> TrainState:
        """Trains to the last step, and evaluates `eval.watch` on the way."""
        return train(
            self.assembly,
            self.reads.train_batches,
            self.workdir,
            self.progress,
            self._evaluate,
            self.towers.params,
        )

    def final_parameters(self, state: TrainState) -> Any:
        """What the trained run answers with: its soup, or the last state without one."""

        def score_of(params: Any) -> float | None:
            params = self.assembly.to_answer(params)
            return watched_score(self._judge(params, self.config.train.steps))

        soup = write_soup(
            self.workdir,
            self.config.eval.soup,
            score_of,
            self.progress.say,
            self.assembly.frozen,
        )
        return self._to_answer(state) if soup is None else self.assembly.to_answer(soup)

    def outcome(self, params: Any, split: str, stoppable: Stoppable = iter) -> Outcome:
        """What the run answers to every pair of a split. `stoppable` may stop the batches.

        params: laid out to answer.
        """
        batches = stoppable(self.reads.eval_batches(split, params))
        return collect(self.assembly.predict_step, params, batches, self.assembly.mesh)

    def _evaluate(self, state: TrainState, step: int, stoppable: Stoppable) -> float | None:
        """Evaluates during training; returns the score by which the best checkpoint is chosen."""
        figures = self._judge(self._to_answer(state), step, stoppable)
        named = {f"{self.config.eval.watch}/{name}": x for name, x in watched(figures).items()}
        self.progress.write(step, named)
        self.progress.say(f"      {watched_line(figures)}")
        return watched_score(figures)

    def _judge(self, params: Any, step: int, stoppable: Stoppable = iter) -> dict:
        """The figures of `eval.watch`, with these parameters."""
        split, wanted = self.config.eval.watch, self.config.eval
        outcome = self.outcome(params, split, stoppable)
        how = wanted.precisions, wanted.top_k, self.config.model.inputs
        return score(outcome, self.data.tasks, split, step, *how)

    def _to_answer(self, state: TrainState) -> Any:
        return self.assembly.objective.answering_parameters(state.best_params)


def _batch_source(
    data: RunData, assembly: Assembly, workdir: Path, progress: TrainingProgress
) -> tuple[BatchSource, str]:
    """Where the run reads its batches, and a line with the reason; '' if nothing is frozen."""
    if not any(jax.tree.leaves(assembly.frozen)):
        return data, ""
    # Few runs freeze parameters.
    from cmaclip_jax.runs.frozen_features import with_features

    return with_features(data, assembly, workdir / "features", progress.track)


def open_run(config: ConfigDict, workdir: Path) -> Run:
    """Opens everything that a config names; cheap checks come first."""
    workdir = Path(workdir)
    mesh = checked_mesh(config)
    if config.model.lora.rank and not config.model.pretrained:
        raise UserError(
            "model.lora.rank freezes the encoders, which are random without model.pretrained; name "
            "a CLIP there, or leave model.lora.rank out"
        )
    with leader_first("opening the run's folder and data"):
        if leads():
            open_workdir(workdir, config)
        towers = open_towers(config, workdir)
        config, type_line = with_training_type(config, towers.width, workdir)
        data = open_data(config, workdir, towers).over(mesh)
        missing = check_records(data)
    if config.model.lora.source and towers.params:
        # Few runs start from adapters.
        from cmaclip_jax.runs.adapter_folder import without_other_heads

        own = without_other_heads(towers.params, config.model.lora.source, data.tasks)
        towers = dataclasses.replace(towers, params=own)
    assembly = assemble(config, mesh, data.encode, towers)
    progress = TrainingProgress(workdir, config.train.steps, config.train.batch_size)
    try:
        reads, about = _batch_source(data, assembly, workdir, progress)
        for line in filter(None, [*describe_data(data), *missing, about, type_line]):
            progress.say(line)
    except BaseException:
        progress.close()
        raise
    return Run(workdir, assembly, towers, data, reads, progress)
