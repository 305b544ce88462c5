"""cmaclip bench: how fast the parts of a run are, on this machine."""

import itertools
import time

from cmaclip_jax.commands.arguments import make_parser, read_named_config
from cmaclip_jax.errors import UserError

HELP = """\
Measures the input pipeline of a config alone: no model, no accelerator. What counts is a core:
examples a second times the host's cores is what can be fed to the accelerators of that host.

  --config=FILE            says which data, picture size, augmentation and batch size
  --config.FIELD=VALUE     changes one of its fields; cmaclip_jax/config.py lists them all
"""


def run(arguments: list[str]) -> None:
    """Reads the arguments and measures."""
    parser = make_parser("bench", HELP)
    parser.add_argument("--input", action="store_true", help="measure the input pipeline")
    parser.add_argument("--seconds", type=float, default=10, help="how long each measurement lasts")
    options, rest = parser.parse_known_args(arguments)
    if not options.input:
        raise UserError("bench needs --input: what shall be measured")
    config, _ = read_named_config(rest)
    bench_input(config, options.seconds)


def bench_input(config, seconds: float) -> None:
    """Prints what the training and the evaluation pipeline of a config can do."""
    from cmaclip_jax.inputs import open_data
    from cmaclip_jax.towers import open_towers

    data = open_data(config, None, open_towers(config, None))
    for line in data.lines():
        print(line)
    size, length = data.encode.image_size, data.encode.text_length
    print(f"pictures of {size} x {size}, texts of {length} tokens")
    print(f"{'':26}{'microseconds':>14}{'examples/s':>12}   of one core")
    for name, training in (("training", True), ("evaluation", False)):
        load = data.loader(config.data.split, training)
        batches = _endless(data, load, training)
        for stage, spent in measure(batches, load, seconds).items():
            print(f"{name:12}{stage:14}{spent * 1e6:14.0f}{1 / spent:12,.0f}")
    if data.bad.reasons:
        print(f"not used as they were: {data.bad.summary()}")


def _endless(data, load, training: bool):
    """Batches of the training split, prepared as in training or as in evaluation."""
    from cmaclip_jax.data.pipeline import eval_batches, train_batches

    size = data.config.train.batch_size
    if training:
        return train_batches(load, data.order, batch_size=size)
    return itertools.chain.from_iterable(
        eval_batches(load, batch_size=size) for _ in itertools.count()
    )


def measure(batches, load, seconds: float) -> dict[str, float]:
    """Seconds of one core an example takes, by stage; and the wall's, as 'on this host'."""
    first = next(batches)  # what is made once is not counted
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
