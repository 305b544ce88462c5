"""All tasks of a run: the figures of each, and the share of its answers that can be accepted."""

from collections.abc import Callable, Mapping

from cmaclip_jax.evaluation.metrics import counted
from cmaclip_jax.evaluation.threshold_choice import reached
from cmaclip_jax.report.markup import (
    Cell,
    Html,
    element,
    figure,
    join,
    paragraph,
    share,
    table,
)
from cmaclip_jax.report.results import RunResults
from cmaclip_jax.tasks import Task

COLUMNS = {
    "accuracy": "accuracy",
    "macro F1": "macro_f1",
    "average precision": "average_precision",
    "calibration error": "expected_calibration_error",
}
RECALLS = {"recall, micro,": "recall_at_precision", "recall, macro,": "macro_recall_at_precision"}
READING_RECALL = (
    "Recall at a precision: answers are accepted from the most confident down, as long as that "
    "share of them is right. The figure is the share of all known labels that is then accepted "
    "and right. "
    "The micro figure pools all classes under one threshold; the macro figure is the mean over "
    "classes, each with a threshold of its own. The thresholds are chosen on these very pairs, so "
    "the figures say what the ranking allows; on other pairs a threshold may reach less."
)
SLICES = {"no picture": "without_image", "no words": "without_text"}


def task_table(results: RunResults) -> Html:
    """The section of all tasks: a table of figures, and a table of accepted answers."""
    introduction = (
        f"Figures of {results.split} at step {results.figures['step']:,}. Commonest: the accuracy "
        "of always answering the most frequent class."
    )
    if _has_accepted(results):
        introduction += chosen_on(results)
    tasks = table("Tasks", *quality(results))
    return join([paragraph(introduction), tasks, weights_key(), _acceptance(results)])


def quality(
    results: RunResults, weights: Callable[[float, float], Cell] = share
) -> tuple[list[str], list[list[Cell]]]:
    """The head and the rows of the table of tasks: figures, also of pairs that lack something.

    weights: how a cell shows the mean weights of picture and words.
    """
    figures = results.figures
    slices = {title: figures["slices"].get(name) for title, name in SLICES.items()}
    slices = {title: part for title, part in slices.items() if part}
    columns = [*COLUMNS, *slices, "classes", "known", "commonest"]
    rows = [
        [
            task.name,
            weights(*scored["modality_weights"].values()),
            *[figure(scored[name]) for name in COLUMNS.values()],
            *[counted(part["tasks"][task.name]) for part in slices.values()],
            str(len(task.classes)),
            f"{scored['examples']:,}",
            figure(commonest(task, scored)),
        ]
        for task, scored in scored_tasks(results)
    ]
    mean = [figure(figures["mean"].get(name)) for name in COLUMNS.values()]
    rows.append(["mean", "", *mean, *[""] * (len(columns) - len(mean))])
    return ["task", "weights", *columns], rows


def _acceptance(results: RunResults) -> Html:
    """A line per task: the recall at each precision, and the share that is accepted."""
    by_thresholds = ["accepted", "right of these"] if _has_accepted(results) else []
    columns = [
        (name, precision, f"{word} at {precision}")
        for word, name in RECALLS.items()
        for precision in next(iter(results.figures["tasks"].values()))["recall_at_precision"]
    ]

    def recalls(scored: Mapping) -> list[str]:
        return [figure((scored.get(name) or {}).get(precision)) for name, precision, _ in columns]

    rows = [
        [task.name, *recalls(scored), *(accepted_figures(results, task) if by_thresholds else [])]
        for task, scored in scored_tasks(results)
    ]
    rows.append(["mean", *recalls(results.figures["mean"]), *[""] * len(by_thresholds)])
    head = ["task", *[title for *_, title in columns], *by_thresholds]
    return join([table("What can be accepted", head, rows), paragraph(READING_RECALL)])


def _has_accepted(results: RunResults) -> bool:
    """Whether there are thresholds, and answers to compare with them."""
    return bool(results.outcome and results.thresholds)


def chosen_on(results: RunResults) -> str:
    """The split that the thresholds were chosen on, with a warning if it is the reported split."""
    split = next(iter(results.thresholds.values())).split  # one command chooses them all
    if split == results.split:
        return (
            f" Thresholds were chosen on {split}, on all of these pairs or one half of them: here "
            "they look better than they are."
        )
    return f" Thresholds were chosen on {split}." if split else ""


def scored_tasks(results: RunResults) -> list[tuple[Task, dict]]:
    """The tasks that have figures, each with its figures."""
    figures = results.figures["tasks"]
    return [(task, figures[task.name]) for task in results.tasks if task.name in figures]


def weights_key() -> Html:
    """The key to the colours of the weights."""
    return paragraph(
        "Weights: ",
        element("span", "", class_="swatch image"),
        " picture, ",
        element("span", "", class_="swatch text"),
        " words: the mean modality weights.",
        class_="quiet",
    )


def commonest(task: Task, scored: dict) -> float | None:
    """The share of the most frequent class; None for many-label tasks."""
    if task.many or not scored["examples"]:
        return None
    return max(row["support"] for row in scored["classes"].values()) / scored["examples"]


def accepted_figures(results: RunResults, task: Task) -> list[str]:
    """The share of answers that the thresholds accept, and the share of these that is right."""
    thresholds = results.thresholds.get(task.name)
    if thresholds is None:
        return ["-", "-"]
    figures = reached(thresholds, *results.judged(task))
    return [figure(figures["accepted_share"]), figure(figures["precision"])]
