"""What it costs to tune encoders in full, by adapters, by biases and norms alone, or not at all.

    python tests/benchmarks/measure_tuning.py --config=configs/attributes.py \\
        --config.model.pretrained=CLIP [--config.FIELD=VALUE ...] [--rounds=3] [--steps=24]

Trains every variant for a few steps, each time in a process of its own, and all variants in turn.
Prints the time of a step (the least of the rounds' medians, input included), the peak memory of
the process, and the bytes of a checkpoint and of the frozen parameters beside it. Accuracies come
from `cmaclip ablate --variants=full,lora-2,lora-8,lora-32,bitfit,frozen`.
"""

import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path

from cmaclip_jax.config import with_changes
from cmaclip_jax.config_arguments import read_config
from cmaclip_jax.runs.training import open_run
from cmaclip_jax.studies.own_process import in_own_process
from cmaclip_jax.studies.variants import VARIANTS
from cmaclip_jax.training.frozen import frozen_folder

NAMES = ("full", "lora-2", "lora-8", "lora-32", "bitfit", "frozen")
WARM_UP = 4  # steps that are not timed


def measure(arguments: list[str], name: str, steps: int) -> dict[str, float]:
    """Seconds a step, bytes of memory, of a checkpoint and of the frozen parameters."""
    changes = {"train.steps": steps, "train.log_every": 1, "eval.every": 0}
    changes |= {"checkpoint.every": steps, "eval.soup": 0} | dict(VARIANTS[name].changes)
    config = with_changes(read_config(arguments), changes)
    with tempfile.TemporaryDirectory() as folder:
        run = open_run(config, Path(folder))
        marks: list[float] = []
        log = run.progress.log
        run.progress.log = lambda *a: (marks.append(time.perf_counter()), log(*a))[1]
        run.train()
        run.progress.close()
        times = [b - a for a, b in zip(marks[WARM_UP:], marks[WARM_UP + 1 :], strict=False)]
        return {
            "seconds": statistics.median(times),
            "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "checkpoint": size(Path(folder) / "checkpoints" / str(steps)),
            "frozen": size(frozen_folder(folder)),
        }


def size(folder: Path) -> int:
    """The bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=24)
    options, arguments = parser.parse_known_args()
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in NAMES}
    for number in range(options.rounds):
        for name in NAMES:
            print(f"round {number + 1} of {options.rounds}: {name}", flush=True)
            rounds[name].append(in_own_process(measure, arguments, name, options.steps))
    print(f"{'':8}{'ms a step':>10}{'memory MB':>11}{'checkpoint MB':>15}{'frozen MB':>11}")
    for name, measured in rounds.items():
        step = 1e3 * min(m["seconds"] for m in measured)
        memory, checkpoint, frozen = (
            max(m[what] for m in measured) / 1e6 for what in ("memory", "checkpoint", "frozen")
        )
        print(f"{name:8}{step:10.1f}{memory:11,.0f}{checkpoint:15.2f}{frozen:11.2f}")


if __name__ == "__main__":
    main()
