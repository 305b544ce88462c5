"""The steps of a run whose speed is measured, each compiled."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from cmaclip_jax.config import with_changes
from cmaclip_jax.data.batches import Batch, BatchEncoder
from cmaclip_jax.models.flops import count
from cmaclip_jax.parallel.mesh import batch_sharding, to_device
from cmaclip_jax.parallel.rules import tree_shardings
from cmaclip_jax.planning.run import PlannedRun, plan_run
from cmaclip_jax.tasks import Task


@dataclasses.dataclass(frozen=True)
class MeasuredStep:
    """A compiled step to be measured.

    turns: repeats the step so many times, and returns when the last one is done.
    pairs, operations: of one step, over all devices.
    compiling: seconds. memory: bytes that a step needs on a device, by the compiler's analysis.
    """

    turns: Callable[[int], None]
    pairs: int
    operations: float
    compiling: float
    memory: int


def train_step(config: ConfigDict, tasks: Sequence[Task], devices) -> MeasuredStep:
    """An update of a batch that is on the device: the speed that the input pipeline must match."""
    run = plan_run(config, tasks, devices)
    step, compiling = _compiled(run.lower_train)
    state = run.create_state()
    batch = _placed(run, config.train.batch_size)

    def turns(count: int) -> None:
        nonlocal state
        for _ in range(count):
            state, figures = step(run.seed, state, batch)
        jax.block_until_ready(figures)

    operations = sum(run.arithmetic().values())
    return MeasuredStep(turns, config.train.batch_size, operations, compiling, _memory(step))


def evaluation_step(config: ConfigDict, tasks: Sequence[Task], devices) -> MeasuredStep:
    """Answers to a batch of `eval.batch_size` on the device; the answers stay there."""
    run, step, compiling, params = _evaluation(config, tasks, devices)
    batch = _placed(run, config.eval.batch_size)

    def turns(count: int) -> None:
        for _ in range(count):
            answers = step(params, batch)
        jax.block_until_ready(answers)

    return _forward(run, turns, step, compiling)


def inference(config: ConfigDict, tasks: Sequence[Task], devices) -> MeasuredStep:
    """Answers to `eval.batch_size` pairs, from arrays on the host to arrays on the host."""
    run, step, compiling, params = _evaluation(config, tasks, devices)
    batch, sharding = made_up(run.encode, config.eval.batch_size), batch_sharding(run.mesh)

    def turns(count: int) -> None:
        for _ in range(count):
            jax.device_get(step(params, to_device(batch, sharding)))

    return _forward(run, turns, step, compiling)


def one_pair(config: ConfigDict, tasks: Sequence[Task], devices) -> MeasuredStep:
    """Answers to one pair on one device, from host to host: the latency of an answer."""
    fields = ("train.batch_size", "train.accumulate", "eval.batch_size")
    fields += ("mesh.data", "mesh.fsdp", "mesh.tensor")
    config = with_changes(config, dict.fromkeys(fields, 1))
    return inference(config, tasks, devices[:1])


PARTS: dict[str, Callable[[ConfigDict, Sequence[Task], Any], MeasuredStep]] = {
    "train": train_step,
    "evaluation": evaluation_step,
    "inference": inference,
    "one-pair": one_pair,
}


def made_up(encode: BatchEncoder, rows: int, seed: int = 0) -> Batch:
    """A random batch: every pair has a picture, a text of full length, and all labels."""
    random, batch = np.random.default_rng(seed), encode.empty(rows)
    batch["image"] = random.integers(0, 256, batch["image"].shape, np.uint8)
    most = encode.tokenizer.vocabulary - 1  # CLIP's end-of-text token is the last one
    words = random.integers(1, most, (rows, encode.text_length - 1), np.int32)
    batch["tokens"][:, :-1] = words  # the last position keeps the end-of-text token
    batch["has_image"][:], batch["has_text"][:], batch["weight"][:] = True, True, 1.0
    for task in encode.tasks:
        known = batch["labels"][task.name]
        classes = 2 if task.many else len(task.classes)
        known[:] = random.integers(0, classes, known.shape)
    return batch


def _evaluation(config: ConfigDict, tasks: Sequence[Task], devices):
    """The planned run, its compiled evaluation step, the seconds that took, and parameters."""
    run = plan_run(config, tasks, devices)
    step, compiling = _compiled(run.lower_evaluation)

    def init() -> Any:
        return run.objective.answering_parameters(run.init_state().params)

    shardings = tree_shardings(jax.eval_shape(init), run.mesh)
    return run, step, compiling, jax.jit(init, out_shardings=shardings)()


def _forward(run: PlannedRun, turns: Callable[[int], None], step, compiling: float) -> MeasuredStep:
    pairs = run.config.eval.batch_size
    parts = count(run.objective.model, run.encode.text_length, pairs)
    operations = pairs * sum(part.forward for part in parts.values())
    return MeasuredStep(turns, pairs, operations, compiling, _memory(step))


def _compiled(lower: Callable[[], jax.stages.Lowered]) -> tuple[jax.stages.Compiled, float]:
    start = time.perf_counter()
    return lower().compile(), time.perf_counter() - start


def _placed(run: PlannedRun, rows: int) -> Any:
    return to_device(made_up(run.encode, rows), batch_sharding(run.mesh))


def _memory(step: jax.stages.Compiled) -> int:
    """Bytes on a device: arguments, outputs that reuse no argument's memory, and temporaries."""
    memory = step.memory_analysis()
    new = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.argument_size_in_bytes + new + memory.temp_size_in_bytes
