"""Stopping a run on Ctrl-C, or on SIGTERM before its machine is taken away."""

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any

import jax
from jax.experimental.multihost_utils import reached_preemption_sync_point

Stoppable = Callable[[Iterable], Iterator]  # passes items on until the run has to stop


class StopRequested(Exception):
    """The run has to stop, so that an evaluation ends before its last batch."""


class Stopping:
    """Inside the `with` block, the first SIGTERM or SIGINT is only recorded; a second one kills.

    Several processes stop at the same step. JAX passes the signal of one process on to the others
    and agrees on a step that no process has reached yet. JAX counts calls of `asked` for this, so
    every process has to call `asked` equally often.
    """

    def __init__(self):
        self._number = 0
        self._calls = 0
        self.stops = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Stopping":
        several = jax.process_count() > 1
        ours = (
            {signal.SIGINT: self._pass_on}
            if several
            else {signal.SIGINT: self._keep, signal.SIGTERM: self._keep}
        )
        for number, handler in ours.items():
            try:
                self._before[number] = signal.signal(number, handler)
            except ValueError:  # not the main thread: the program around us handles signals
                break
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def asked(self) -> bool:
        """Whether to stop now: the same answer in every process. Once True, it stays True."""
        if jax.process_count() > 1 and not self.stops:
            self._calls += 1
            self.stops = reached_preemption_sync_point(self._calls)
        return self.stops

    @property
    def signal(self) -> signal.Signals:
        """The signal that this process got; SIGTERM if another process got it."""
        return signal.Signals(self._number or signal.SIGTERM)

    def stoppable(self, items: Iterable) -> Iterator:
        """Yields the items; raises StopRequested as soon as the run has to stop."""
        for item in items:
            if self.asked():
                raise StopRequested
            yield item

    def _keep(self, number: int, _frame: FrameType | None) -> None:
        self._number, self.stops = number, True
        signal.signal(number, self._before[number])

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        """Turns Ctrl-C into SIGTERM, which JAX passes on to the other processes."""
        self._number = number
        signal.signal(number, self._before[number])
        os.kill(os.getpid(), signal.SIGTERM)
