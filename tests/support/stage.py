"""A stage for the launch scripts: a PATH on which all that costs money is a stand-in."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from support.commands import ROOT

LAUNCH = ROOT / "launch"
STAND_IN = ROOT / "tests/support/stand_in.py"
STAND_INS = ("gcloud", "kubectl", "docker", "xpk", "sbatch", "squeue", "scancel", "scontrol")
STAND_INS += ("sacct", "srun")


class Stage:
    """Runs scripts with stand-ins first on the PATH, and tells what they were told."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        for name in STAND_INS:
            (self.bin / name).symlink_to(STAND_IN)

    def run(self, script: str, *words: str, answer="", **variables: str):
        """Runs a script with these variables and no others of its own."""
        kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
        path = f"{self.bin}:{Path(sys.executable).parent}:/usr/bin:/bin"
        return subprocess.run(
            [str(LAUNCH / script), *words],
            env=kept | {"PATH": path, "STAND_IN": str(self.folder)} | variables,
            input=answer,
            capture_output=True,
            text=True,
            timeout=50,
        )

    def answers(self, **lines: list[str]):
        for name, answers in lines.items():
            (self.folder / name).write_text("\n".join(answers))

    def calls(self) -> list[list[str]]:
        """What was called, with temporary folders left out."""
        calls = self.folder / "calls"
        lines = calls.read_text().splitlines() if calls.exists() else []
        calls.unlink(missing_ok=True)
        return [[re.sub(r"/\S*/cmaclip_jax.tar", "cmaclip_jax.tar", w) for w in json.loads(line)]
                for line in lines]  # fmt: skip

    def story(self) -> list[str]:
        """The calls of a pod's life in a word each; looking is left out."""
        told = [self._told(call) for call in self.calls()]
        return [word for word in told if word]

    @staticmethod
    def _told(call: list[str]) -> str:
        if call[4] == "ssh":
            asked = re.search(r"on_worker (install|start|halt|stop|status)", call[-1])
            return asked[1].replace("status", "") if asked else "?"
        return "" if call[4] == "describe" else call[4]
