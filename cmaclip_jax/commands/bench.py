"""cmaclip bench: how fast the parts of a run are, on this machine."""

import json
import sys

from cmaclip_jax.commands.arguments import (
    add_tasks_argument,
    assumptions,
    make_parser,
    named_tasks,
    read_named_config,
)
from cmaclip_jax.config import with_changes
from cmaclip_jax.errors import UserError

HELP = """\
Measures the steps of a config on the devices of this machine: pairs a second, the share of the
devices' peak, memory and compile time. The batches are random and no data is read; without --tasks
one task of 100 classes is assumed.

  --config=FILE            the run's config, for example configs/food101.py
  --config.FIELD=VALUE     changes one of its fields; cmaclip_jax/config.py lists them all

train        an update of train.batch_size pairs that are on the device
evaluation   answers to eval.batch_size pairs that are on the device; the answers stay there
inference    the same, from arrays on the host to arrays on the host
one-pair     the same for one pair on one device: the latency of an answer
input        the input pipeline alone, on the config's own data: the cost of each stage on one core
             (examples a second of a core, times the cores, is what a host can feed)
"""
STEPS = ("train", "evaluation", "inference", "one-pair")
INPUT = "input"


def run(arguments: list[str]) -> None:
    """Reads the arguments and measures."""
    parser = make_parser("bench", HELP)
    parser.add_argument("--parts", default=",".join(STEPS), help="default: %(default)s")
    parser.add_argument("--input", action="store_true", help="the input pipeline, too")
    add_tasks_argument(parser)
    parser.add_argument("--seconds", type=float, default=10, help="how long each is measured")
    parser.add_argument("--json", action="store_true", help="print figures for scripts")
    options, rest = parser.parse_known_args(arguments)
    wanted = options.parts.split(",") + [INPUT] * options.input
    for part in wanted:
        if part not in (*STEPS, INPUT):
            raise UserError(f"unknown part {part!r}; --parts takes {', '.join((*STEPS, INPUT))}")
    config, name = read_named_config(rest)
    figures = {"config": name}
    if set(wanted) & set(STEPS):
        figures |= bench_steps(config, [part for part in STEPS if part in wanted], options)
    if INPUT in wanted:
        figures[INPUT] = bench_input(config, options)
    if options.json:
        json.dump(figures, sys.stdout, indent=2)
        print()


def bench_steps(config, wanted: list[str], options) -> dict:
    """Measures these parts, shows the figures, and returns them."""
    import jax  # this and what is below takes seconds to import

    from cmaclip_jax.measuring import text as bench_text
    from cmaclip_jax.measuring.steps import measure_steps
    from cmaclip_jax.runs.towers import compute_dtype
    from cmaclip_jax.screen import Screen

    jax.config.update("jax_enable_compilation_cache", False)  # compiling is measured as well
    dtype = compute_dtype(config.model.dtype).name
    config = with_changes(config, {"model.dtype": dtype})
    result, screen = Screen(sys.stdout), Screen()
    for line in assumptions(config, options.tasks):
        screen.say(line)
    figures = measure_steps(config, named_tasks(options.tasks), wanted, options.seconds, screen.say)
    if not options.json:
        for part in bench_text.steps(figures):
            result.show(part)
    return figures


def bench_input(config, options) -> dict:
    """Measures the input pipeline of training and of evaluation; shows and returns the figures."""
    # what is below takes seconds to import
    from cmaclip_jax.measuring.input import pipeline
    from cmaclip_jax.runs.data import open_data
    from cmaclip_jax.runs.record_checks import describe_data
    from cmaclip_jax.runs.towers import open_towers
    from cmaclip_jax.screen import Screen

    screen = Screen()
    data = open_data(config, None, open_towers(config, None))
    for line in describe_data(data):
        screen.say(line)
    size, length = data.encode.image_size, data.encode.text_length
    if not options.json:
        print(f"pictures of {size} x {size}, texts of {length} tokens")
        print(f"{'':26}{'microseconds':>14}{'examples/s':>12}   of one core")
    figures = {}
    for name, training in (("training", True), ("evaluation", False)):
        figures[name] = pipeline(data, training, options.seconds)
        for stage, spent in figures[name].items() if not options.json else ():
            print(f"{name:12}{stage:14}{spent * 1e6:14.0f}{1 / spent:12,.0f}")
    if data.bad.reasons:
        screen.say(f"not used as they were: {data.bad.summary()}")
    return figures
