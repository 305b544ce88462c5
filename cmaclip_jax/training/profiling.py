"""A few steps of a run under JAX's profiler, for TensorBoard or xprof to show."""

from collections.abc import Callable
from pathlib import Path

import jax
from ml_collections import ConfigDict


class Profiled:
    """A train step that is watched in the steps that `config.profile` names; else just itself.

    start: the step before the first call. Every process writes what its own devices do, all of
        them into WORKDIR/profile/plugins/profile/steps_FIRST-LAST/.
    """

    def __init__(
        self,
        train_step: Callable,
        settings: ConfigDict,
        workdir: Path,
        start: int,
        say: Callable[[str], None],
    ):
        self._train_step, self._step, self._say = train_step, start, say
        self._last = settings.start + settings.steps - 1
        self._first = max(settings.start, start + 1)  # a run may go on in their midst
        self._folder = workdir / "profile"
        self._runs = False

    def __call__(self, state, batch):
        """Makes the next step."""
        self._step += 1
        if not self._first <= self._step <= self._last:
            return self._train_step(state, batch)
        if self._step == self._first:
            self._open(state)
        with jax.profiler.StepTraceAnnotation("train", step_num=self._step):
            result = self._train_step(state, batch)
        if self._step == self._last:
            jax.block_until_ready(result)  # the steps are only asked for as yet
            self.close()
            self._say(f"profile of steps {self._first:,} to {self._last:,}: {self._folder}")
        return result

    def close(self) -> None:
        """Writes what there is, where the run ends before the last of these steps."""
        if self._runs:
            self._runs = False
            jax.profiler.stop_trace()

    def _open(self, state) -> None:
        jax.block_until_ready(state)  # earlier steps do not belong to it
        options = jax.profiler.ProfileOptions()
        options.session_id = f"steps_{self._first}-{self._last}"  # one folder for all hosts
        jax.profiler.start_trace(str(self._folder), profiler_options=options)
        self._runs = True
