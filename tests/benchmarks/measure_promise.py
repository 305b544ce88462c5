"""How often thresholds miss the precision they were chosen for, with and without the bound.

    python tests/benchmarks/measure_promise.py --workdir=RUN [--split=val] [--rows=500]
        [--precision=0.95]

The answers that `cmaclip evaluate` keeps of a split stand for all pairs, so the true precision of
a threshold is known. The script draws --rows of these answers with replacement, chooses thresholds
on them with the code of `cmaclip evaluate --precision`, and computes their true precision.
'broken': the share of draws whose true precision is below the target. 'accepted': the share of all
answers that is accepted, on average. 'nothing': the share of draws that accept no answer.
"""

import argparse
from pathlib import Path

import numpy as np

from cmaclip_jax.evaluation.result_files import read_outcome
from cmaclip_jax.evaluation.threshold_choice import calibrate
from cmaclip_jax.tasks import Task, read_tasks


def known_pairs(outcome, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and labels of the complete pairs whose label is known."""
    probabilities, labels = (outcome[name][task.name] for name in ("probabilities", "labels"))
    known = labels.min(axis=-1) >= 0 if task.many else labels >= 0
    known = known & (outcome["has_image"] > 0) & (outcome["has_text"] > 0)
    return probabilities[known], labels[known]


def missed(task: Task, probabilities, labels, options, level: float | None) -> list[float]:
    """[broken, accepted, nothing] over all draws."""
    random = np.random.default_rng(0)
    right = labels > 0 if task.many else probabilities.argmax(axis=-1) == labels
    broken, accepted = [], []
    for _ in range(options.draws):
        rows = random.integers(0, len(labels), options.rows)
        chosen = calibrate(task, probabilities[rows], labels[rows], options.precision, level)
        stands = chosen.accepts(probabilities)
        accepted.append(stands.mean())
        broken.append(stands.any() and right[stands].mean() < options.precision)
    return [float(np.mean(x)) for x in (broken, accepted, np.equal(accepted, 0))]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--precision", type=float, default=0.95)
    parser.add_argument("--confidence", type=float, default=0.9)
    parser.add_argument("--draws", type=int, default=200)
    options = parser.parse_args()
    outcome = read_outcome(options.workdir, options.split)
    print(f"{'':16}{'promised ' + format(options.confidence, '.0%'):>28}{'not promised':>28}")
    print(f"{'task':16}" + 2 * f"{'broken':>10}{'accepted':>10}{'nothing':>8}")
    for task in read_tasks(options.workdir / "tasks.json"):
        pairs = known_pairs(outcome, task)
        figures = [missed(task, *pairs, options, level) for level in (options.confidence, None)]
        cells = "".join(f"{a:10.3f}{b:10.2f}{c:8.2f}" for a, b, c in figures)
        print(f"{task.name:16}{cells}", flush=True)


if __name__ == "__main__":
    main()
