"""What bench found, on the screen."""

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from cmaclip_jax.evaluation.tables import text_table

READING = """\
ms: the median of ten blocks of steps; spread: half of what the middle five of them span, of the
median. Operations: those of matrix products that the model asks for, by our own count, without
what is computed again to save memory. GiB: what the compiler lays out for a step, of a device."""


def steps(figures: dict[str, Any]) -> Iterator[str | Table]:
    """The machine, and a line a part."""
    peak, size = figures["peak"], figures["image_size"]
    cores = f", {figures['cores']} cores" if figures["device"] == "cpu" else ""
    yield (
        f"{figures['devices']} x {figures['device']}{cores}, jax {figures['jax']}: "
        f"{_tera(peak['flops'])} TFLOP/s of {figures['dtype']} ({peak['source']})"
    )
    tasks = ", ".join(f"{name} ({classes})" for name, classes in figures["tasks"].items())
    yield (
        f"pictures of {size} x {size}, texts of {figures['text_length']} tokens; "
        f"tasks (classes): {tasks}"
    )
    head = ["", "pairs", "ms", "spread", "pairs/s", "TFLOP/s", "of peak", "GiB", "compiling"]
    yield text_table([head, *map(_row, figures["parts"].items())], "")
    yield "\n" + READING


def _row(named: tuple[str, dict[str, float]]) -> list[str]:
    name, part = named
    return [
        name,
        f"{part['pairs']:,}",
        f"{part['seconds'] * 1e3:,.1f}",
        f"{part['spread']:.1%}",
        f"{part['pairs_per_second']:,.1f}",
        _tera(part["operations_per_second"]),
        f"{part['share_of_peak']:.0%}",
        f"{part['memory'] / 2**30:.2f}",
        f"{part['compiling']:.1f} s",
    ]


def _tera(operations: float) -> str:
    return f"{operations / 1e12:,.3g}"
