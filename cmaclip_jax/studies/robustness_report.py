"""Tables and curves of what noise does to runs."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cmaclip_jax.studies import framework
from cmaclip_jax.studies.framework import markdown_table, write_csv
from cmaclip_jax.studies.robustness import CLEAN, Finding, degree, noise_name

MEAN = "(mean)"  # over the tasks; no task can be called so
COLUMNS = ("run", "image", "text", "severity", "share", "task", "examples")
FIGURES = ("accuracy", "image_weight")
WHOLE = "whole"  # where there are no degrees
LEGEND = (
    "Accuracy, and in brackets the mean weight of the picture; the pairs are those of {split} that "
    "are complete without noise. A blank picture is a grey one, and the model is not told; blank "
    "words are absent, and then the picture has all the weight."
)


def run_names(workdirs: Sequence[Path]) -> list[str]:
    """The folders by what tells them apart."""
    if len(workdirs) == 1:
        return [workdirs[0].resolve().name]
    paths = [path.resolve() for path in workdirs]
    common = os.path.commonpath(paths)
    return [os.path.relpath(path, common) for path in paths]


def write_report(
    stem: Path, split: str, findings: Sequence[Finding], steps: Mapping[str, int]
) -> list[Path]:
    """Writes STEM.md, STEM.csv and STEM.png; steps: of every run, which checkpoint was judged."""
    numbers = {".csv": lambda path: write_csv(path, (*COLUMNS, *FIGURES), csv_rows(findings))}
    text = markdown(split, findings, steps)
    return framework.write_files(stem, text, draw(split, findings), numbers)


def csv_rows(findings: Sequence[Finding]) -> Iterator[dict]:
    """A row for every run, noise and task; the mean over the tasks is one of them."""
    for finding in findings:
        noise = finding.noise
        condition: dict = {"run": finding.run, "image": noise.image, "text": noise.text}
        condition |= {"severity": degree(noise), "share": noise.share}
        if noise == CLEAN:
            condition |= {"severity": 0}
        for task, figures in (finding.tasks | {MEAN: finding.mean}).items():
            yield condition | {"task": task} | figures


def table_cells(
    findings: Sequence[Finding], task: str, weights: bool = True
) -> Iterator[list[str]]:
    """A line for every noise and run, a column for every severity; the head first.

    weights: whether the picture's weight stands beside every accuracy.
    """
    runs = list(dict.fromkeys(finding.run for finding in findings))
    found = {(x.run, noise_name(x.noise), degree(x.noise)): x for x in findings}
    kinds = dict.fromkeys(noise_name(x.noise) for x in findings if x.noise != CLEAN)
    degrees = sorted({key[2] for key in found} - {None})
    whole = [None] if any(key[1] in kinds and key[2] is None for key in found) else []
    head = ["noise", "clean", *map(str, degrees), *[WHOLE for _ in whole]]
    yield head if len(runs) == 1 else [head[0], "run", *head[1:]]
    for kind in kinds:
        for run in runs:
            keys = [(run, noise_name(CLEAN), None), *((run, kind, x) for x in degrees + whole)]
            cells = [cell(found.get(key), task, weights) for key in keys]
            yield [kind, *cells] if len(runs) == 1 else [kind, run, *cells]


def markdown(split: str, findings: Sequence[Finding], steps: Mapping[str, int]) -> str:
    """A table for the mean over the tasks, and one for every task."""
    judged = ", ".join(f"{run} at step {step:,}" for run, step in steps.items())
    lines = [f"{LEGEND.format(split=split)} Judged: {judged}."]
    for task in (MEAN, *findings[0].tasks):
        table = markdown_table(table_cells(findings, task))
        lines += ["", f"## {_title(task)}", "", *table]
    return "\n".join(lines) + "\n"


def draw(split: str, findings: Sequence[Finding]):
    """A row of panels for the mean and every task, a column for every noise with degrees.

    What has no degrees shares the last column. A colour is a run, a dashed line the weight
    of the picture.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    tasks = (MEAN, *findings[0].tasks)
    runs = list(dict.fromkeys(finding.run for finding in findings))
    columns = list(_columns(findings))
    size = (1.2 + 1.7 * len(columns), 1.0 + 1.35 * len(tasks))
    figure = Figure((max(size[0], 6), size[1]), dpi=130, layout="constrained")
    axes = figure.subplots(len(tasks), len(columns), sharex="col", sharey=True, squeeze=False)
    for task, across in zip(tasks, axes, strict=True):
        for place, (title, points) in zip(across, columns, strict=True):
            _draw_panel(place, task, runs, points)
            if task == MEAN:
                place.set_title(title, fontsize=9)
        across[0].set_ylabel(_title(task), fontsize=9)
    lines = [Line2D([], [], color=f"C{i}", label=run) for i, run in enumerate(runs)]
    lines.append(Line2D([], [], color="grey", ls="--", label="weight of the picture"))
    figure.legend(handles=lines, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    figure.suptitle(f"Accuracy on {split} by the severity of noise", fontsize=10)
    return figure


def _columns(findings: Sequence[Finding]) -> Iterator[tuple[str, dict[str, list[Finding]]]]:
    """Titles, and {label on the x-axis: findings} beginning with those without noise."""
    clean = [x for x in findings if x.noise == CLEAN]
    noisy = [x for x in findings if x.noise != CLEAN]
    for name in dict.fromkeys(noise_name(x.noise) for x in noisy if degree(x.noise)):
        points = {"0": clean}
        own = [x for x in noisy if noise_name(x.noise) == name]
        for finding in sorted(own, key=lambda x: x.noise.severity):
            points.setdefault(str(finding.noise.severity), []).append(finding)
        yield name.replace(", ", ",\n"), points
    points = {"clean": clean}
    for finding in noisy:
        if degree(finding.noise) is None:
            points.setdefault(noise_name(finding.noise), []).append(finding)
    if len(points) > 1:
        yield WHOLE, points


def _draw_panel(axes, task: str, runs: list[str], points: dict[str, list[Finding]]) -> None:
    steps = "clean" not in points  # else they are kinds, and nothing lies between two of them
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
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _figures(finding: Finding, task: str) -> dict:
    return finding.mean if task == MEAN else finding.tasks[task]


def _title(task: str) -> str:
    return "mean over tasks" if task == MEAN else task


def cell(finding: Finding | None, task: str, weights: bool = True) -> str:
    """'0.912 (0.55)': accuracy and the picture's weight."""
    figures = finding and _figures(finding, task)
    if not figures or figures["accuracy"] is None:
        return "-"
    return f"{figures['accuracy']:.3f}" + (f" ({figures['image_weight']:.2f})" if weights else "")
