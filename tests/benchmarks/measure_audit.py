"""How many changed labels an audit finds, beside Cleanlab on the same answers.

    python tests/benchmarks/measure_audit.py plant --table=TABLE --output=NOISY --share=0.1 \\
        --tasks=gender,baseColour
    cmaclip audit --config=FILE --config.data.path=NOISY --workdir=DIR [--config.FIELD=VALUE ...]
    python tests/benchmarks/measure_audit.py judge --table=TABLE --audit=DIR

`plant` copies a folder of Parquet files and changes a share of the labels at random. `judge` prints
for every task the area under the curve, the average precision, and the precision among the first
100, the first 1,000, and as many as were changed.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow
from cleanlab.rank import get_label_quality_scores
from pyarrow import parquet
from sklearn.metrics import average_precision_score, roc_auc_score

from cmaclip_jax.auditing.fold_runs import FOLDS, TESTED, alone, fold_runs, joined_outcome
from cmaclip_jax.auditing.unseen_answers import join_answers
from cmaclip_jax.config import base_config, with_changes
from cmaclip_jax.data.bad_records import BadRecords
from cmaclip_jax.data.folds import all_records
from cmaclip_jax.data.sources import open_sources
from cmaclip_jax.evaluation.label_doubts import label_doubts
from cmaclip_jax.evaluation.predictor import Outcome
from cmaclip_jax.tasks import Task, read_tasks
from cmaclip_jax.training.workdir import saved_config


def plant(table: Path, output: Path, share: float, tasks: list[str]) -> None:
    """Changes a share of the labels to another class of the task, all equally often."""
    random = np.random.default_rng(0)
    output.mkdir(parents=True, exist_ok=True)
    files = sorted(table.glob("*.parquet"))
    tables = {file.name: parquet.read_table(file) for file in files}
    for task in tasks:
        cells = {name: np.array(x[task].to_pylist(), object) for name, x in tables.items()}
        classes = sorted({cell for column in cells.values() for cell in column if cell})
        for name, column in cells.items():
            for row in np.flatnonzero(column.astype(bool)):
                if random.random() < share:
                    others = [other for other in classes if other != column[row]]
                    column[row] = others[random.integers(len(others))]
            place = tables[name].schema.get_field_index(task)
            changed = pyarrow.array(list(column), pyarrow.string())
            tables[name] = tables[name].set_column(place, task, changed)
    for name, made in tables.items():
        parquet.write_table(made, output / name, row_group_size=1_000)


def judge(table: Path, audit: Path) -> None:
    """Prints the figures of every task, by the answers of a finished audit."""
    config = saved_config(audit / "fold-1")
    numbers = np.load(audit / FOLDS)
    runs = fold_runs(with_changes(base_config(), config.to_dict()), audit, int(numbers.max()))
    tasks = read_tasks(audit / "fold-1/tasks.json")
    whole = joined_outcome(runs, numbers, TESTED)
    parts = {name: joined_outcome(runs, numbers, name) for name in alone(config)}
    joined, single = (join_answers(tasks, whole, some, numbers) for some in (parts, {}))
    fields = with_changes(config, {"data.path": str(table)}).data
    records = all_records(open_sources(fields, BadRecords(None, fields.on_error, 1.0)))
    print(f"{'task':14} {'ranked by':22}   auc     ap  p@100 p@1000    p@k")
    for task in tasks:
        true = np.array(records.labels(task.name), object)[whole["row"]]
        wrong, labels, probabilities = changed_labels(task, whole, true)
        for method in ("self_confidence", "normalized_margin"):
            quality = get_label_quality_scores(labels, probabilities, method=method)
            show(task.name, f"cleanlab {method}"[:22], wrong, -quality)
        for name, answers in (("whole pairs", single), ("with single modalities", joined)):
            doubts = label_doubts(task, answers.probabilities[task.name], answers.labels[task.name])
            show(task.name, name, wrong, doubts.doubt)


def changed_labels(
    task: Task, whole: Outcome, true: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which known labels were changed bool [K], the labels [K], and the probabilities [K,C]."""
    labels = whole["labels"][task.name].astype(int)
    known = labels >= 0
    given = np.array(task.classes, object)[labels[known]]
    probabilities = whole["probabilities"][task.name][known].astype(float)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return given != true[known], labels[known], probabilities


def show(task: str, name: str, wrong: np.ndarray, score: np.ndarray) -> None:
    """Prints one line: how well a score puts the changed labels first."""
    order = np.argsort(-score, kind="stable")
    first = [wrong[order[:count]].mean() for count in (100, 1_000, wrong.sum())]
    figures = roc_auc_score(wrong, score), average_precision_score(wrong, score), *first
    print(f"{task:14} {name:22} " + " ".join(f"{figure:.4f}" for figure in figures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=("plant", "judge"))
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--audit", type=Path)
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--tasks", type=lambda text: text.split(","), default=[])
    options = parser.parse_args()
    if options.step == "plant":
        plant(options.table, options.output, options.share, options.tasks)
    else:
        judge(options.table, options.audit)


if __name__ == "__main__":
    main()
