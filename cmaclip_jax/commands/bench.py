"""cmaclip bench: how fast the steps of a run are on this machine."""

import json
import sys

from cmaclip_jax.commands.arguments import (
    CONFIG_HELP,
    add_tasks_argument,
    assumptions,
    make_parser,
    named_tasks,
    read_named_config,
)
from cmaclip_jax.config import with_changes
from cmaclip_jax.errors import UserError

HELP = f"""\
Measures the steps of a config on the devices of this machine: pairs per second, the share of the
devices' peak, memory and compile time. The batches are random; only the part `input` reads data.

{CONFIG_HELP}

parts:
  train        one update with train.batch_size pairs that are already on the device
  evaluation   answers to eval.batch_size pairs that are already on the device, and stay there
  inference    answers to eval.batch_size pairs, from host arrays to host arrays
  one-pair     answers to one pair on one device, from host to host: the latency
  input        the input pipeline alone, on the config's data: the cost of each stage on one core
               (a host can feed its cores times the examples per second of one core)
"""
STEPS = ("train", "evaluation", "inference", "one-pair")
INPUT = "input"


def run(arguments: list[str]) -> None:
    """Reads the arguments and measures."""
    parser = make_parser("bench", HELP)
    parser.add_argument(
        "--parts", default=",".join(STEPS), help="which, divided by commas (default: %(default)s)"
    )
    parser.add_argument("--input", action="store_true", help="add the part input")
    add_tasks_argument(parser)
    parser.add_argument(
        "--seconds", type=float, default=10, help="how long each part is measured (10)"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
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
        print(json.dumps(figures, indent=2))


def bench_steps(config, wanted: list[str], options) -> dict:
    """Measures the wanted parts; shows and returns the figures."""
    import jax  # the imports below take seconds

    from cmaclip_jax.measuring import text as bench_text
    from cmaclip_jax.measuring.steps import measure_steps
    from cmaclip_jax.planning.run import known_towers
    from cmaclip_jax.runs.compute_type import compute_dtype
    from cmaclip_jax.screen import Screen

    jax.config.update(
        "jax_enable_compilation_cache", False
    )  # or compile times would be those of the cache
    dtype = compute_dtype(config.model.dtype, known_towers(config)[1].width).name
    config = with_changes(config, {"model.dtype": dtype})
    screen = Screen()
    for line in assumptions(config, options.tasks):
        screen.say(line)
    figures = measure_steps(config, named_tasks(options.tasks), wanted, options.seconds, screen.say)
    if not options.json:
        for part in bench_text.steps(figures):
            Screen(sys.stdout).show(part)
    return figures


def bench_input(config, options) -> dict:
    """Measures the input pipeline of training and of evaluation; shows and returns the figures."""
    # the imports below take seconds
    from cmaclip_jax.measuring import text as bench_text
    from cmaclip_jax.measuring.input import measure_input
    from cmaclip_jax.screen import Screen

    figures = measure_input(config, options.seconds, Screen().say)
    if not options.json:
        Screen(sys.stdout).show(bench_text.pipelines(figures))
    return figures
