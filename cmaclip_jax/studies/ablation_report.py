"""The table and the plot of an ablation, made from the results of its finished runs."""

import json
import statistics
from collections.abc import Iterator
from pathlib import Path

from cmaclip_jax.studies.ablation import Study, figures_of
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
from cmaclip_jax.studies.variants import ABOUT

NARROWEST = 0.06  # the smallest range of a panel, so that small differences look small
COLUMNS = ("variant", "task", "mean", "sd", "n", "steps", "minutes", "seeds")


def table_rows(study: Study) -> list[dict]:
    """A row for every variant and task, the mean over tasks first.

    mean, sd, n: of the accuracies of the finished seeds; the sample standard deviation sd is None
        for one seed.
    steps, minutes: of the training of one seed, on average; the sum over tasks with a run each.
    seeds: the accuracy of each seed.
    """
    rows = []
    for variant in study.variants:
        by_seed = [_of_one_seed(study, variant, seed) for seed in study.seeds]
        for task in (MEAN, *study.tasks):
            done = [figures[task] for figures in by_seed if task in figures]
            if done:
                rows.append({"variant": variant, "task": task} | _summary(done))
    return rows


def write_table(study: Study, rows: list[dict]) -> list[Path]:
    """Writes ablation.md, ablation.csv and ablation.png into the study's folder."""
    flat = [row | {"seeds": " ".join(map(str, row["seeds"]))} for row in rows]
    texts = {".md": markdown(study, rows), ".csv": csv_text(COLUMNS, flat)}
    return write_files(study.workdir / "ablation", texts, draw(study, rows))


def heading(study: Study) -> str:
    """The heading of the table, which says what its numbers are."""
    size = f", trained for {study.minutes:g} minutes each" if study.minutes else ""
    return (
        f"Accuracy on the complete pairs of {study.split}{size}: mean ± sample standard deviation "
        "over seeds"
    )


def table_cells(study: Study, rows: list[dict]) -> Iterator[list[str]]:
    """The table as text: its head, then a line for every variant with figures."""
    yield ["variant", "seeds", "steps", "minutes", "mean", *study.tasks]
    for variant in study.variants:
        own = {row["task"]: row for row in rows if row["variant"] == variant}
        if own:
            first = own.get(MEAN) or next(iter(own.values()))
            spent = [str(first["n"]), f"{first['steps']:,.0f}", f"{first['minutes']:.1f}"]
            yield [variant, *spent, *(_cell(own.get(task)) for task in (MEAN, *study.tasks))]


def markdown(study: Study, rows: list[dict]) -> str:
    """The table with its heading and a list of the variants."""
    table = markdown_table(table_cells(study, rows))
    legend = (f"- {name}: {ABOUT[name]}" for name in study.variants)
    return "\n".join([f"{heading(study)}.", "", *table, "", *legend]) + "\n"


def draw(study: Study, rows: list[dict]):
    """A panel for the mean and for every task: dots are seeds, bars the mean with its deviation."""
    from matplotlib.figure import Figure  # takes seconds to import

    panels = [task for task in (MEAN, *study.tasks) if any(row["task"] == task for row in rows)]
    across = min(4, len(panels))
    down = -(-len(panels) // across)
    height = 0.9 + 0.28 * len(study.variants)
    figure = Figure((1.2 + 2.4 * across, 0.4 + height * down), dpi=150, layout="constrained")
    axes = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
    for place, task in zip(axes, panels, strict=False):
        _draw_task(place, study, [row for row in rows if row["task"] == task])
        place.set_title(task_title(task), fontsize=9, loc="left")
    for place in axes[len(panels) :]:
        place.remove()
    figure.suptitle(f"{heading(study)} (dots: seeds)", fontsize=9)
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
    right = min(axes.get_xlim()[1], 1.01)
    axes.set_xlim(min(axes.get_xlim()[0], right - NARROWEST), right)
    axes.set_yticks(range(len(study.variants)), study.variants)
    axes.set_ylim(len(study.variants) - 0.4, -0.5)
    style_axes(axes, 8, grid="x")


def complete(figures: dict) -> dict:
    """The figures of the complete pairs, which are a slice if the run reads one modality."""
    return figures["slices"].get("complete", figures)


def _of_one_seed(study: Study, variant: str, seed: int) -> dict[str, tuple[float, int, float]]:
    """{task: (accuracy, steps, minutes)} of the variant's finished runs with a seed."""
    results, spent = {}, []
    for run in study.runs:
        figures = (run.arm.variant, run.seed) == (variant, seed) and figures_of(run, study.split)
        if not figures:
            continue
        spent.append((figures["step"], training_minutes(run)))
        for task, numbers in complete(figures)["tasks"].items():
            if numbers["examples"]:
                results[task] = (numbers["accuracy"], *spent[-1])
    if len(spent) == sum(arm.variant == variant for arm in study.arms) and results:
        mean = statistics.fmean(accuracy for accuracy, *_ in results.values())
        results[MEAN] = (mean, *map(sum, zip(*spent, strict=True)))
    return results


def _summary(done: list[tuple[float, int, float]]) -> dict:
    accuracies, steps, minutes = zip(*done, strict=True)
    return {
        "mean": statistics.fmean(accuracies),
        "sd": deviation(accuracies),
        "n": len(accuracies),
        "steps": round(statistics.fmean(steps)),
        "minutes": statistics.fmean(minutes),
        "seeds": list(accuracies),
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
