"""The progress of a training: its live line, and its figures as they come from the device."""

import dataclasses
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
from rich.console import RenderableType
from rich.progress import BarColumn, TextColumn

from cmaclip_jax.screen import SECONDS_BETWEEN_LINES, Screen, counted, time_left
from cmaclip_jax.training.metrics_log import MetricsLog


@dataclasses.dataclass(frozen=True)
class Interval:
    """Some steps that the device was given, and may not have finished.

    step: the last of them. steps: how many. collected: their figures, still on the device.
    done: the time when the device finished them. waited: seconds spent waiting for input.
    """

    step: int
    steps: int
    collected: list[Any]
    done: Future
    waited: float


class TrainingProgress:
    """A live line on a terminal and plain lines elsewhere; the figures go to the metrics log.

    The figures of an interval are fetched when the next interval ends, so that the device never
    waits for a print. The device lags behind the steps it is given, so a thread notes the time
    when it finishes an interval. Only process 0 prints and writes.
    """

    def __init__(self, workdir: Path, steps: int, batch_size: int, screen: Screen | None = None):
        leads = jax.process_index() == 0
        self.screen = screen or Screen(quiet=not leads)
        self._log = MetricsLog(workdir) if leads else None
        self._steps, self._batch_size = steps, batch_size
        self._last_step = self._waited = self._quiet_until = 0
        self._began = time.perf_counter()  # start of the interval that is shown next
        self._clock = ThreadPoolExecutor(1, "clock")
        self._collected: list[Any] = []
        self._pending: Interval | None = None
        self._bar: Any = None
        if leads and self.screen.is_live:
            percent, description = "{task.percentage:3.0f}%", "{task.description}"
            self._bar = self.screen.bar(
                TextColumn(percent), BarColumn(bar_width=24), TextColumn(description)
            )
            self._bar.start()
            self._task = self._bar.add_task("compiling the first step ...", total=steps)

    def resume(self, step: int, waited: float) -> None:
        """Training continues from `step`: the next interval begins now."""
        self._last_step, self._waited, self._began = step, waited, time.perf_counter()

    def add(self, figures) -> None:
        """Keeps a step's figures, still on the device."""
        self._collected.append(figures)

    def log(self, step: int, waited: float) -> bool:
        """Ends an interval and shows the one before; False if that one had a bad step."""
        ended = Interval(
            step,
            max(step - self._last_step, 1),
            self._collected,
            self._clock.submit(_time_when_done, self._collected[-1:]),
            waited - self._waited,
        )
        shown, self._pending, self._collected = self._pending, ended, []
        self._last_step, self._waited = step, waited
        return True if shown is None else self._show(shown)

    def flush(self) -> bool:
        """Shows the interval that is still pending; False if it had a bad step."""
        shown, self._pending = self._pending, None
        return True if shown is None else self._show(shown)

    def write(self, step: int, figures: dict[str, float]) -> None:
        """Writes figures of a step into the metrics log."""
        if self._log:
            self._log.write(step, figures)

    def say(self, content: RenderableType) -> None:
        """Prints a line or a table above the live line."""
        self.screen.show(content)

    def track(self, items: Iterable, what: str, total: int) -> Iterator:
        """The items, with their progress in the live line; for work before the first step."""

        def say(line: str) -> None:
            if self._bar:
                self._bar.update(self._task, description=line)
            else:
                self.say(line)

        return counted(items, say, what, total)

    def close(self) -> None:
        self._clock.shutdown(wait=False)
        if self._bar:
            self._bar.stop()
        if self._log:
            self._log.close()

    def _show(self, interval: Interval) -> bool:
        collected, step = jax.device_get(interval.collected), interval.step
        seconds = max(interval.done.result() - self._began, 1e-9)
        self._began += seconds
        if any(figures["bad"] for figures in collected):
            return False
        totals = jax.tree.map(lambda *x: sum(x), *[figures["sums"] for figures in collected])
        means = {f"train/{name}": float(n / (d or 1)) for name, (n, d) in totals.items()}
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


def _time_when_done(figures: list[Any]) -> float:
    """Waits until the device has computed these figures, and returns the time."""
    jax.block_until_ready(figures)
    return time.perf_counter()
