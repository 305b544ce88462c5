"""Kills a run again and again, and compares its end with that of an uninterrupted run.

    python tests/benchmarks/measure_kills.py --kills=20 --workdir=DIR

Each kill is a SIGKILL at a random moment. The kills alternate between any moment, a moment while a
checkpoint is written, and a moment of an evaluation. The last three come after the last step,
before everything is saved. The same command is started again after every kill.
"""

import argparse
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

ROOT = Path(__file__).resolve().parents[2]
STEPS, LOOKS = 300, 25
RUN = [
    *(f"--config={ROOT / 'configs/quickstart.py'}", "--config.data.shop.train_size=64"),
    *("--config.data.shop.val_size=800", "--config.data.shop.test_size=16"),
    *(f"--config.train.steps={STEPS}", "--config.train.log_every=5"),
    *("--config.train.batch_size=8", "--config.checkpoint.every=4"),
    *(f"--config.eval.every={LOOKS}", "--config.eval.batch_size=16"),
]


def start(workdir: Path) -> subprocess.Popen:
    """The command, without a word."""
    command = [sys.executable, "-m", "cmaclip_jax.main", *RUN, f"--workdir={workdir}"]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def newest_row(workdir: Path) -> dict:
    """What the run wrote last into its metrics."""
    try:
        return json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    except (OSError, IndexError, ValueError):  # none yet, or half a line
        return {}


def unfinished(workdir: Path) -> set[Path]:
    """Checkpoints that Orbax has not yet given their name."""
    return {path for path in workdir.glob("checkpoints/*") if "tmp" in path.name}


def writes(workdir: Path, left: set[Path]) -> bool:
    """A checkpoint is being written."""
    return bool(unfinished(workdir) - left)


def evaluates(workdir: Path, _) -> bool:
    """The figures of the steps are written before an evaluation, and its own after it."""
    row = newest_row(workdir)
    return "train/loss" in row and row["step"] % LOOKS == 0


def ends(workdir: Path, _) -> bool:
    """All steps are done, and the last checkpoint is not yet begun."""
    return newest_row(workdir).get("step") == STEPS


def kill(workdir: Path, moment: Callable, random: np.random.Generator) -> str:
    """Starts the run and kills it at a moment, some steps later; says where it was."""
    row, left = newest_row(workdir), unfinished(workdir)  # of the run before
    begin = row.get("step", 0) + random.integers(20)
    process, deadline = start(workdir), math.inf
    while process.poll() is None and time.time() < deadline:
        new = newest_row(workdir)
        later = new != row and (new["step"] >= begin or new["step"] == STEPS)
        if deadline == math.inf and later and moment(workdir, left):
            deadline = time.time() + random.uniform(0, 0.1)
        time.sleep(0.001)
    process.kill()
    said = process.stderr.read()
    if process.wait() != -signal.SIGKILL:
        return f"ended by itself, with status {process.returncode}: {said.splitlines()[-1]}"
    return f"killed after step {newest_row(workdir).get('step')}"


def end(workdir: Path):
    """The final parameters, after the same command once more."""
    process = start(workdir)
    said = process.stderr.read()
    assert process.wait() == 0, said
    with ocp.CheckpointManager(workdir / "checkpoints") as manager:
        return manager.restore(STEPS, args=ocp.args.StandardRestore())


def equal(one, other) -> bool:
    """Whether two trees have the same bits."""
    same = jax.tree.map(lambda a, b: np.asarray(a).tobytes() == np.asarray(b).tobytes(), one, other)
    return all(jax.tree.leaves(same))


def main() -> int:
    """Status 1 where a bit differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workdir", type=Path, required=True)
    options = parser.parse_args()
    options.workdir.mkdir(parents=True)
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu"}
    random = np.random.default_rng()
    moments = {
        "at any moment": lambda *_: True,
        "while a checkpoint is written": writes,
        "in an evaluation": evaluates,
    }
    killed = options.workdir / "killed"
    turns = list(itertools.islice(itertools.cycle(moments.items()), options.kills - 3))
    turns += 3 * [("in the last step", ends)]
    for number, (name, moment) in enumerate(turns, 1):
        print(f"kill {number} of {len(turns)}, {name}: {kill(killed, moment, random)}", flush=True)
    same = equal(end(killed), end(options.workdir / "whole"))
    print("every bit is the same" if same else "NOT THE SAME")
    return int(not same)


if __name__ == "__main__":
    sys.exit(main())
