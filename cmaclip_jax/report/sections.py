"""The parts of a report on a whole run: what it is, how it learned, how its tasks do."""

from collections.abc import Mapping, Sequence

import numpy as np

from cmaclip_jax.evaluation.metrics import counted
from cmaclip_jax.evaluation.thresholds import reached
from cmaclip_jax.report.charts import Plot, axis, chart, key, share_axis
from cmaclip_jax.report.kept import Kept
from cmaclip_jax.report.markup import (
    Html,
    element,
    figure,
    join,
    paragraph,
    scrolling,
    share,
    table,
)
from cmaclip_jax.tasks import Task

COLUMNS = {
    "accuracy": "accuracy",
    "macro F1": "macro_f1",
    "average precision": "average_precision",
    "calibration error": "expected_calibration_error",
}
RECALLS = {"recall, micro,": "recall_at_precision", "recall, macro,": "macro_recall_at_precision"}
READING_RECALL = (
    "Recall at a precision: answers are accepted from the surest down, as long as that share of "
    "them is right; the figure is the share of all known labels that is then accepted and right. "
    "The micro figure pools all classes under one threshold; the macro figure is the mean over "
    "classes, each with a threshold of its own. The thresholds are chosen on these very pairs, so "
    "the figures say what the ranking allows; on other pairs a threshold may reach less."
)
SLICES = {"no picture": "without_image", "no words": "without_text"}


def summary(kept: Kept, about: Mapping[str, str], missing: Sequence[str]) -> Html:
    """The run in a few numbers, what it is, and what this page lacks."""
    figures, tiles = kept.figures, []
    if figures:
        mean = figures["mean"]
        tiles = [
            (f"{figures['examples']:,}", f"pairs of {kept.split}"),
            (str(len(kept.tasks)), "tasks"),
            *[
                (figure(mean.get(name)), f"{said}, mean over tasks")
                for said, name in list(COLUMNS.items())[:2]
            ],
        ]
    facts = [
        element("div", element("dt", name), element("dd", value)) for name, value in about.items()
    ]
    shown = [element("div", element("b", value), element("span", what)) for value, what in tiles]
    return join(
        [
            *([element("div", *shown, class_="tiles")] if tiles else []),
            *[paragraph(element("b", "Missing: "), line) for line in missing],
            element("dl", *facts),
        ]
    )


def what_is_missing(kept: Kept) -> list[str]:
    """What the folder does not keep, and the command that makes it."""
    lines = []
    if not kept.figures:
        made = kept.command(f"--split={kept.split}")
        lines.append(f"there are no figures of {kept.split}; make them with {made}")
    elif kept.outcome is None:
        made = kept.command(f"--split={kept.split}")
        lines.append(
            f"evaluation/{kept.split}.npz, which holds every answer, so there are no curves, no "
            f"calibration and no single pairs; make it with {made}"
        )
    if kept.stale is not None:
        step = kept.figures["step"]
        made = kept.command(f"--checkpoint={step}", "--precision=0.95")
        lines.append(
            f"thresholds of step {step}: those of the run were chosen on answers of step "
            f"{kept.stale}; choose them with {made}"
        )
    elif not kept.thresholds:
        made = kept.command("--precision=0.95")
        lines.append(f"no thresholds, so nothing is accepted or held back; choose them with {made}")
    return lines


def learning(kept: Kept) -> Html:
    """The loss and every task's accuracy over the steps."""
    history = kept.history
    if "train/loss" not in history:
        return paragraph("metrics.jsonl holds no figures, so there are no learning curves.")
    plots = [_loss_plot(*history["train/loss"])]
    names = {task.name for task in kept.tasks}
    watched = {
        name: series
        for name, series in history.items()
        if not name.startswith("train/") and name.partition("/")[2] in names
    }
    if not watched:
        missing = "No accuracy was measured on the way (eval.every=0 or eval.watch='')."
        return join([element("div", *plots, class_="plots"), paragraph(missing)])
    plots.append(_accuracy_plot(watched))
    return element("div", *plots, class_="plots")


def _loss_plot(steps: Sequence[int], values: Sequence[float]) -> Html:
    plot = Plot(axis("step", [0, max(steps)], _steps, 5), axis("loss", [0, *_middle(values)]))
    said = f"Training loss, from {values[0]:.3g} to {values[-1]:.3g} at step {steps[-1]:,}"
    return chart(plot.svg(said, plot.line(steps, values, name="training loss")), said + ".")


def _accuracy_plot(watched: Mapping[str, tuple]) -> Html:
    lowest = min(min(values) for _, values in watched.values())
    last = max(max(steps) for steps, _ in watched.values())
    plot = Plot(axis("step", [0, last], _steps, 5), share_axis("accuracy", lowest))
    lines, points, names = [], [], []
    for number, (name, (steps, values)) in enumerate(watched.items()):
        split, _, task = name.partition("/")
        lines.append(plot.line(steps, values, number, name))
        names.append(f"{task} {values[-1]:.3f}")
        for step, value in zip(steps, values, strict=True) if len(steps) <= 40 else ():
            colour = f"fill:var(--s{number % 8})"
            said = f"{name} {value:.3f} at step {step:,}"
            points.append(plot.dot(step, value, 2.5, said, class_="point", style=colour))
    said = f"Accuracy on {split} of each task over the steps"
    return chart(plot.svg(said, *lines, *points), f"{said}; last value:", key(names))


def _middle(values: Sequence[float]) -> np.ndarray:
    """Without the highest hundredth: one outlier shall not flatten a curve."""
    return np.minimum(values, np.quantile(values, 0.99))


def _steps(step: float) -> str:
    return f"{step / 1000:g}k" if step >= 10_000 else f"{step:,.0f}"


def task_table(kept: Kept) -> Html:
    """How good each task is, and what of it can be accepted; two tables, so that both are seen."""
    told = (
        f"Figures of {kept.split} at step {kept.figures['step']:,}. Commonest: the accuracy of "
        "always answering the commonest class."
    )
    if _has_accepted(kept):
        told += _chosen_on(kept)
    return join([paragraph(told), _quality(kept), weights_key(), _acceptance(kept)])


def _quality(kept: Kept) -> Html:
    """A line per task: how well it does, also on what lacks a picture or words."""
    figures = kept.figures
    slices = {said: figures["slices"].get(name) for said, name in SLICES.items()}
    slices = {said: part for said, part in slices.items() if part}
    columns = [*COLUMNS, *slices, "classes", "known", "commonest"]
    rows = [
        [
            task.name,
            share(*scored["modality_weights"].values()),
            *[figure(scored[name]) for name in COLUMNS.values()],
            *[counted(part["tasks"][task.name]) for part in slices.values()],
            str(len(task.classes)),
            f"{scored['examples']:,}",
            figure(commonest(task, scored)),
        ]
        for task, scored in scored_tasks(kept)
    ]
    mean = [figure(figures["mean"].get(name)) for name in COLUMNS.values()]
    rows.append(["mean", "", *mean, *[""] * (len(columns) - len(mean))])
    return table("Tasks", ["task", "weights", *columns], rows)


def _acceptance(kept: Kept) -> Html:
    """A line per task: how much of it can be accepted at a precision, and how much is."""
    stands = ["accepted", "right of these"] if _has_accepted(kept) else []
    columns = [
        (name, precision, f"{word} at {precision}")
        for word, name in RECALLS.items()
        for precision in next(iter(kept.figures["tasks"].values()))["recall_at_precision"]
    ]

    def recalls(scored: Mapping) -> list[str]:
        return [figure((scored.get(name) or {}).get(precision)) for name, precision, _ in columns]

    rows = [
        [task.name, *recalls(scored), *(_accepted(kept, task) if stands else [])]
        for task, scored in scored_tasks(kept)
    ]
    rows.append(["mean", *recalls(kept.figures["mean"]), *[""] * len(stands)])
    head = ["task", *[said for *_, said in columns], *stands]
    return join([table("What can be accepted", head, rows), paragraph(READING_RECALL)])


def _has_accepted(kept: Kept) -> bool:
    """Whether there are thresholds, and answers to try them on."""
    return bool(kept.outcome and kept.thresholds)


def _chosen_on(kept: Kept) -> str:
    """Where the thresholds come from, and a warning where that flatters them."""
    split = next(iter(kept.thresholds.values())).split  # one command chooses them all
    if split == kept.split:
        return (
            f" Thresholds were chosen on {split}, on all of these pairs or one half of them: here "
            "they look better than they are."
        )
    return f" Thresholds were chosen on {split}." if split else ""


def scored_tasks(kept: Kept) -> list[tuple[Task, dict]]:
    """The tasks that the figures are of, with them."""
    figures = kept.figures["tasks"]
    return [(task, figures[task.name]) for task in kept.tasks if task.name in figures]


def weights_key() -> Html:
    """What the colours of the weights mean."""
    return paragraph(
        "Weights: ",
        element("span", "", class_="swatch image"),
        " picture, ",
        element("span", "", class_="swatch text"),
        " words; what either counted for, on average.",
        class_="quiet",
    )


def commonest(task: Task, scored: dict) -> float | None:
    """How often the commonest class is right, of one-label tasks."""
    if task.many or not scored["examples"]:
        return None
    return max(row["support"] for row in scored["classes"].values()) / scored["examples"]


def _accepted(kept: Kept, task: Task) -> list[str]:
    thresholds = kept.thresholds.get(task.name)
    if thresholds is None:
        return ["-", "-"]
    found = reached(thresholds, *kept.judged(task))
    return [figure(found["accepted_share"]), figure(found["precision"])]


def matrix(caption: str, classes: Sequence[str], counts: np.ndarray) -> Html:
    """A confusion matrix, shaded by the share of each true class."""
    rows = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    lines = []
    for truth, name in enumerate(classes):
        cells = [
            element(
                "td",
                str(count) if count else "",
                style=f"--part:{part * 0.6:.2f}" if count else None,
                class_="hit" if truth == decision else None,
                title=f"{name} called {classes[decision]}: {count}" if count else None,
            )
            for decision, (count, part) in enumerate(zip(counts[truth], rows[truth], strict=True))
        ]
        lines.append(element("tr", element("th", name, scope="row"), *cells))
    names = element("tr", *[element("th", n, scope="col") for n in ["truth \\ answer", *classes]])
    whole = [
        element("caption", element("span", caption)),
        element("thead", names),
        element("tbody", *lines),
    ]
    return scrolling(caption, element("table", *whole, class_="matrix"))
