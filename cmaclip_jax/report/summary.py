"""The first section of a report: the main figures, facts about the run, and what is missing."""

from collections.abc import Mapping, Sequence

from cmaclip_jax.report.markup import Html, element, figure, join, paragraph
from cmaclip_jax.report.results import RunResults
from cmaclip_jax.report.task_table import COLUMNS


def summary(results: RunResults, about: Mapping[str, str], missing: Sequence[str]) -> Html:
    """The main figures, what this page lacks, and facts about the run."""
    figures, tiles = results.figures, []
    if figures:
        mean = figures["mean"]
        tiles = [
            (f"{figures['examples']:,}", f"pairs of {results.split}"),
            (str(len(results.tasks)), "tasks"),
            *[
                (figure(mean.get(name)), f"{title}, mean over tasks")
                for title, name in list(COLUMNS.items())[:2]
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


def what_is_missing(results: RunResults) -> list[str]:
    """A line for everything that the folder lacks, with the command that makes it."""
    lines, evaluate = [], results.command(f"--split={results.split}")
    if not results.figures:
        lines.append(f"there are no figures of {results.split}; make them with {evaluate}")
    elif results.outcome is None:
        lines.append(
            f"evaluation/{results.split}.npz, which holds every answer, so there are no curves, no "
            f"calibration and no single pairs; make it with {evaluate}"
        )
    if results.stale is not None:
        step = results.figures["step"]
        command = results.command(f"--checkpoint={step}", "--precision=0.95")
        lines.append(
            f"thresholds of step {step}: those of the run were chosen on answers of step "
            f"{results.stale}; choose them with {command}"
        )
    elif not results.thresholds:
        choose = results.command("--precision=0.95")
        lines.append(f"no thresholds: nothing is accepted or held back; choose them with {choose}")
    return lines
