"""A trained run together with its records, opened to be evaluated."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from ml_collections import ConfigDict

from cmaclip_jax.config import with_changes
from cmaclip_jax.data.bad_records import BadRecords
from cmaclip_jax.data.noise import Noise
from cmaclip_jax.evaluation.predictor import Outcome, collect
from cmaclip_jax.runs.data import RunData, open_data
from cmaclip_jax.runs.towers import kept_towers
from cmaclip_jax.runs.trained import TrainedRun, open_trained
from cmaclip_jax.training.saved_parameters import NEWEST


@dataclasses.dataclass(frozen=True, eq=False)
class JudgedRun(TrainedRun):
    """A trained run, and the data that it answers to be judged."""

    data: RunData

    def outcome(self, split: str, track: Callable = lambda batches, **_: batches) -> Outcome:
        """What the run answers to every pair of a split. `track` shows the progress."""
        batches = track(
            self.data.eval_batches(split),
            what=f"evaluating {split}",
            total=self.data.eval_batch_count(split),
        )
        return collect(self.predict_step, self.params, batches, self.mesh)

    def with_noise(self, noise: Noise) -> "JudgedRun":
        """The same run on data with this noise alone. The model is not compiled again.

        Bad records are not added to the run's list.
        """
        fields = {**dataclasses.asdict(noise), "evaluate": True}
        changes = {f"data.noise.{name}": value for name, value in fields.items()}
        config = with_changes(self.data.config, changes)
        bad = BadRecords(None, config.data.on_error, config.data.max_bad)
        data = dataclasses.replace(self.data, config=config, bad=bad)
        return dataclasses.replace(self, data=data)


def open_judged(
    workdir: str | Path, config: ConfigDict, devices=None, checkpoint: str | int = NEWEST
) -> JudgedRun:
    """Like `open_trained`, with the data that the config names."""
    run = open_trained(workdir, config, devices, checkpoint)
    data = open_data(config, run.workdir, kept_towers(config, run.workdir)).over(run.mesh)
    return JudgedRun(run.workdir, run.step, run.encode, run.predictor, run.params, data)
