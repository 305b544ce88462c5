"""When a run is asked to stop: by a person, or because its machine will be taken."""

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from types import FrameType

import jax
from jax.experimental.multihost_utils import reached_preemption_sync_point

Watch = Callable[[Iterable], Iterator]


class StopAsked(Exception):
    """What somebody was doing is left undone, because the run has to stop."""


class Stopping:
    """While open, SIGTERM and SIGINT are kept until the run asks for them; a second one kills.

    Several processes agree on the moment: JAX passes the signal that one of them got on to the
    others, and finds a moment that none has passed. It counts by calls of `asked`, so every
    process has to call it equally often.
    """

    def __init__(self):
        self._number = 0
        self._calls = 0
        self.stops = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Stopping":
        several = jax.process_count() > 1
        ours = (
            {signal.SIGINT: self._pass_on}
            if several
            else {
                signal.SIGINT: self._keep,
                signal.SIGTERM: self._keep,
            }
        )
        for number, handler in ours.items():
            try:
                self._before[number] = signal.signal(number, handler)
            except ValueError:  # not the main thread: whoever runs us there handles signals
                break
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def asked(self) -> bool:
        """Whether to stop now; the same answer in every process, and for good once it is yes."""
        if jax.process_count() > 1 and not self.stops:
            self._calls += 1
            self.stops = reached_preemption_sync_point(self._calls)
        return self.stops

    @property
    def signal(self) -> signal.Signals:
        """The signal that asked; in a process that heard of it from another, SIGTERM."""
        return signal.Signals(self._number or signal.SIGTERM)

    def watch(self, items: Iterable) -> Iterator:
        """The items, until the run is asked to stop: then StopAsked."""
        for item in items:
            if self.asked():
                raise StopAsked
            yield item

    def _keep(self, number: int, _frame: FrameType | None) -> None:
        self._number, self.stops = number, True
        signal.signal(number, self._before[number])

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        """Ctrl-C takes the way of SIGTERM, which JAX listens to."""
        self._number = number
        signal.signal(number, self._before[number])
        os.kill(os.getpid(), signal.SIGTERM)
