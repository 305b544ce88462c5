"""Tables and plots of the accuracy of runs under noise."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cmaclip_jax.studies.framework import (
    MEAN,
    csv_text,
    markdown_table,
    style_axes,
    task_title,
    write_files,
)
from cmaclip_jax.studies.robustness import CLEAN, NoiseResult, noise_name, severity

COLUMNS = ("run", "image", "text", "severity", "share", "task", "examples")
FIGURES = ("accuracy", "image_weight")
WHOLE = "whole"  # the column of noises without severities
LEGEND = (
    "Accuracy, and in brackets the mean weight of the picture; the pairs are those of {split} that "
    "are complete without noise. A blank picture is grey, and the model is not told. Missing "
    "pictures and blank words are masked; then the other modality has all the weight."
)


def run_names(workdirs: Sequence[Path]) -> list[str]:
    """Names of the folders, without the part that they share."""
    if len(workdirs) == 1:
        return [workdirs[0].resolve().name]
    paths = [path.resolve() for path in workdirs]
    common = os.path.commonpath(paths)
    return [os.path.relpath(path, common) for path in paths]


def write_report(
    stem: Path, split: str, results: Sequence[NoiseResult], steps: Mapping[str, int]
) -> list[Path]:
    """Writes STEM.md, STEM.csv and STEM.png; steps: {run: the step of its checkpoint}."""
    numbers = csv_text((*COLUMNS, *FIGURES), csv_rows(results))
    texts = {".md": markdown(split, results, steps), ".csv": numbers}
    return write_files(stem, texts, draw(split, results))


def csv_rows(results: Sequence[NoiseResult]) -> Iterator[dict]:
    """A row for every run, noise and task, and for the mean over tasks."""
    for result in results:
        noise = result.noise
        condition: dict = {"run": result.run, "image": noise.image, "text": noise.text}
        condition |= {"severity": severity(noise), "share": noise.share}
        if noise == CLEAN:
            condition |= {"severity": 0}
        for task, figures in (result.tasks | {MEAN: result.mean}).items():
            yield condition | {"task": task} | figures


def table_cells(
    results: Sequence[NoiseResult], task: str, weights: bool = True
) -> Iterator[list[str]]:
    """A line for every noise and run, a column for every severity; the head first.

    weights: whether every accuracy is followed by the weight of the picture.
    """
    runs = list(dict.fromkeys(result.run for result in results))
    by_condition = {(x.run, noise_name(x.noise), severity(x.noise)): x for x in results}
    kinds = dict.fromkeys(noise_name(x.noise) for x in results if x.noise != CLEAN)
    severities = sorted({key[2] for key in by_condition} - {None})
    whole = [None] if any(key[1] in kinds and key[2] is None for key in by_condition) else []
    head = ["noise", "clean", *map(str, severities), *[WHOLE for _ in whole]]
    yield head if len(runs) == 1 else [head[0], "run", *head[1:]]
    for kind in kinds:
        for run in runs:
            keys = [(run, noise_name(CLEAN), None), *((run, kind, x) for x in severities + whole)]
            cells = [cell(by_condition.get(key), task, weights) for key in keys]
            yield [kind, *cells] if len(runs) == 1 else [kind, run, *cells]


def markdown(split: str, results: Sequence[NoiseResult], steps: Mapping[str, int]) -> str:
    """A table for the mean over the tasks, and one for every task."""
    judged = ", ".join(f"{run} at step {step:,}" for run, step in steps.items())
    lines = [f"{LEGEND.format(split=split)} Judged: {judged}."]
    for task in (MEAN, *results[0].tasks):
        table = markdown_table(table_cells(results, task))
        lines += ["", f"## {task_title(task)}", "", *table]
    return "\n".join(lines) + "\n"


def draw(split: str, results: Sequence[NoiseResult]):
    """A row of panels for the mean and for every task, a column for every noise with severities.

    Noises without severities share the last column. A colour is a run; a dashed line is the weight
    of the picture.
    """
    from matplotlib.figure import Figure  # takes seconds to import
    from matplotlib.lines import Line2D

    tasks = (MEAN, *results[0].tasks)
    runs = list(dict.fromkeys(result.run for result in results))
    columns = list(_columns(results))
    size = (1.2 + 1.7 * len(columns), 1.0 + 1.35 * len(tasks))
    figure = Figure((max(size[0], 6), size[1]), dpi=130, layout="constrained")
    axes = figure.subplots(len(tasks), len(columns), sharex="col", sharey=True, squeeze=False)
    for task, across in zip(tasks, axes, strict=True):
        for place, (title, points) in zip(across, columns, strict=True):
            _draw_panel(place, task, runs, points)
            if task == MEAN:
                place.set_title(title, fontsize=9)
        across[0].set_ylabel(task_title(task), fontsize=9)
    lines = [Line2D([], [], color=f"C{i}", label=run) for i, run in enumerate(runs)]
    lines.append(Line2D([], [], color="grey", ls="--", label="weight of the picture"))
    figure.legend(handles=lines, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    figure.suptitle(f"Accuracy on {split} by the severity of noise", fontsize=10)
    return figure


def _columns(results: Sequence[NoiseResult]) -> Iterator[tuple[str, dict[str, list[NoiseResult]]]]:
    """The title of each column, and {label on its x-axis: results}, those without noise first."""
    clean = [x for x in results if x.noise == CLEAN]
    noisy = [x for x in results if x.noise != CLEAN]
    for name in dict.fromkeys(noise_name(x.noise) for x in noisy if severity(x.noise)):
        points = {"0": clean}
        own = [x for x in noisy if noise_name(x.noise) == name]
        for result in sorted(own, key=lambda x: x.noise.severity):
            points.setdefault(str(result.noise.severity), []).append(result)
        yield name.replace(", ", ",\n"), points
    points = {"clean": clean}
    for result in noisy:
        if severity(result.noise) is None:
            points.setdefault(noise_name(result.noise), []).append(result)
    if len(points) > 1:
        yield WHOLE, points


def _draw_panel(axes, task: str, runs: list[str], points: dict[str, list[NoiseResult]]) -> None:
    steps = "clean" not in points  # else the labels are kinds, and no line joins them
    ticks = list(map(int, points)) if steps else range(len(points))
    for number, run in enumerate(runs):
        for figure, style in zip(FIGURES, ("-", "--"), strict=True):
            heights = [
                _figures(x, task)[figure] for own in points.values() for x in own if x.run == run
            ]
            marker = "o" if figure == "accuracy" else "x"
            axes.plot(
                ticks,
                [float("nan") if height is None else height for height in heights],
                ls=style if steps else "none",
                marker=marker,
                color=f"C{number}",
                alpha=0.9 if figure == "accuracy" else 0.6,
                lw=1.2,
                ms=3,
            )
    turned = {} if steps else {"rotation": 90}
    axes.set_xticks(ticks, list(points), fontsize=7, **turned)
    axes.set_ylim(-0.04, 1.04)
    style_axes(axes, 7)


def _figures(result: NoiseResult, task: str) -> dict:
    return result.mean if task == MEAN else result.tasks[task]


def cell(result: NoiseResult | None, task: str, weights: bool = True) -> str:
    """'0.912 (0.55)': accuracy and the picture's weight."""
    figures = result and _figures(result, task)
    if not figures or figures["accuracy"] is None:
        return "-"
    return f"{figures['accuracy']:.3f}" + (f" ({figures['image_weight']:.2f})" if weights else "")
