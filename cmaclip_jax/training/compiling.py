"""The time that a run compiles before its first step, and its use of the compilation cache."""

import collections
import time

import jax

CACHE = "/jax/compilation_cache/"


class Compiling:
    """Counts the programs that were compiled, or read from JAX's compilation cache, from now on."""

    def __init__(self):
        self._start = time.monotonic()
        self._events: collections.Counter = collections.Counter()
        self._listens = True
        jax.monitoring.register_event_listener(self._hear)

    def _hear(self, event: str, **_) -> None:
        self._events[event.removeprefix(CACHE)] += event.startswith(CACHE)

    def done(self) -> str:
        """Ends counting; returns a line about it."""
        self.close()
        said = f"the first step is compiled, after {time.monotonic() - self._start:.0f} s"
        read, kept = self._events["cache_hits"], self._events["cache_misses"]
        folder = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
        return f"{said}; {read} programs read from {folder}, {kept} added" if folder else said

    def close(self) -> None:
        """Ends counting."""
        if self._listens:
            self._listens = False
            jax.monitoring.unregister_event_listener(self._hear)
