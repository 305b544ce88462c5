"""Fills the missing labels of a table with the answers of a run that keep a promised precision.

Thresholds are chosen on a split whose labels are known. The run answers all rows, as `predict`
does, into a folder beside the output, so that a stopped command continues. Then table and answers
are read side by side: an empty cell of a task is filled if the answer is accepted, and all other
cells stay as they are. Of the rows with cells that stay empty, some are listed to be labelled by
hand. Nothing in the run's folder changes.
"""

import collections
import dataclasses
import itertools
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cmaclip_jax.auditing.review import Review, write_review
from cmaclip_jax.config_arguments import with_overrides
from cmaclip_jax.data.columns import LABELLED
from cmaclip_jax.data.filled_tables import Cells, Label, filled_ending, write_filled
from cmaclip_jax.data.table_files import file_versions
from cmaclip_jax.data.tables import LOOKED_AT, SEPARATOR, NoRow, Row, read_rows
from cmaclip_jax.errors import UserError
from cmaclip_jax.evaluation.scores import score
from cmaclip_jax.evaluation.thresholds import TaskThresholds
from cmaclip_jax.files import write_text
from cmaclip_jax.runs.calibration import choose_thresholds, promise_line
from cmaclip_jax.runs.judged import JudgedRun, open_judged
from cmaclip_jax.screen import Screen
from cmaclip_jax.serving.classifier import Classifier
from cmaclip_jax.serving.input_table import InputTable
from cmaclip_jax.serving.table_answers import TableAnswers, about_answers, check_output
from cmaclip_jax.tasks import Task, task_name
from cmaclip_jax.training.workdir import saved_config

ANSWERS, ABOUT = "answers.jsonl", "about.json"  # in the folder of an unfinished output


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is to be labelled, and how.

    precision, confidence: as `cmaclip evaluate` takes them. calibrate: the split that chooses
    the thresholds. every: whether all answers are accepted, at whatever precision.
    review: how many rows are listed to be labelled by hand.
    overrides: `--config.FIELD=VALUE` arguments for the data of the run.
    """

    workdir: Path
    table: InputTable
    output: Path
    precision: float
    confidence: float | None = 0.9
    calibrate: str = "val"
    every: bool = False
    review: int = 50
    checkpoint: str | int = "newest"
    overrides: tuple[str, ...] = ()
    overwrite: bool = False

    @property
    def report(self) -> Path:
        return self.output.with_suffix(".report.json")

    @property
    def to_review(self) -> Path:
        return self.output.with_suffix(".review.csv")

    def made(self, report: Mapping[str, Any]) -> bool:
        """Whether a report is that of this labelling."""
        return all(report.get(name) == value for name, value in self.about().items())

    def about(self) -> dict[str, Any]:
        """What a report says of the labelling itself."""
        return {
            "workdir": str(self.workdir),
            "input": self.table.path,
            "files": file_versions(self.table.path),
            "calibrated_on": self.calibrate,
            "precision": self.precision,
            "confidence": self.confidence,
            "all_accepted": self.every,
        }

    def check(self) -> None:
        """Raises UserError if the output cannot be written, or may not be replaced."""
        kinds = (filled_ending(self.table.path),)
        check_output(self.output, self.table.path, self.overwrite, kinds)
        if self.review < 0:
            raise UserError(f"--review={self.review} rows; give 0 or more")


def label_table(wanted: Wanted, screen: Screen | None = None) -> dict[str, Any]:
    """Writes the filled table, the rows to label by hand and a report; returns the report."""
    screen = screen or Screen()
    config = with_overrides(saved_config(wanted.workdir), list(wanted.overrides))
    run = open_judged(wanted.workdir, config, checkpoint=wanted.checkpoint)
    if not run.tasks:
        raise UserError(f"{wanted.workdir} has no task to answer; train it on data with labels")
    thresholds, figures = _calibrate(run, wanted, screen)
    classifier = Classifier(run, thresholds)
    folder = wanted.output.with_name(f"{wanted.output.name}.labelling")
    answers = _answer(classifier, wanted, folder, screen)
    separator = config.data.separator if config.data.source == "table" else SEPARATOR
    filling = Filling(wanted, run.tasks, separator)
    columns = [*filling.columns.values(), LABELLED]
    part = folder / wanted.output.name
    write_filled(wanted.table.path, part, columns, filling.cells(answers), separator)
    if wanted.review:
        where = wanted.table, filling.columns
        write_review(wanted.to_review, filling.review, classifier, *where)
    report = _report(wanted, run, thresholds, figures, filling)
    write_text(wanted.report, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    part.replace(wanted.output)  # last: the output says that all is there
    shutil.rmtree(folder)
    return report


def _calibrate(
    run: JudgedRun, wanted: Wanted, screen: Screen
) -> tuple[dict[str, TaskThresholds], dict]:
    """The thresholds of the run's tasks, and the figures on the split that chose them."""
    outcome = run.outcome(wanted.calibrate, screen.track)
    chosen = choose_thresholds(
        run.tasks,
        outcome,
        wanted.precision,
        wanted.confidence,
        split=wanted.calibrate,
        step=run.step,
    )
    fields = (wanted.precision,), (), run.config.model.inputs
    figures = score(outcome, run.tasks, wanted.calibrate, run.step, *fields)
    return {one.task.name: one for one in chosen}, figures


def _answer(classifier: Classifier, wanted: Wanted, folder: Path, screen: Screen) -> Path:
    """The file of all answers, written unless a stopped command has written it."""
    run, answers = classifier.trained, folder / ANSWERS
    about = about_answers(wanted.table, run.workdir, run.step, classifier.thresholds)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / ABOUT).exists():
            write_text(folder / ABOUT, about)
    except OSError as error:
        raise UserError(
            f"cannot write beside {wanted.output} ({error.strerror}); name another --output"
        ) from error
    if (folder / ABOUT).read_text() != about:
        raise UserError(
            f"{folder} holds answers for another table, run or precision; remove it or name "
            "another --output"
        )
    if not answers.exists():
        total = wanted.table.rows
        counts = TableAnswers(classifier, wanted.table, answers).run(
            lambda rows: screen.track(rows, "answered", total, "rows", int)
        )
        if counts and (warning := counts.picture_warning()):
            screen.warn(warning)
    return answers


class Filling:
    """Goes through the rows of a table and their answers; says what is written and counts it.

    columns: {task: the column of its labels}; a table without this column gets it.
    separator: between several labels in a cell.
    counts: {task: how many cells had a label, were filled, stay empty}.
    review: the rows to choose from for labelling by hand.
    """

    def __init__(self, wanted: Wanted, tasks: Sequence[Task], separator: str):
        self.wanted, self.tasks, self.separator = wanted, tuple(tasks), separator
        self.columns = label_columns(wanted.table.path, tasks)
        self.counts = {task.name: collections.Counter() for task in tasks}
        self.rows = self.malformed = self.filled_rows = 0
        self.review = Review(wanted.review)

    def cells(self, answers: Path) -> Iterator[Cells]:
        """What is written into every row."""
        rows = read_rows(self.wanted.table.path)
        with answers.open(encoding="utf-8") as lines:
            for number, (row, line) in enumerate(zip(rows, lines, strict=True), 1):
                if isinstance(row, NoRow):
                    self.malformed += 1
                    yield None
                else:
                    yield self._cells(row, json.loads(line), number)

    def _cells(self, row: Row, answer: Mapping[str, Any], number: int) -> dict[str, Label]:
        self.rows += 1
        filled: dict[str, Label] = {}
        still_open = []
        for task in self.tasks:
            column, counts = self.columns[task.name], self.counts[task.name]
            label = accepted_label(answer, task, self.wanted.every)
            if row.get(column):
                counts["already"] += 1
            elif label is not None:
                counts["filled"] += 1
                filled[column] = label
            else:
                counts["empty"] += 1
                still_open.append(task)
        self.filled_rows += bool(filled)
        names = [name for name, column in self.columns.items() if column in filled]
        before = [name for name in row.get(LABELLED, "").split(SEPARATOR) if name]
        given = {n: x if isinstance(x, str) else self.separator.join(x) for n, x in filled.items()}
        self.review.offer(row | given, answer, still_open, number)
        return filled | {LABELLED: SEPARATOR.join(dict.fromkeys([*before, *names]))}


def label_columns(path: str, tasks: Sequence[Task]) -> dict[str, str]:
    """{task: its column in the table, or the column that the table gets}."""
    first = itertools.islice(read_rows(path), LOOKED_AT)
    names = dict.fromkeys(name for row in first if not isinstance(row, NoRow) for name in row)
    called = {task_name(name): name for name in names}
    return {task.name: called.get(task.name, task.name) for task in tasks}


def accepted_label(answer: Mapping[str, Any], task: Task, every: bool = False) -> Label | None:
    """The label that a line of answers gives to an empty cell; None leaves the cell empty.

    A cell of several labels also says which labels do not hold. So it is filled only if all labels
    that the run answers are accepted, and there is one.
    """
    label, accepted = answer[task.name], answer[f"{task.name}_accepted"]
    if not label:
        return None
    if task.many:
        return tuple(label) if every or all(accepted) else None
    return label if every or accepted else None


def _report(
    wanted: Wanted,
    run: JudgedRun,
    thresholds: Mapping[str, TaskThresholds],
    figures: Mapping[str, Any],
    filling: Filling,
) -> dict[str, Any]:
    """All that a call has chosen and counted."""
    tasks = {}
    for name, counts in filling.counts.items():
        own = figures["tasks"].get(name) or {}
        recall = (own.get("recall_at_precision") or {}).values()
        tasks[name] = {kind: counts[kind] for kind in ("already", "filled", "empty")} | {
            "accuracy": own.get("accuracy"),
            "recall": next(iter(recall), None),
            "thresholds": dataclasses.asdict(thresholds[name]),
        }
    return wanted.about() | {
        "step": run.step,
        "rows": filling.rows,
        "rows_filled": filling.filled_rows,
        "malformed_left_out": filling.malformed,
        "tasks": tasks,
    }


def label_lines(wanted: Wanted, report: Mapping[str, Any]) -> Iterator[str]:
    """What a labelling has done, to be printed."""
    for name, task in report["tasks"].items():
        yield (
            f"{name}: {task['filled']:,} cells filled, {task['already']:,} had a label, "
            f"{task['empty']:,} stay empty"
        )
    if wanted.every:
        yield "every answer was accepted, at whatever precision"
    else:
        yield promise_line(wanted.precision, wanted.confidence, wanted.calibrate)
    if report["malformed_left_out"]:
        yield f"{report['malformed_left_out']:,} places of the table are no rows and were left out"
    if wanted.review:
        yield f"to label by hand first: {wanted.to_review}"
    yield f"written to {wanted.output}; thresholds and counts: {wanted.report}"
