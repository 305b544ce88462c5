"""cmaclip plan: whether a run fits on TPUs that are not here, and how long it takes."""

import json
import os
import sys

from cmaclip_jax.commands.arguments import (
    CONFIG_HELP,
    add_tasks_argument,
    assumptions,
    make_parser,
    named_tasks,
    read_named_config,
)
from cmaclip_jax.errors import UserError
from cmaclip_jax.process import NO_TPU_HERE

HELP = f"""\
Compiles the train step and the evaluation step of a config with the TPUs' own compiler; no TPU is
needed. Prints whether the steps fit into the chips' memory, how many bytes they move, and how long
the run takes at the published rates of the chips. No data is read.

{CONFIG_HELP}

--topology takes the shape of a slice (v4:2x2x2, v5e:16x16, v5p:2x2x2, v6e:4x4) or the name under
which it is rented (v5e-256). Several topologies or sizes, divided by commas, make a table. A size
may set fields of the config: --sizes=B/32,H/14:mesh.fsdp=4:model.remat=full. Each plan takes a
minute or more on one core. The exit status is 1 if a step does not fit.
"""


def run(arguments: list[str]) -> int:
    """Reads the arguments and plans; status 1 if a step does not fit."""
    for variable, value in NO_TPU_HERE.items():  # a TPU of this machine is not used
        os.environ.setdefault(variable, value)
    parser = make_parser("plan", HELP)
    parser.add_argument("--topology", required=True, help="the slice, as v5e:16x16 or v5e-256")
    parser.add_argument(
        "--slices", type=int, default=1, help="how many slices, joined by the network"
    )
    parser.add_argument(
        "--sizes", default="", help="encoder sizes to compare, SIZE[:FIELD=VALUE],..."
    )
    parser.add_argument(
        "--pairs-per-chip",
        type=int,
        default=0,
        help="the batch size divided by the chips; steps change so that the run sees as many pairs",
    )
    add_tasks_argument(parser)
    parser.add_argument(
        "--fit", action="store_true", help="search for the fastest settings that fit"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options, rest = parser.parse_known_args(arguments)
    if options.pairs_per_chip < 0:
        raise UserError(f"--pairs-per-chip={options.pairs_per_chip} must be 1 or more")
    config, name = read_named_config(rest)
    return int(not all(verdict.fits for _, verdict in plan(config, name, options)))


def plan(config, name: str, options) -> list:
    """Plans for every size and topology that the options name; returns the verdicts."""
    # the imports below take seconds
    from cmaclip_jax.planning import text as plan_text
    from cmaclip_jax.planning.candidates import candidates, verdicts
    from cmaclip_jax.screen import Screen

    screen = Screen()
    for line in assumptions(config, options.tasks, bool(options.sizes)):
        screen.say(line)
    places = options.topology, options.slices, options.sizes, options.pairs_per_chip
    compared = candidates(config, name, *places)
    judged = list(verdicts(compared, named_tasks(options.tasks), options.fit, screen.say))
    if options.json:
        print(json.dumps([v.figures() | {"name": n} for n, v in judged], indent=2))
        return judged
    parts = plan_text.whole(*judged[0]) if len(judged) == 1 else plan_text.several(judged)
    for part in parts:
        Screen(sys.stdout).show(part)
    return judged
