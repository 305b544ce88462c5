"""The training speed of a config on this machine: the real loop, stopped after some seconds."""

import contextlib
import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from cmaclip_jax.config import with_changes
from cmaclip_jax.runs.training import open_run

WARM_UP = 8  # steps that are not timed: they compile, or their batches were made meanwhile
SECONDS = 20.0  # of timed steps
NEVER = 10**9


class EnoughMeasured(Exception):
    """Ends the loop."""


class Stopwatch:
    """Replaces TrainingProgress: notes the time at the end of each step, and ends the run."""

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._marks: list[float] = []
        self._last: Any = None

    def add(self, figures) -> None:
        """Waits for the step before this one, so that the device never waits for the host."""
        before, self._last = self._last, figures
        jax.block_until_ready(before)
        self._marks.append(time.perf_counter())
        timed = self._marks[WARM_UP:]
        if len(timed) > 1 and timed[-1] - timed[0] >= self._seconds:
            raise EnoughMeasured

    def say(self, message) -> None:
        """Prints nothing; the real run prints it."""

    def resume(self, step: int, waited: float) -> None:
        """Does nothing; the marks give the time."""

    def flush(self) -> bool:
        """Called when the run is asked to stop. A measurement cannot be continued."""
        raise KeyboardInterrupt

    def steps_a_second(self) -> float:
        timed = self._marks[WARM_UP:]
        return (len(timed) - 1) / (timed[-1] - timed[0])


def steps_a_second(config: ConfigDict, beside: Path, seconds: float = SECONDS) -> float:
    """Updates per second, input included, without compiling, evaluating and saving.

    beside: the folder for a temporary folder, on the disk that the real run will use.
    """
    changes = dict.fromkeys(("train.steps", "train.log_every", "checkpoint.every"), NEVER)
    config = with_changes(config, changes | {"eval.every": 0, "profile.steps": 0})
    stopwatch: Any = Stopwatch(seconds)
    with tempfile.TemporaryDirectory(dir=beside, prefix=".measuring-") as folder:
        run = open_run(config, Path(folder))
        try:
            with contextlib.suppress(EnoughMeasured):
                dataclasses.replace(run, progress=stopwatch).train()
        finally:
            run.progress.close()
    return stopwatch.steps_a_second()
