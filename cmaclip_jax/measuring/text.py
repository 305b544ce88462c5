"""The measurements on the screen."""

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from cmaclip_jax.screen import text_table

READING = """\
ms: the median of ten blocks of steps. spread: half of their interquartile range, as a share of the
median. TFLOP/s: the matrix products of the model by our own count, without recomputation. GiB: the
memory of a step on a device, by the compiler's analysis."""


def steps(figures: dict[str, Any]) -> Iterator[str | Table]:
    """The machine, and a line for every part."""
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


def pipelines(figures: dict[str, dict[str, float]]) -> str:
    """A line for every stage of the input pipeline."""
    lines = [f"{'':30}{'microseconds':>14}{'examples/s':>12}   of one core"]
    for name, stages in figures.items():
        for stage, spent in stages.items():
            lines.append(f"{name:12}{stage:18}{spent * 1e6:14.0f}{1 / spent:12,.0f}")
    return "\n".join(lines)


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
