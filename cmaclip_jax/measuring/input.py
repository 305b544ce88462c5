"""The cost of the input pipeline of a config, stage by stage, without a model."""

import itertools
import time
from collections.abc import Callable, Iterator

from ml_collections import ConfigDict

from cmaclip_jax.data.batches import Batch
from cmaclip_jax.data.loading import Loader
from cmaclip_jax.data.pipeline import eval_batches, train_batches
from cmaclip_jax.runs.data import RunData, open_data
from cmaclip_jax.runs.record_checks import describe_data
from cmaclip_jax.runs.towers import open_towers


def measure_input(
    config: ConfigDict, seconds: float, say: Callable[[str], None]
) -> dict[str, dict[str, float]]:
    """Measures the input pipeline of training and of evaluation, each for so many seconds."""
    data = open_data(config, None, open_towers(config, None))
    size, length = data.encode.image_size, data.encode.text_length
    for line in (*describe_data(data), f"pictures of {size} x {size}, texts of {length} tokens"):
        say(line)
    figures = {
        name: pipeline(data, training, seconds)
        for name, training in (("training", True), ("evaluation", False))
    }
    if data.bad.reasons:
        say(f"not used as they were: {data.bad.summary()}")
    return figures


def pipeline(data: RunData, training: bool, seconds: float) -> dict[str, float]:
    """Seconds of one core per example, by stage; 'on this host' is the wall clock's."""
    load = data.loader(data.config.data.split, training)
    batches = _endless(data, load, training)
    first = next(batches)  # includes the work that is done once, which is not counted
    rows = len(first["weight"])
    load.seconds.clear()
    wall, cores, examples = time.perf_counter(), time.process_time(), 0
    while not examples or time.perf_counter() - wall < seconds:
        next(batches)
        examples += rows
    cores, wall = time.process_time() - cores, time.perf_counter() - wall
    stages = {stage: spent / examples for stage, spent in load.seconds.items()}
    rest = max(cores / examples - sum(stages.values()), 1e-9)
    return stages | {
        "in tf.data": rest,
        "together": cores / examples,
        "on this host": wall / examples,
    }


def _endless(data: RunData, load: Loader, training: bool) -> Iterator[Batch]:
    """Batches of the training split, prepared as in training or as in evaluation."""
    size = data.config.train.batch_size
    if training:
        return train_batches(load, data.order, batch_size=size)
    return itertools.chain.from_iterable(
        eval_batches(load, batch_size=size) for _ in itertools.count()
    )
