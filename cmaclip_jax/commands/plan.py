"""cmaclip plan: whether a run fits on TPUs that are not here, and how long it will take."""

import json
import os
import sys
import time

from cmaclip_jax.commands.arguments import (
    add_tasks_argument,
    assumptions,
    make_parser,
    named_tasks,
    read_named_config,
)
from cmaclip_jax.config import with_changes
from cmaclip_jax.errors import UserError
from cmaclip_jax.process import NO_TPU_HERE

HELP = """\
Compiles the train step and the evaluation step of a config for TPUs, with the TPUs' own compiler
and without any TPU, and says whether they fit, what they move, and how long the run will take at
the chips' published rates. No data is read: tasks, and what is unknown without data, are assumed.

  --config=FILE            the run's config, for example configs/food101.py
  --config.FIELD=VALUE     changes one of its fields; cmaclip_jax/config.py lists them all

A topology is a shape of one slice (v4:2x2x2, v5e:16x16, v5p:2x2x2, v6e:4x4) or a name that is
rented (v5e-256). Several topologies or sizes, divided by commas, make a table. A size may carry
fields of its own: --sizes=B/32,H/14:mesh.fsdp=4:model.remat=full. Every plan takes a minute or more
of one core. The exit status is 1 where something does not fit.
"""


def run(arguments: list[str]) -> int:
    """Reads the arguments and plans; status 1 where something does not fit."""
    for variable, value in NO_TPU_HERE.items():  # where there are some as well: none is needed
        os.environ.setdefault(variable, value)
    parser = make_parser("plan", HELP)
    parser.add_argument("--topology", required=True, help="the chips, as v5e:16x16 or v5e-256")
    parser.add_argument("--slices", type=int, default=1, help="how many of it, over the network")
    parser.add_argument("--sizes", default="", help="encoders to compare, SIZE[:FIELD=VALUE],...")
    parser.add_argument(
        "--pairs-per-chip",
        type=int,
        default=0,
        help="let the batch grow with the chips, and the steps shrink: the run sees as many pairs",
    )
    add_tasks_argument(parser)
    parser.add_argument("--fit", action="store_true", help="search the fastest that fits")
    parser.add_argument("--json", action="store_true", help="print figures for scripts")
    options, rest = parser.parse_known_args(arguments)
    if options.pairs_per_chip < 0:
        raise UserError(f"--pairs-per-chip={options.pairs_per_chip} must be 1 or more")
    config, name = read_named_config(rest)
    return int(not all(verdict.fits for _, verdict in plan(config, name, options)))


def plan(config, name: str, options) -> list:
    """Plans for every size and topology that the options name; returns the verdicts."""
    # what is below takes seconds to import
    from cmaclip_jax.planning import text as plan_text
    from cmaclip_jax.planning.topology import open_topology
    from cmaclip_jax.screen import Screen

    say = Screen().say
    for line in assumptions(config, options.tasks, bool(options.sizes)):
        say(line)
    topologies = [open_topology(x, options.slices) for x in options.topology.split(",")]
    wanted = [
        (entry.split(":")[0] or name, _of_chips(sized, len(topology.devices), options), topology)
        for entry in options.sizes.split(",")
        for sized in [_of_size(config, entry)]
        for topology in topologies
    ]
    _check(wanted)
    verdicts, counts = [], {}
    for number, (label, sized, topology) in enumerate(wanted, 1):
        say(f"{number} of {len(wanted)}: compiling {label} for {topology}, a minute or two ...")
        started = time.monotonic()
        verdict = _judged(sized, topology, options, say, counts)
        verdicts.append((label, verdict))
        say(f"  {plan_text.in_short(verdict)} ({time.monotonic() - started:.0f} s)")
    _show(verdicts, options.json)
    return verdicts


def _check(wanted: list) -> None:
    """Raises UserError for batches that do not divide, before the first minute is spent."""
    from cmaclip_jax.runs.assembly import checked_mesh

    for label, config, topology in wanted:
        try:
            checked_mesh(config, topology.devices)
        except UserError as error:
            raise UserError(f"{label} on {topology}: {error}") from error


def _judged(config, topology, options, say, counts: dict):
    """The verdict on one config and topology, or on the best that --fit finds.

    counts: the operations of configs before, which no topology changes.
    """
    from cmaclip_jax.planning.fit import fit
    from cmaclip_jax.planning.run import count_operations, plan_run
    from cmaclip_jax.planning.verdict import judge

    tasks = named_tasks(options.tasks)
    if options.fit:
        return fit(config, tasks, topology, say)
    run = plan_run(config, tasks, topology.devices)
    if str(config) not in counts:
        counts[str(config)] = count_operations(config, tasks)
    return judge(run, topology, counts[str(config)])


def _show(verdicts: list, figures: bool) -> None:
    """Prints the verdicts on standard output: as JSON, as a table, or one plan part by part."""
    from cmaclip_jax.planning import text as plan_text  # takes seconds to import
    from cmaclip_jax.screen import Screen

    if figures:
        json.dump([v.figures() | {"name": n} for n, v in verdicts], sys.stdout, indent=2)
        print()
        return
    screen = Screen(sys.stdout)
    parts = plan_text.whole(*verdicts[0]) if len(verdicts) == 1 else plan_text.several(verdicts)
    for part in parts:
        screen.show(part)


def _of_size(config, entry: str):
    """The config with other encoders, and the fields that come with them: 'H/14:mesh.fsdp=4'."""
    from cmaclip_jax.config import with_overrides

    size, *fields = entry.split(":")
    if any("=" not in field for field in fields):
        raise UserError(f"--sizes={entry}: write SIZE:FIELD=VALUE, as H/14:mesh.fsdp=4")
    config = with_overrides(config, [f"--config.{field}" for field in fields])
    if size:
        config.model.image = config.model.text = size
        config.model.pretrained = config.model.pretrained and "a CLIP of that size"
    return config


def _of_chips(config, chips: int, options):
    """The config with the batch that --pairs-per-chip asks for, and as many pairs in all."""
    if not options.pairs_per_chip:
        return config
    batch_size = options.pairs_per_chip * chips
    steps = -(-config.train.steps * config.train.batch_size // batch_size)
    changes = dict.fromkeys(("train.batch_size", "eval.batch_size"), batch_size)
    return with_changes(config, changes | {"train.steps": steps})
