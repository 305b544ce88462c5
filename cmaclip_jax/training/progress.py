"""What the person watching sees, and the figures that are kept: one place for both."""

import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from cmaclip_jax.files import naming

SECONDS_BETWEEN_LINES = 5.0  # where lines pile up instead of being rewritten


@dataclasses.dataclass(frozen=True)
class Interval:
    """Some steps that the device was asked for, and may not have done yet.

    step: the last of them. steps: how many. collected: their figures, still on the device.
    done: when the device was through with them. waited: seconds that were spent for input.
    """

    step: int
    steps: int
    collected: list[Any]
    done: Future
    waited: float


class Watcher:
    """A live line on a terminal, plain lines elsewhere; metrics.jsonl and TensorBoard events.

    Figures are fetched one interval after they were computed, so that the device never
    waits for a print. The device works behind the steps that it is asked for, so a thread notes
    when it is through with an interval. Only process 0 speaks and writes.
    """

    def __init__(self, workdir: Path, steps: int, batch_size: int, console: Console | None = None):
        self.console = console or Console(file=sys.stderr)
        self._speaks = jax.process_index() == 0
        self._steps, self._batch_size = steps, batch_size
        self._last_step = self._waited = self._quiet_until = 0
        self._began = time.perf_counter()  # the interval that is shown next
        self._clock = ThreadPoolExecutor(1, "clock")
        self._collected: list[Any] = []
        self._pending: Interval | None = None
        self._bar = self._file = self._events = None
        if self._speaks:
            self._open(workdir)

    def _open(self, workdir: Path) -> None:
        # Slow to import, and not needed to look at --help. Its SummaryWriter would write in a
        # thread, whose errors (as of a full disk) do not reach us.
        from tensorboardX.event_file_writer import EventsWriter

        self._path = workdir / "metrics.jsonl"
        self._file = self._path.open("a", buffering=1)
        self._events = EventsWriter(str(workdir / "events"))
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.percentage:3.0f}%"),
                BarColumn(bar_width=24),
                TextColumn("{task.description}"),
                console=self.console,
            )
            self._bar.start()
            self._task = self._bar.add_task("compiling the first step ...", total=self._steps)

    def resume(self, step: int, waited: float) -> None:
        """Training goes on from `step`: the time since the interval before was no training."""
        self._last_step, self._waited, self._began = step, waited, time.perf_counter()

    def add(self, figures) -> None:
        """Keeps a step's figures, still on the device."""
        self._collected.append(figures)

    def log(self, step: int, waited: float) -> bool:
        """Ends an interval and shows the one before; False if a bad step was in that one."""
        ended = Interval(
            step,
            max(step - self._last_step, 1),
            self._collected,
            self._clock.submit(_time_of, self._collected[-1:]),
            waited - self._waited,
        )
        shown, self._pending, self._collected = self._pending, ended, []
        self._last_step, self._waited = step, waited
        return True if shown is None else self._show(shown)

    def flush(self) -> bool:
        """Shows what is still pending; False if a bad step was in it."""
        shown, self._pending = self._pending, None
        return True if shown is None else self._show(shown)

    def write(self, step: int, figures: dict[str, float]) -> None:
        """Figures of a step into metrics.jsonl and TensorBoard."""
        if not self._speaks:
            return
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        rounded = {name: float(f"{value:.6g}") for name, value in figures.items()}
        with naming(self._path):
            self._file.write(json.dumps({"step": step, **rounded}) + "\n")
            for name, value in figures.items():
                summary = scalar(name, value)
                self._events.write_event(Event(summary=summary, step=step, wall_time=time.time()))
            self._events.flush()

    def say(self, message) -> None:
        """A line, or anything else that rich can print, above the live one."""
        if self._speaks:
            plain = isinstance(message, str)
            self.console.print(message, highlight=False, markup=not plain, soft_wrap=plain)

    def track(self, items: Iterable, what: str, total: int) -> Iterator:
        """The items, with a line that tells how far they are; for what goes before the steps."""

        def say(line: str) -> None:
            if self._bar:
                self._bar.update(self._task, description=line)
            else:
                self.say(line)

        return told(items, say, what, total)

    def close(self) -> None:
        self._clock.shutdown(wait=False)
        if self._bar:
            self._bar.stop()
        if self._speaks:
            with naming(self._path), contextlib.closing(self._file):
                self._events.close()

    def _show(self, interval: Interval) -> bool:
        collected, step = jax.device_get(interval.collected), interval.step
        seconds = max(interval.done.result() - self._began, 1e-9)
        self._began += seconds
        if any(figures["bad"] for figures in collected):
            return False
        totals = jax.tree.map(lambda *x: sum(x), *[figures["sums"] for figures in collected])
        means = {f"train/{name}": float(n / max(d, 1)) for name, (n, d) in totals.items()}
        means["train/grad_norm"] = float(collected[-1]["grad_norm"])
        speed = {
            "examples_per_second": interval.steps * self._batch_size / seconds,
            "input_wait": min(interval.waited / seconds, 1.0),
            "seconds_left": (self._steps - step) * seconds / interval.steps,
        }
        self.write(step, means | speed)
        line = (
            f"step {step:,}/{self._steps:,}  loss {means['train/loss']:.3f}  "
            f"{speed['examples_per_second']:,.0f} examples/s  "
            f"waiting for input {speed['input_wait']:.0%}  "
            f"{time_left(speed['seconds_left'])} left"
        )
        if self._bar:
            self._bar.update(self._task, completed=step, description=line)
        elif time.monotonic() >= self._quiet_until or step == self._steps:
            self._quiet_until = time.monotonic() + SECONDS_BETWEEN_LINES
            self.say(f"{step / self._steps:4.0%}  {line}")
        return True


def _time_of(figures: list[Any]) -> float:
    """Waits until the device has these, and says when that was."""
    jax.block_until_ready(figures)
    return time.perf_counter()


def told(
    items: Iterable,
    say: Callable[[str], None],
    what: str,
    total: int,
    unit: str = "batches",
    size: Callable = lambda item: 1,
) -> Iterator:
    """The items, with a line every few seconds; `size` says how many of `total` units one is."""
    start = last = time.monotonic()
    done = 0
    for item in items:
        yield item
        now, done = time.monotonic(), done + size(item)
        if now - last >= SECONDS_BETWEEN_LINES or (done >= total and last > start):
            left = (now - start) * max(total - done, 0) / max(done, 1)
            last = now
            say(f"{what}: {done:,} of {total:,} {unit}, {time_left(left)} left")


def time_left(seconds: float) -> str:
    """'0:42', '12:05' or '3:10:00'."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
