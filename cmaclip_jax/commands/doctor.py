"""cmaclip doctor: whether a machine, or all hosts of a cluster, are fit for a job."""

import os
import sys
import time

from cmaclip_jax.commands.arguments import make_parser, read_named_config
from cmaclip_jax.errors import UserError

HELP = """\
Checks what a job needs before it is started: the same software on all hosts, devices and the mesh
that the config asks for, a sum over all devices, a folder that all hosts can write, readable data,
clocks and room. Give it the job's own arguments, on every host; host 0 writes a line a check.
Every check has a limit. Status 0: all is good; 1: something is not.

  --config=FILE            the run's config; without one, the machines alone are checked
  --config.FIELD=VALUE     changes one of its fields; cmaclip_jax/config.py lists them all
"""

SILENCE = 600  # seconds before JAX gives a host up: the checks have limits of their own
LEAVE = 3.0  # seconds by which host 0 outlives the others, who would complain of its end


class Report:
    """Writes a line for every check, on host 0."""

    def __init__(self):
        self.speaks = True
        self._bad: list[str] = []

    def say(self, name: str, finding) -> None:
        """What a check came to, and what helps where it is bad."""
        self._write(f"{'good' if finding.good else 'BAD ':4}  {name:15} {finding.says}")
        if not finding.good:
            self._bad.append(name)
            if finding.do:
                self._write(f"{'':22}-> {finding.do}")

    def end(self, all_made: bool) -> None:
        """The line below all others."""
        if not all_made:
            self._write(f"ended at {self._bad[-1]!r}; what comes after it was not looked at")
        elif self._bad:
            self._write(f"not ready: {', '.join(self._bad)}")
        else:
            self._write("ready: every check is good")

    def _write(self, line: str) -> None:
        if self.speaks:
            print(line, flush=True)


def run(arguments: list[str]) -> int:
    """Reads the arguments, joins the others, and checks."""
    parser = make_parser("doctor", HELP)
    parser.add_argument("--workdir", help="the run's folder (default: runs/NAME-OF-THE-CONFIG)")
    parser.add_argument("--cluster", default="", help="as for the job: auto, or HOST:PORT,K/N")
    parser.add_argument(
        "--wait", type=float, default=60, help="seconds for the other hosts to come (60)"
    )
    options, rest = parser.parse_known_args(arguments)
    config = None
    if rest:
        config, name = read_named_config(rest)
        options.workdir = options.workdir or f"runs/{name}"
    if options.workdir:
        from cmaclip_jax.training.workdir import run_folder  # imports JAX

        run_folder(options.workdir)  # refuses what no run would take
    return check(config, options)


def check(config, options) -> int:
    """Joins, makes all checks, and says what they came to; returns the exit status."""
    from cmaclip_jax.doctor.hosts import Finding, examine
    from cmaclip_jax.parallel.joining import join, place  # imports JAX

    report, start = Report(), time.monotonic()
    address, number, count = place(options.cluster)
    try:
        join(options.cluster, seconds=options.wait, silence=SILENCE)
    except UserError as error:
        report.say("joining", Finding(False, f"host {number}: {error}"))
        return 1
    report.speaks = number == 0
    if count > 1:
        seconds = time.monotonic() - start
        report.say("joining", Finding(True, f"{count} hosts at {address} in {seconds:.1f} s"))
    from cmaclip_jax.doctor.checks import all_checks  # takes seconds: the others wait

    checks, clear = all_checks(config, options.workdir, count)
    good, ended = examine(checks, report.say)
    clear()
    report.end(ended)
    if not ended:
        _leave(number, count)
    return int(not good)


def _leave(number: int, count: int) -> None:
    """Ends the process although one of its threads hangs, which the usual way waits for."""
    sys.stdout.flush()
    if number == 0 and count > 1:
        time.sleep(LEAVE)
    os._exit(1)
