"""The table at the end of a run or an evaluation."""

from rich.table import Table


def score_table(figures: dict) -> Table:
    """One line per task: of the complete pairs, and the accuracy of what lacks a modality."""
    table = Table(
        box=None,
        pad_edge=False,
        title=f"{figures['split']} at step {figures['step']:,}: "
        f"{figures['examples']:,} pairs with both picture and text",
        title_justify="left",
    )
    slices = {name: figures["slices"].get(name) for name in ("without_image", "without_text")}
    table.add_column("task")
    for column in ("accuracy", "macro F1", "image weight", "no picture", "no text"):
        table.add_column(column, justify="right")
    for name, task in figures["tasks"].items():
        beside = [part and part["tasks"][name]["accuracy"] for part in slices.values()]
        table.add_row(
            name,
            *[_figure(x) for x in (task["accuracy"], task["macro_f1"])],
            f"{task['modality_weights']['image']:.2f}",
            *[_figure(x) for x in beside],
        )
    return table


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
