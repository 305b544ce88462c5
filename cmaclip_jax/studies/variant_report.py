"""The tables and the plot of a study of variants, made from the results of its finished runs."""

import dataclasses
import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cmaclip_jax.screen import Screen, text_table
from cmaclip_jax.studies.ablation import Study
from cmaclip_jax.studies.framework import (
    MEAN,
    StudyRun,
    csv_text,
    deviation,
    markdown_table,
    style_axes,
    task_title,
    with_deviation,
    write_files,
)
from cmaclip_jax.studies.published import published_tables
from cmaclip_jax.studies.variants import ABOUT


@dataclasses.dataclass(frozen=True)
class Metric:
    """A figure by which variants are compared; `read` takes it from the figures of a task."""

    name: str
    read: Callable[[dict], float]


ACCURACY = Metric("accuracy", lambda figures: figures["accuracy"])
RECALL = Metric("recall at 90 % precision", lambda figures: figures["recall_at_precision"]["0.90"])


@dataclasses.dataclass(frozen=True)
class Report:
    """What a study writes: NAME.md, NAME.csv and NAME.png, with a table for every metric.

    below: the end of the Markdown file.
    """

    name: str
    metrics: tuple[Metric, ...]
    below: str = ""


ABLATION = Report("ablation", (ACCURACY,))
COMPARISON = Report("comparison", (RECALL, ACCURACY), published_tables())

NARROWEST = 0.06  # the smallest range of a panel, so that small differences look small
FAR_BEHIND = 4  # times the distance from the middle variant to the best one, behind the middle
COLUMNS = ("metric", "variant", "task", "mean", "sd", "n", "steps", "minutes", "seeds")


def table_rows(study: Study, metric: Metric) -> list[dict]:
    """A row for every variant and task, the mean over tasks first.

    mean, sd, n: of the figures of the finished seeds; the sample standard deviation sd is None
        for one seed.
    steps, minutes: of the training of one seed, on average; the sum over tasks with a run each.
    seeds: the figure of each seed.
    """
    rows = []
    for variant in study.variants:
        by_seed = [_of_one_seed(study, variant, seed, metric) for seed in study.seeds]
        for task in (MEAN, *study.tasks):
            done = [figures[task] for figures in by_seed if task in figures]
            if done:
                about = {"metric": metric.name, "variant": variant, "task": task}
                rows.append(about | _summary(done))
    return rows


def write_report(study: Study, report: Report) -> list[Path]:
    """Writes the files of a report into the study's folder."""
    rows = [table_rows(study, metric) for metric in report.metrics]
    flat = [
        row | {"seeds": " ".join(map(str, row["seeds"]))} for of_metric in rows for row in of_metric
    ]
    texts = {".md": markdown(study, report, rows), ".csv": csv_text(COLUMNS, flat)}
    return write_files(study.workdir / report.name, texts, draw(study, report.metrics, rows))


def show_report(study: Study, report: Report, screen: Screen) -> None:
    """Writes the files once more, and shows the tables."""
    paths = write_report(study, report)
    for metric in report.metrics:
        screen.say()
        screen.show(
            text_table(table_cells(study, table_rows(study, metric)), heading(study, metric))
        )
    screen.say(f"written to {', '.join(map(str, paths))}")


def heading(study: Study, metric: Metric) -> str:
    """The heading of a table, which says what its numbers are."""
    size = f", trained for {study.minutes:g} minutes each" if study.minutes else ""
    name = metric.name.capitalize()
    return (
        f"{name} on the complete pairs of {study.split}{size}: mean ± sample standard deviation "
        "over seeds"
    )


def table_cells(study: Study, rows: list[dict]) -> Iterator[list[str]]:
    """A table as text: its head, then a line for every variant with figures."""
    yield ["variant", "seeds", "steps", "minutes", "mean", *study.tasks]
    for variant in study.variants:
        own = {row["task"]: row for row in rows if row["variant"] == variant}
        if own:
            first = own.get(MEAN) or next(iter(own.values()))
            spent = [str(first["n"]), f"{first['steps']:,.0f}", f"{first['minutes']:.1f}"]
            yield [variant, *spent, *(_cell(own.get(task)) for task in (MEAN, *study.tasks))]


def markdown(study: Study, report: Report, rows: Sequence[list[dict]]) -> str:
    """The tables with their headings, a list of the variants, and the end of the report."""
    lines = []
    for metric, of_metric in zip(report.metrics, rows, strict=True):
        lines += [f"{heading(study, metric)}.", ""]
        lines += [*markdown_table(table_cells(study, of_metric)), ""]
    lines += [f"- {name}: {ABOUT[name]}" for name in study.variants]
    return "\n".join(lines + (["", report.below] if report.below else [""]))


def draw(study: Study, metrics: Sequence[Metric], rows: Sequence[list[dict]]):
    """A panel for every metric and task: dots are seeds, bars the mean with its deviation."""
    from matplotlib.figure import Figure  # takes seconds to import

    panels = [
        (metric, task, own)
        for metric, of_metric in zip(metrics, rows, strict=True)
        for task in (MEAN, *study.tasks)
        if (own := [row for row in of_metric if row["task"] == task])
    ]
    across = min(4, len(panels))
    down = -(-len(panels) // across)
    height = 0.9 + 0.28 * len(study.variants)
    figure = Figure((1.2 + 2.4 * across, 0.4 + height * down), dpi=150, layout="constrained")
    axes = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
    for place, (metric, task, own) in zip(axes, panels, strict=False):
        _draw_task(place, study, own)
        title = task_title(task) if len(metrics) == 1 else f"{task_title(task)}: {metric.name}"
        place.set_title(title, fontsize=9 if len(metrics) == 1 else 7.5, loc="left")
    for place in axes[len(panels) :]:
        place.remove()
    title = heading(study, metrics[0]) if len(metrics) == 1 else f"{study.split}: means over seeds"
    figure.suptitle(f"{title} (dots: seeds)", fontsize=9)
    return figure


def _draw_task(axes, study: Study, rows: list[dict]) -> None:
    for row in rows:
        height = study.variants.index(row["variant"])
        colour = "C0" if row["variant"] == "full" else "C7"
        below = [height + 0.25] * row["n"]
        axes.plot(row["seeds"], below, "o", color=colour, alpha=0.6, ms=3, mew=0)
        axes.errorbar(
            row["mean"], height, xerr=row["sd"], fmt="|", color=colour, ms=9, mew=1.6, capsize=2
        )
    _set_limits(axes, study, rows)
    axes.set_yticks(range(len(study.variants)), study.variants)
    axes.set_ylim(len(study.variants) - 0.4, -0.5)
    style_axes(axes, 8, grid="x")


def _set_limits(axes, study: Study, rows: list[dict]) -> None:
    """Leaves out variants that are far behind; an arrow with their mean stands in their place."""
    means = [row["mean"] for row in rows]
    middle = statistics.median(means)
    left, right = axes.get_xlim()
    left, right = max(left, middle - FAR_BEHIND * (max(means) - middle)), min(right, 1.01)
    left = min(left, right - NARROWEST)
    axes.set_xlim(left, right)
    for row in rows:
        if row["mean"] < left:
            at = left, study.variants.index(row["variant"])
            axes.annotate(f"\u2190 {row['mean']:.3f}", at, fontsize=7, va="center", color="C7")


def complete(figures: dict) -> dict:
    """The figures of the complete pairs, which are a slice if the run reads one modality."""
    return figures["slices"].get("complete", figures)


def _of_one_seed(
    study: Study, variant: str, seed: int, metric: Metric
) -> dict[str, tuple[float, int, float]]:
    """{task: (figure, steps, minutes)} of the variant's finished runs with a seed."""
    results, spent = {}, []
    for run in study.runs:
        figures = (run.arm.variant, run.seed) == (variant, seed) and run.figures(study.split)
        if not figures:
            continue
        spent.append((figures["step"], training_minutes(run)))
        for task, numbers in complete(figures)["tasks"].items():
            if numbers["examples"]:
                results[task] = (metric.read(numbers), *spent[-1])
    if len(spent) == sum(arm.variant == variant for arm in study.arms) and results:
        mean = statistics.fmean(figure for figure, *_ in results.values())
        results[MEAN] = (mean, *map(sum, zip(*spent, strict=True)))
    return results


def _summary(done: list[tuple[float, int, float]]) -> dict:
    values, steps, minutes = zip(*done, strict=True)
    return {
        "mean": statistics.fmean(values),
        "sd": deviation(values),
        "n": len(values),
        "steps": round(statistics.fmean(steps)),
        "minutes": statistics.fmean(minutes),
        "seeds": list(values),
    }


def training_minutes(run: StudyRun) -> float:
    """The minutes that the steps of a run took, by its log, without evaluating and saving.

    The first interval includes compiling, so it counts like the mean of the others. Steps that
    were repeated after a stop count once.
    """
    lines = map(json.loads, (run.folder / "metrics.jsonl").read_text().splitlines())
    speeds = {x["step"]: x["examples_per_second"] for x in lines if "examples_per_second" in x}
    ends = sorted(speeds)
    seconds = [
        (step - before) * run.config.train.batch_size / speeds[step]
        for before, step in zip([0, *ends], ends, strict=False)
    ]
    if len(ends) < 2:
        return sum(seconds) / 60
    return sum(seconds[1:]) * ends[-1] / (ends[-1] - ends[0]) / 60


def _cell(row: dict | None) -> str:
    if row is None:
        return "-"
    return with_deviation(row["mean"], row["sd"], 3)
