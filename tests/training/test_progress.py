"""What is said of a run's speed, on a device that works behind the steps that it is asked for."""

import json
import time

import numpy as np
import pytest

from cmaclip_jax.training.progress import TrainingProgress

STEPS, EVERY, PAUSE_EVERY = 60, 5, 20
SECONDS = 0.01  # a step on the device


class Late:
    """A figure that is on the device, and there from a moment on."""

    def __init__(self, value, ready: float):
        self._value, self._ready = np.asarray(value), ready

    def block_until_ready(self):
        time.sleep(max(self._ready - time.perf_counter(), 0))
        return self

    def __array__(self, *_, **__):
        self.block_until_ready()
        return self._value


class Device:
    """Takes a step at once, and needs `SECONDS` for each, one after another."""

    def __init__(self):
        self._free = 0.0

    def step(self) -> dict:
        self._free = max(self._free, time.perf_counter()) + SECONDS
        late = {"bad": False, "grad_norm": 1.0, "loss": 1.0, "count": 1}
        late = {name: Late(value, self._free) for name, value in late.items()}
        loss = (late.pop("loss"), late.pop("count"))
        return late | {"sums": {"loss": loss}}


@pytest.mark.parametrize("asking", [0.0, 2 * SECONDS], ids=["device", "input"])
def test_the_time_left_is_right_from_the_first_line_after_every_pause(tmp_path, asking):
    """The slower of the two sets the speed: the device, or who asks it (for want of input)."""
    progress, device = TrainingProgress(tmp_path, STEPS, batch_size=4), Device()
    progress.resume(0, 0.0)
    for step in range(1, STEPS + 1):
        time.sleep(asking)
        progress.add(device.step())
        if step % EVERY == 0:
            assert progress.log(step, 0.0)
        if step % PAUSE_EVERY == 0:
            assert progress.flush()
            time.sleep(20 * SECONDS)  # an evaluation
            progress.resume(step, 0.0)
    progress.close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert [row["step"] for row in rows] == list(range(EVERY, STEPS + 1, EVERY))
    for row in rows:
        per_step = 4 / row["examples_per_second"]
        assert per_step == pytest.approx(max(SECONDS, asking), rel=0.5), row
        assert row["seconds_left"] == pytest.approx((STEPS - row["step"]) * per_step, rel=1e-3)
