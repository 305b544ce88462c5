"""cmaclip plan: whether a run fits on TPUs that are not here, and how long it will take."""

import json
import os
import sys

from cmaclip_jax.commands.arguments import make_parser, read_named_config
from cmaclip_jax.errors import UserError
from cmaclip_jax.parallel.topology import NO_TPU_HERE

HELP = """\
Compiles the train step and the evaluation step of a config for TPUs, with the TPUs' own compiler
and without any TPU, and says whether they fit, what they move, and how long the run will take at
the chips' published rates. No data is read: tasks, and what is unknown without data, are assumed.

  --config=FILE            the run's config, for example configs/food101.py
  --config.FIELD=VALUE     changes one of its fields; cmaclip_jax/config.py lists them all

A topology is a shape of one slice (v4:2x2x2, v5e:16x16, v5p:2x2x2, v6e:4x4) or a name that is
rented (v5e-256). Several topologies or sizes, divided by commas, make a table.
"""


def run(arguments: list[str]) -> int:
    """Reads the arguments and plans; status 1 where something does not fit."""
    for variable, value in NO_TPU_HERE.items():  # before JAX is imported, which asks around
        os.environ.setdefault(variable, value)
    parser = make_parser("plan", HELP)
    parser.add_argument("--topology", required=True, help="the chips, as v5e:16x16 or v5e-256")
    parser.add_argument("--slices", type=int, default=1, help="how many of it, over the network")
    parser.add_argument("--sizes", default="", help="encoders to compare, as B/32,L/14")
    parser.add_argument("--tasks", default="", help="NAME:CLASSES,... (default: label:100)")
    parser.add_argument("--fit", action="store_true", help="search the fastest that fits")
    parser.add_argument("--json", action="store_true", help="print figures for scripts")
    options, rest = parser.parse_known_args(arguments)
    config, name = read_named_config(rest)
    return int(not all(verdict.fits for _, verdict in plan(config, name, options)))


def plan(config, name: str, options) -> list:
    """Plans for every size and topology that the options name; returns the verdicts."""
    from rich.console import Console  # what is below takes seconds to import

    from cmaclip_jax.commands import plan_text
    from cmaclip_jax.parallel.topology import open_topology
    from cmaclip_jax.planning.fit import describe, fit
    from cmaclip_jax.planning.run import plan_run, unrolled_flops
    from cmaclip_jax.planning.verdict import judge

    console, tasks = Console(stderr=True), _tasks(options.tasks)

    def say(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True, markup=False)

    verdicts = []
    for line in plan_text.assumptions(config, options):
        say(line)
    topologies = [open_topology(x, options.slices) for x in options.topology.split(",")]
    for size in options.sizes.split(","):
        sized = _of_size(config, size)
        for topology in topologies:
            say(f"compiling {size or name} for {topology}, a minute or two ...")
            if options.fit:
                verdict = fit(sized, tasks, topology, say)
                say(f"the fastest found: {describe(verdict.run)}")
            else:
                run = plan_run(sized, tasks, topology.devices)
                verdict = judge(run, topology, unrolled_flops(sized, tasks))
            verdicts.append((size or name, verdict))
    if options.json:
        json.dump([v.figures() | {"name": n} for n, v in verdicts], sys.stdout, indent=2)
        print()
    elif len(verdicts) == 1:
        for part in plan_text.whole(*verdicts[0]):
            Console().print(part, highlight=False, soft_wrap=True)
    else:
        wide = None if sys.stdout.isatty() else 120
        Console(width=wide).print(plan_text.comparison(verdicts), highlight=False)
    return verdicts


def _of_size(config, size: str):
    """The config with other encoders."""
    config = config.copy_and_resolve_references()
    if size:
        config.model.image = config.model.text = size
        config.model.pretrained = config.model.pretrained and "a CLIP of that size"
    return config


def _tasks(text: str) -> list:
    """The tasks that 'dish:101,gender:5' names."""
    from cmaclip_jax.tasks import Task

    tasks = []
    for part in (text or "label:100").split(","):
        name, _, classes = part.rpartition(":")
        if not name or not classes.isdigit():
            raise UserError(f"--tasks={text}: write NAME:CLASSES, as --tasks=dish:101,gender:5")
        tasks.append(Task(name, tuple(map(str, range(int(classes))))))
    return tasks
