"""The results of the checks on the screen, a line each."""

import sys

from cmaclip_jax.doctor.hosts import Finding
from cmaclip_jax.screen import Screen


class ResultLines:
    """Prints a line for every check; host 0 does, the other hosts are quiet."""

    def __init__(self, quiet: bool = False):
        self._screen = Screen(sys.stdout, quiet)
        self._failed: list[str] = []

    def say(self, name: str, finding: Finding) -> None:
        """Prints the result of a check and, if it failed, what helps."""
        self._screen.say(f"{'good' if finding.good else 'BAD ':4}  {name:15} {finding.says}")
        if not finding.good:
            self._failed.append(name)
            if finding.do:
                self._screen.say(f"{'':22}-> {finding.do}")

    def end(self, complete: bool) -> None:
        """Prints the last line; `complete`: whether every check was run."""
        if not complete:
            self._screen.say(f"stopped at {self._failed[-1]!r}; later checks were not run")
        elif self._failed:
            self._screen.say(f"not ready: {', '.join(self._failed)}")
        else:
            self._screen.say("ready: every check is good")
