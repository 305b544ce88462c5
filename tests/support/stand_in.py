#!/usr/bin/env -S python3 -S -E
"""What tests put in the place of gcloud, kubectl, docker, xpk, sbatch, srun, scontrol, ...

Every call is recorded in $STAND_IN/calls as a JSON list. What `gcloud ... describe` and the
workers answer are the lines of $STAND_IN/describe and $STAND_IN/status, one a call; the last one
stays. $STAND_IN/fail lists words: the next call that has one of them fails, and the word goes.
"""

import json
import os
import sys
from pathlib import Path

FOLDER = Path(os.environ["STAND_IN"])
REFUSALS = {
    "MISSING": "ERROR: (gcloud.compute.tpus.tpu-vm.describe) NOT_FOUND: Resource "
    "'projects/p/locations/z/{kind}/pod' was not found. This command is authenticated as me",
    "NO_PROJECT": "ERROR: (gcloud) NOT_FOUND: Resource 'projects/p' was not found",
    "NO_LOGIN": "ERROR: (gcloud.auth) There was a problem refreshing your current auth tokens",
}


def next_line(name: str) -> str:
    """The next answer of this kind."""
    lines = (FOLDER / name).read_text().splitlines()
    if len(lines) > 1:
        (FOLDER / name).write_text("\n".join(lines[1:]))
    return lines[0]


def describe(words: list[str]) -> int:
    answer = next_line("describe")
    if answer in REFUSALS:
        kind = "queuedResources" if "queued-resources" in words else "nodes"
        print(REFUSALS[answer].format(kind=kind), file=sys.stderr)
        return 1
    print(answer)
    return 0


def worker_status() -> int:
    for answer in next_line("status").split(" | "):
        if answer == "unreachable":
            print("ssh: connect to host: timed out", file=sys.stderr)
            return 255
        print(f"job: {answer}")
    return 0


def main() -> int:
    words = sys.argv[1:]
    call = [Path(sys.argv[0]).name, *words]
    if words[-2:] == ["-f", "-"] or call[0] == "sbatch":
        (FOLDER / "stdin").write_text(sys.stdin.read())
    with (FOLDER / "calls").open("a") as calls:
        calls.write(json.dumps(call) + "\n")
    if "describe" in words:
        return describe(words)
    if call[0] == "gcloud" and words[-1].endswith('set up"; fi'):
        return worker_status()
    if call[0] == "srun":
        return int(next_line("status"))
    if call[0] == "squeue":
        print("17\n18")
    failing = (FOLDER / "fail").read_text().split() if (FOLDER / "fail").exists() else []
    for word in set(failing) & set(words):
        failing.remove(word)
        (FOLDER / "fail").write_text(" ".join(failing))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
