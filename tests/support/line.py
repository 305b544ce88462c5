"""The smallest objective there is, and, as a command, a run of it: on one host or on several.

    python tests/support/line.py line WORKDIR STEPS [PAUSE [fsdp=2 ...]] [--cluster=HOST:PORT,K/N]

PAUSE: seconds before every batch, so that there is time to be killed in. After it come sizes of the
mesh, `accumulate=N`, and `poison=N`: the batch of step N+1 makes the loss a NaN.
"""

import os
import signal
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from cmaclip_jax import main
from cmaclip_jax.config import base_config
from cmaclip_jax.parallel.mesh import host_rows, make_mesh
from cmaclip_jax.training.assembly import Assembly
from cmaclip_jax.training.loop import train
from cmaclip_jax.training.progress import TrainingProgress

ROWS = 16
BATCHES_OF_AN_EVALUATION = 10


class Line:
    """The loop knows no more of any other objective."""

    def init(self, rng, batch):
        width = batch["x"].shape[-1]
        return {
            "line": {"kernel": jax.random.normal(rng, (width, 4)), "bias": jnp.zeros(4)},
            "out": {"kernel": jax.random.normal(rng, (4, 1))},
        }

    def loss(self, params, batch, rng):
        hidden = jnp.tanh(batch["x"] @ params["line"]["kernel"] + params["line"]["bias"])
        hidden *= 1 + 0.1 * jax.random.normal(rng, hidden.shape)  # as dropout: random by step
        losses = jnp.mean((hidden @ params["out"]["kernel"] - batch["y"]) ** 2, axis=-1)
        return jnp.mean(losses), {"loss": (jnp.sum(losses), jnp.array(len(losses)))}

    def predict(self, params, batch):
        return {}


def line_batch(step: int) -> dict:
    """A batch that depends on its step alone."""
    random = np.random.default_rng(step)
    x = random.normal(size=(ROWS, 8)).astype(np.float32)
    return {"x": x, "y": x.sum(axis=1, keepdims=True)}


def stream(start: int, params=None, stop_after: int | None = None, poison: int | None = None):
    """Batches from a step on; one may be poisoned, or raise the alarm."""
    step = start
    while True:
        batch = line_batch(step)
        if step == poison:
            batch["y"] *= np.nan
        if step == stop_after:
            os.kill(os.getpid(), signal.SIGTERM)
        yield batch
        step += 1


def line_config(steps: int):
    """Small, and with a checkpoint at every second step."""
    config = base_config()
    config.train.steps, config.train.batch_size = steps, ROWS
    config.train.log_every = config.checkpoint.every = 2
    config.eval.every = 6
    return config


def train_line(config, workdir, batches=stream, evaluate=None, devices=1, sizes=(-1, 1, 1)):
    """Trains the line in this process, on the first devices of a mesh of these sizes."""
    workdir.mkdir(exist_ok=True)
    progress = TrainingProgress(workdir, config.train.steps, config.train.batch_size)
    try:
        mesh = make_mesh(*sizes, devices=jax.devices()[:devices])
        assembly = Assembly(config, mesh, Line(), line_batch(0))
        return train(assembly, batches, workdir, progress, evaluate)
    finally:
        progress.close()


def run(arguments: list[str]) -> None:
    """The command: trains, and says what it does on the way."""
    workdir, config = Path(arguments[0]), line_config(int(arguments[1]))
    pause = float(arguments[2]) if len(arguments) > 2 else 0.0
    sizes = {name: int(value) for name, _, value in (x.partition("=") for x in arguments[3:])}
    poison = sizes.pop("poison", None)
    config.train.accumulate = sizes.pop("accumulate", 1)
    mesh = make_mesh(**sizes)
    rows = host_rows(mesh, ROWS)
    workdir.mkdir(exist_ok=True)
    progress = TrainingProgress(workdir, config.train.steps, ROWS)

    def mine(start, params):
        for batch in stream(start, poison=poison):
            time.sleep(pause)
            yield {name: values[rows] for name, values in batch.items()}

    def evaluate(state, step, watch):
        for number in watch(range(BATCHES_OF_AN_EVALUATION)):
            progress.say(f"evaluating step {step}, batch {number}")
            time.sleep(pause)
        return float(step)

    train(Assembly(config, mesh, Line(), line_batch(0)), mine, workdir, progress, evaluate)
    progress.say("trained to the end")


if __name__ == "__main__":
    main.VERBS["line"] = "trains a line"
    sys.modules["cmaclip_jax.commands.line"] = sys.modules["__main__"]
    sys.exit(main.main())
