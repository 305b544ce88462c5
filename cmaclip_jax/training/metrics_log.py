"""The figures of a run on disk: metrics.jsonl, and events for TensorBoard."""

import contextlib
import json
import time
from pathlib import Path

from cmaclip_jax.files import naming


class MetricsLog:
    """Appends figures to the files in a run's folder."""

    def __init__(self, workdir: Path):
        # Slow to import, and not needed to look at --help. The SummaryWriter of tensorboardX writes
        # in a thread whose errors, such as a full disk, would not reach the run.
        from tensorboardX.event_file_writer import EventsWriter

        self._path = workdir / "metrics.jsonl"
        self._file = self._path.open("a", buffering=1)
        self._events = EventsWriter(str(workdir / "events"))

    def write(self, step: int, figures: dict[str, float]) -> None:
        """Writes the figures of a step."""
        from tensorboardX.proto.event_pb2 import Event  # slow to import, as above
        from tensorboardX.summary import scalar

        rounded = {name: float(f"{value:.6g}") for name, value in figures.items()}
        with naming(self._path):
            self._file.write(json.dumps({"step": step, **rounded}) + "\n")
            for name, value in figures.items():
                summary = scalar(name, value)
                self._events.write_event(Event(summary=summary, step=step, wall_time=time.time()))
            self._events.flush()

    def close(self) -> None:
        with naming(self._path), contextlib.closing(self._file):
            self._events.close()
