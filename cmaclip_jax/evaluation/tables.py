"""Figures of an evaluation as tables and lines for the screen."""

from rich.table import Table

from cmaclip_jax.evaluation.metrics import counted
from cmaclip_jax.evaluation.retrieval import RECALLED, SOUGHT
from cmaclip_jax.evaluation.scores import PAIRS, watched
from cmaclip_jax.screen import text_table


def score_table(figures: dict) -> Table:
    """One line per task: figures of the scored pairs, and the accuracy on incomplete pairs.

    The number in brackets counts the pairs with a known label.
    """
    slices = [figures["slices"].get(name) for name in ("without_image", "without_text")]
    head = ["task", "pairs", "accuracy", "macro F1", "image weight", "no picture", "no text"]
    lines = [
        [
            name,
            f"{task['examples']:,}",
            *map(figure, (task["accuracy"], task["macro_f1"])),
            f"{task['modality_weights']['image']:.2f}",
            *[counted(part and part["tasks"][name]) for part in slices],
        ]
        for name, task in figures["tasks"].items()
    ]
    what = f"{figures['examples']:,} {PAIRS[figures['scored']]}"
    return text_table([head, *lines], f"{figures['split']} at step {figures['step']:,}: {what}")


def retrieval_table(figures: dict) -> Table:
    """One line for each of SOUGHT: recall at some ranks, and the median rank."""
    found = figures["retrieval"]
    head = ["sought", *[f"recall at {most}" for most in RECALLED], "median rank"]
    lines = [
        [
            title,
            *map(figure, found[what]["recall_at"].values()),
            f"{found[what]['median_rank']:,g}",
        ]
        for what, title in SOUGHT.items()
    ]
    what = f"{found['pairs']:,} pairs, in galleries of {found['gallery']:,}"
    return text_table([head, *lines], f"{figures['split']} at step {figures['step']:,}: {what}")


def watched_line(figures: dict) -> str:
    """The figures of an evaluation during training, in one line."""
    split, found = figures["split"], figures.get("retrieval")
    if found:
        parts = [
            f"{what} {' '.join(map(figure, found[what]['recall_at'].values()))}, "
            f"median rank {found[what]['median_rank']:,g}"
            for what in SOUGHT
        ]
        ranks = ", ".join(map(str, RECALLED))
        return f"{split} recall at {ranks} among {found['gallery']:,} pairs: {'; '.join(parts)}"
    shown = "  ".join(f"{name} {accuracy:.3f}" for name, accuracy in watched(figures).items())
    return f"{split} accuracy: {shown or '-'}"


def figure(value: float | None) -> str:
    """'0.912'; '-' where it is unknown."""
    return "-" if value is None else f"{value:.3f}"
