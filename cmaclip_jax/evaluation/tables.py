"""Figures of a run as tables for the screen."""

from collections.abc import Iterable, Sequence

from rich.table import Table

from cmaclip_jax.evaluation.metrics import counted
from cmaclip_jax.evaluation.retrieval import RECALLED, SOUGHT
from cmaclip_jax.evaluation.scores import PAIRS, watched
from cmaclip_jax.evaluation.thresholds import TaskThresholds


def score_table(figures: dict) -> Table:
    """One line per task: figures of the scored pairs, and the accuracy on incomplete pairs.

    The number in brackets counts the pairs with a known label.
    """
    table = Table(
        box=None,
        pad_edge=False,
        title=f"{figures['split']} at step {figures['step']:,}: "
        f"{figures['examples']:,} {PAIRS[figures['scored']]}",
        title_justify="left",
    )
    slices = {name: figures["slices"].get(name) for name in ("without_image", "without_text")}
    table.add_column("task")
    for column in ("pairs", "accuracy", "macro F1", "image weight", "no picture", "no text"):
        table.add_column(column, justify="right")
    for name, task in figures["tasks"].items():
        slice_figures = [part and part["tasks"][name] for part in slices.values()]
        table.add_row(
            name,
            f"{task['examples']:,}",
            *[_figure(x) for x in (task["accuracy"], task["macro_f1"])],
            f"{task['modality_weights']['image']:.2f}",
            *[counted(part) for part in slice_figures],
        )
    return table


def retrieval_table(figures: dict) -> Table:
    """One line for each of SOUGHT: recall at some ranks, and the median rank."""
    found = figures["retrieval"]
    table = Table(
        box=None,
        pad_edge=False,
        title=f"{figures['split']} at step {figures['step']:,}: {found['pairs']:,} "
        f"{PAIRS['both']}, searched in galleries of {found['gallery']:,}",
        title_justify="left",
    )
    table.add_column("sought")
    for column in (*[f"recall at {most}" for most in RECALLED], "median rank"):
        table.add_column(column, justify="right")
    for what, title in SOUGHT.items():
        recalls = map(_figure, found[what]["recall_at"].values())
        table.add_row(title, *recalls, f"{found[what]['median_rank']:,g}")
    return table


def watched_line(figures: dict) -> str:
    """The figures of an evaluation during training, in one line."""
    split, found = figures["split"], figures.get("retrieval")
    if found:
        parts = [
            f"{what} {' '.join(map(_figure, found[what]['recall_at'].values()))}, "
            f"median rank {found[what]['median_rank']:,g}"
            for what in SOUGHT
        ]
        ranks = ", ".join(map(str, RECALLED))
        return f"{split} recall at {ranks} among {found['gallery']:,} pairs: {'; '.join(parts)}"
    shown = "  ".join(f"{name} {accuracy:.3f}" for name, accuracy in watched(figures).items())
    return f"{split} accuracy: {shown or '-'}"


def threshold_table(thresholds: Sequence[TaskThresholds], reached: Sequence[dict]) -> Table:
    """One line per task: its threshold, and the share accepted, precision and recall it reaches."""
    table = Table(box=None, pad_edge=False)
    table.add_column("task")
    for column in ("threshold", "accepted", "precision", "recall"):
        table.add_column(column, justify="right")
    for task, figures in zip(thresholds, reached, strict=True):
        table.add_row(
            task.task.name,
            "by class" if task.classes else _figure(task.overall.value),
            *[_figure(figures[name]) for name in ("accepted_share", "precision", "recall")],
        )
    return table


def text_table(lines: Iterable[list[str]], title: str) -> Table:
    """A table of text: the header first, then rows that begin with their name."""
    head, *body = lines
    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    for number, name in enumerate(head):
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for cells in body:
        table.add_row(*cells)
    return table


def abstentions(thresholds: Sequence[TaskThresholds]) -> str:
    """The tasks whose thresholds accept nothing, and a remedy; '' if there are none."""
    silent = [
        task.task.name
        for task in thresholds
        if all(x.value is None for x in task.classes.values() or [task.overall])
    ]
    if not silent:
        return ""
    first, names = thresholds[0], ", ".join(silent)
    if first.level is None:
        return (
            f"no threshold of {names} reaches a precision of {first.target:g} on {first.split}; "
            "use a lower --precision, or a run that is right more often where it is confident"
        )
    return (
        f"nothing can be promised for {names}; use more labelled pairs to choose on, a lower "
        "--precision or a lower --confidence"
    )


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
