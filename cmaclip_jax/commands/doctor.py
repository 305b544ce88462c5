"""cmaclip doctor: checks this machine, or all hosts of a cluster, before a job."""

import os
import sys
import time

from cmaclip_jax.commands.arguments import CONFIG_HELP, make_parser, read_named_config
from cmaclip_jax.errors import UserError

HELP = f"""\
Checks what a job needs before it is started: the same software on all hosts, the devices and the
config's mesh, a sum over all devices, a folder that all hosts can write, readable data, clocks,
disk space and memory. Start it on every host, with the arguments of the job. Host 0 prints one
line for each check, and every check has a time limit. The exit status is 0 if all checks pass,
else 1.

{CONFIG_HELP}
                           without --config only the machines are checked
"""

SILENCE = 600  # seconds until JAX calls a host lost; the checks have shorter limits
LEAVE = (
    3.0  # seconds for which host 0 stays: JAX on the other hosts reports an error if it ends first
)


def run(arguments: list[str]) -> int:
    """Reads the arguments and checks."""
    parser = make_parser("doctor", HELP)
    parser.add_argument("--workdir", help="the run's folder (default: runs/NAME-OF-THE-CONFIG)")
    parser.add_argument("--cluster", default="", help="as for the job: auto, or HOST:PORT,K/N")
    parser.add_argument(
        "--wait", type=float, default=60, help="seconds to wait for the other hosts (60)"
    )
    options, rest = parser.parse_known_args(arguments)
    config = None
    if rest:
        config, name = read_named_config(rest)
        options.workdir = options.workdir or f"runs/{name}"
    if options.workdir:
        from cmaclip_jax.training.workdir import run_folder  # imports JAX

        run_folder(options.workdir)  # raises UserError as a run would
    return check(config, options)


def check(config, options) -> int:
    """Joins the other hosts, runs all checks, and prints the results; returns the exit status."""
    from cmaclip_jax.doctor.hosts import Finding, examine
    from cmaclip_jax.doctor.result_lines import ResultLines
    from cmaclip_jax.parallel.joining import join, place  # imports JAX

    lines, start = ResultLines(), time.monotonic()
    address, number, count = place(options.cluster)
    try:
        join(options.cluster, seconds=options.wait, silence=SILENCE)
    except UserError as error:
        lines.say("joining", Finding(False, f"host {number}: {error}"))
        return 1
    lines = ResultLines(quiet=number != 0)
    if count > 1:
        seconds = time.monotonic() - start
        lines.say("joining", Finding(True, f"{count} hosts at {address} in {seconds:.1f} s"))
    from cmaclip_jax.doctor.checks import all_checks  # takes seconds; joining has a time limit

    checks, clear = all_checks(config, options.workdir, count)
    good, complete = examine(checks, lines.say)
    clear()
    lines.end(complete)
    if not complete:
        _leave(number, count)
    return int(not good)


def _leave(number: int, count: int) -> None:
    """Ends the process at once: `sys.exit` would wait for a thread that hangs."""
    sys.stdout.flush()
    if number == 0 and count > 1:
        time.sleep(LEAVE)
    os._exit(1)
