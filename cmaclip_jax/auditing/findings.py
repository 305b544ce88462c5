"""The findings of an audit: its files, its page, and what the screen shows."""

import collections
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from cmaclip_jax.auditing.audited_data import AuditedData, open_audited
from cmaclip_jax.auditing.fold_runs import FOLDS, TESTED, alone, fold_runs, joined_outcome
from cmaclip_jax.auditing.label_studio import studio_tasks, write_studio
from cmaclip_jax.auditing.leaks import accuracies_without, given_run
from cmaclip_jax.auditing.page import MOST_TWINS, audit_page
from cmaclip_jax.auditing.rare_classes import LEVEL, PRECISION, rare_classes, rows_for_a_promise
from cmaclip_jax.auditing.suspect import Suspect
from cmaclip_jax.auditing.suspect_files import worst_first, write_suspects
from cmaclip_jax.auditing.suspects import find_suspects
from cmaclip_jax.auditing.twin_files import TWINS, read_twins
from cmaclip_jax.auditing.twin_table import write_twin_table
from cmaclip_jax.auditing.twins import Twins, conflicts, leaks
from cmaclip_jax.auditing.unseen_answers import UnseenAnswers, join_answers
from cmaclip_jax.evaluation.decisions import known_rows
from cmaclip_jax.evaluation.result_files import read_outcome
from cmaclip_jax.report.explanation import PairView
from cmaclip_jax.report.markup import Html, join, paragraph, table
from cmaclip_jax.report.pages import Section, write_page
from cmaclip_jax.screen import Screen, text_table
from cmaclip_jax.tasks import Task, read_tasks

Contradictions = dict[tuple[int, str], tuple[int, ...]]
SUSPECTS, TWINS_TABLE, PAGE = "audit.csv", "twins.csv", "audit.html"


@dataclasses.dataclass(frozen=True, eq=False)
class Findings:
    """What an audit has found.

    twins: all that keep rows in one fold. Leaks and contradictions come from the sure ones alone.
    contradictions: {(record, task): its twins with another known label}.
    leaked: which records of other splits have a twin in the training split, bool [N].
    accuracies: {task: (on all rows of the judged split, without leaked rows)}; empty without leaks.
    """

    data: AuditedData
    tasks: tuple[Task, ...]
    answers: UnseenAnswers
    twins: Twins
    contradictions: Contradictions
    suspects: Sequence[Suspect]
    leaked: np.ndarray
    accuracies: dict[str, tuple[float, float]]

    def task_rows(self) -> Iterator[list[str]]:
        """A table of the tasks: its head first."""
        counts = collections.Counter(one.task for one in self.suspects)
        likely = collections.Counter(one.task for one in self.suspects if one.likely)
        yield ["task", "known labels", "contradicted", "probably wrong", "rare classes"]
        for task in self.tasks:
            labels = self.answers.labels[task.name]
            known = int(known_rows(labels, task.many).sum())
            numbers = known, counts[task.name], likely[task.name], len(rare_classes(task, labels))
            yield [task.name, *(f"{number:,}" for number in numbers)]

    def leak_rows(self) -> Iterator[list[str]]:
        """A table of accuracies with and without leaked rows: its head first."""
        yield ["task", "all rows", "without leaked rows"]
        for name, both in self.accuracies.items():
            yield [name, *(f"{accuracy:.4f}" for accuracy in both)]

    def show_twins(self, suspect: Suspect) -> list[tuple[PairView, str]]:
        """The twins that contradict a suspect, each with its label."""
        rows = self.contradictions.get((suspect.row, suspect.task), ())[:MOST_TWINS]
        return [(self.data.show(row), self.data.label(row, suspect.task)) for row in rows]

    def facts(self) -> list[tuple[str, str]]:
        """Facts for the top of the page and for the screen."""
        unread = len(self.data) - len(self.answers.row)
        leaks = ", ".join(
            f"{int(self.leaked[self.data.splits == split].sum()):,} of {split}"
            for split in dict.fromkeys(self.data.splits[self.leaked])
        )
        return [
            (
                "rows",
                f"{len(self.data):,}" + (f", {unread:,} of them unreadable" if unread else ""),
            ),
            ("contradicted labels", f"{len(self.suspects):,}"),
            ("probably wrong", f"{sum(one.likely for one in self.suspects):,}"),
            ("pairs of twins", f"{len(self.twins.sure):,}"),
            ("pairs that may be twins", f"{len(self.twins) - len(self.twins.sure):,}"),
            ("rows with a twin in train", leaks or "none"),
        ]


def write_findings(
    config: ConfigDict, workdir: Path, folds: int, split: str, most: int, studio: bool
) -> None:
    """Writes the files and the page of an audit, and shows a summary.

    split: the split that `leaks.given_run` was judged on; '' if there is no such run.
    most: how many suspects the page shows. studio: whether files for Label Studio are written.
    """
    screen = Screen()
    found = find(config, workdir, folds, split)
    write_suspects(workdir / SUSPECTS, found.suspects)
    data = found.data
    write_twin_table(workdir / TWINS_TABLE, found.twins, data.ids, data.splits, data.labels)
    text = audit_page(
        f"Audit of {config.data.path or config.data.source}",
        f"{folds} folds; every answer comes from a model that has not seen the row",
        found.facts(),
        found.suspects,
        data.show,
        found.show_twins,
        config.data.path,
        [leak_section(found), rare_section(found)],
        most,
    )
    write_page(workdir / PAGE, text)
    if studio:
        worst = worst_first(found.suspects)[:most]
        separator = data.separator
        made = studio_tasks(worst, data.tasks, data.show, config.data.path, separator=separator)
        write_studio(workdir, made, data.tasks)
    screen.show(text_table(found.task_rows(), "labels"))
    if found.accuracies:
        screen.show(text_table(found.leak_rows(), f"accuracy on {split}"))
    for name, value in found.facts():
        screen.say(f"{name}: {value}")
    screen.say(f"written to {workdir / PAGE}, {workdir / SUSPECTS} and {workdir / TWINS_TABLE}")


def find(config: ConfigDict, workdir: Path, folds: int, split: str) -> Findings:
    """Reads the outcomes of all runs of an audit, and draws the conclusions."""
    data = open_audited(config, workdir)
    twins = read_twins(workdir / TWINS)
    numbers, runs = np.load(workdir / FOLDS), fold_runs(config, workdir, folds)
    tasks = read_tasks(runs[0].folder / "tasks.json")
    whole = joined_outcome(runs, numbers, TESTED)
    parts = {name: joined_outcome(runs, numbers, name) for name in alone(config)}
    answers = join_answers(tasks, whole, parts, numbers)
    contradictions = contradicting(twins.sure, data)
    named = {key: tuple(data.ids[row] for row in rows) for key, rows in contradictions.items()}
    suspects = find_suspects(tasks, answers, data.ids, data.splits, named, data.separator)
    leaked, accuracies = leaks(twins.sure, data.splits), {}
    if split:
        outcome = read_outcome(given_run(config, workdir, split).folder, split)
        accuracies = accuracies_without(tasks, outcome, leaked[data.splits == split])
    return Findings(data, tasks, answers, twins, contradictions, suspects, leaked, accuracies)


def contradicting(twins: Twins, data: AuditedData) -> Contradictions:
    """The twins of each record with another known label, by record and task."""
    found: Contradictions = {}
    for conflict in conflicts(twins, data.labels):
        one, other = int(twins.first[conflict.pair]), int(twins.second[conflict.pair])
        for row, twin in ((one, other), (other, one)):
            found[row, conflict.task] = (*found.get((row, conflict.task), ()), twin)
    return found


def rare_section(found: Findings) -> Section:
    """The classes with too few rows for a promise."""
    least = rows_for_a_promise()
    lines = [
        [task.name, str(len(rare)), ", ".join(f"{name} ({n})" for name, n in rare.items())]
        for task in found.tasks
        if (rare := rare_classes(task, found.answers.labels[task.name]))
    ]
    text = (
        f"A threshold of its own that promises {PRECISION:.0%} precision (at confidence "
        f"{LEVEL:.0%}) needs at least {least} known rows of the class, even without one mistake."
    )
    head = ["task", "classes", "names and known rows"]
    whole = table("Classes with fewer rows", head, lines, words=head[2:])
    return Section("rare", "Rare classes", join([paragraph(text), whole]))


def leak_section(found: Findings) -> Section:
    """Twins across splits, and the accuracy without them."""
    if not found.leaked.any():
        return Section("leaks", "Leaks", paragraph("No row of val or test has a twin in train."))
    content: list[Html] = [
        paragraph(
            f"Rows of val or test with a twin in train: {int(found.leaked.sum()):,}. A model may "
            f"remember their answers. {TWINS_TABLE} lists them."
        )
    ]
    if found.accuracies:
        head, *lines = found.leak_rows()
        content.append(table("Accuracy of the run on the splits as given", head, lines))
    return Section("leaks", "Leaks", join(content))
