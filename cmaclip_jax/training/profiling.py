"""A profile of a few steps of a run, for TensorBoard or xprof."""

from collections.abc import Callable
from pathlib import Path

import jax
from ml_collections import ConfigDict


class Profiled:
    """A train step that JAX's profiler records during the steps that `config.profile` names.

    start: the step before the first call. Every process writes the profile of its own devices into
        WORKDIR/profile/plugins/profile/steps_FIRST-LAST/.
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
        self._first = max(settings.start, start + 1)  # a run may continue from one of them
        self._folder = workdir / "profile"
        self._recording = False

    def __call__(self, state, batch):
        """Runs the next step."""
        self._step += 1
        if not self._first <= self._step <= self._last:
            return self._train_step(state, batch)
        if self._step == self._first:
            self._open(state)
        with jax.profiler.StepTraceAnnotation("train", step_num=self._step):
            result = self._train_step(state, batch)
        if self._step == self._last:
            jax.block_until_ready(result)  # wait: JAX has only dispatched the steps
            self.close()
            self._say(f"profile of steps {self._first:,} to {self._last:,}: {self._folder}")
        return result

    def close(self) -> None:
        """Writes the profile, if the run ends before the last of these steps."""
        if self._recording:
            self._recording = False
            jax.profiler.stop_trace()

    def _open(self, state) -> None:
        jax.block_until_ready(state)  # earlier steps do not belong to the profile
        options = jax.profiler.ProfileOptions()
        options.session_id = f"steps_{self._first}-{self._last}"  # one folder for all hosts
        jax.profiler.start_trace(str(self._folder), profiler_options=options)
        self._recording = True
