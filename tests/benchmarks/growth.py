"""How a train step's time grows with the work: python tests/benchmarks/growth.py --output=FILE.png

One quantity grows at a time. The script fits the exponent of the time, and the exponent of the
arithmetic: `time ~ operations^1` is the best possible. A smaller exponent means that a fixed cost
still counts.
"""

import argparse
import json
import math
from pathlib import Path

from cmaclip_jax import process

# isort: split
if __name__ == "__main__":  # as our command does, before JAX is imported
    process.restart_with_huge_pages()
process.prepare()

import jax
import numpy as np

from cmaclip_jax.config import base_config
from cmaclip_jax.measuring.clock import interleaved
from cmaclip_jax.measuring.parts import train_step
from cmaclip_jax.tasks import Task

BASE = {"batch": 8, "length": 32, "tasks": 1, "classes": 100, "image_size": 224}
GROWS = {
    "batch": (2, 4, 8, 16, 32),
    "length": (8, 16, 32, 64, 77),
    "tasks": (1, 4, 16, 64),
    "classes": (10, 100, 1_000, 10_000),
    "image_size": (96, 160, 224, 320, 448),
}
TITLES = {
    "batch": "pairs a step",
    "length": "tokens a text",
    "tasks": "tasks",
    "classes": "classes of a task",
    "image_size": "pixels a side",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="B/32")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--seconds", type=float, default=4, help="of each point")
    parser.add_argument("--rounds", type=int, default=10, help="blocks that are timed of each")
    parser.add_argument("--grows", default=",".join(GROWS))
    parser.add_argument("--output", type=Path, default=Path("growth.png"))
    options = parser.parse_args()
    found = {name: measure(name, options) for name in options.grows.split(",")}
    options.output.with_suffix(".json").write_text(json.dumps(found, indent=2))
    draw(found, options)
    for name, points in found.items():
        print(summary(name, points))


def measure(name: str, options) -> list[dict[str, float]]:
    """Seconds and operations of a step at every value of one thing."""
    points = []
    for value in GROWS[name]:
        work = BASE | {name: value}
        tasks = [
            Task(f"t{i}", tuple(map(str, range(work["classes"])))) for i in range(work["tasks"])
        ]
        part = train_step(config_of(work, options), tasks, jax.devices())
        timing = interleaved({name: part.turns}, options.seconds, options.rounds)[name]
        points.append(
            {"value": value, "seconds": timing.median, "operations": part.operations}
            | {"low": min(timing.blocks), "high": max(timing.blocks)}
        )
        print(f"{name:12}{value:8,}{timing.median * 1e3:12.1f} ms", flush=True)
    return points


def config_of(work: dict[str, int], options):
    config = base_config()
    config.update_from_flattened_dict(
        {
            "model.image": options.size,
            "model.text": options.size,
            "model.dtype": options.dtype,
            "data.vocabulary": 49_408,
            "data.text_length": work["length"],
            "data.image_size": work["image_size"],
            "train.batch_size": work["batch"],
            "eval.batch_size": work["batch"],
        }
    )
    return config


def exponent(values, seconds) -> float:
    """The slope of the upper half of the points, both axes logarithmic: what growth comes to."""
    upper = len(values) // 2
    return float(np.polyfit(np.log(values[upper:]), np.log(seconds[upper:]), 1)[0])


def summary(name: str, points) -> str:
    values, seconds, operations = (
        [point[field] for point in points] for field in ("value", "seconds", "operations")
    )
    time, work = (round(exponent(values, y), 2) + 0.0 for y in (seconds, operations))
    return f"{TITLES[name]:20} time^{time:.2f}  arithmetic^{work:.2f}"


def draw(found, options) -> None:
    """A panel for each: time, and the arithmetic scaled to meet it where it is largest."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    columns = min(3, len(found))
    rows = math.ceil(len(found) / columns)
    figure, panels = pyplot.subplots(
        rows, columns, figsize=(4 * columns, 3.2 * rows), squeeze=False, sharey=True
    )
    for panel in panels.flat[len(found) :]:
        panel.axis("off")
    for panel, (name, points) in zip(panels.flat, found.items(), strict=False):
        values = [point["value"] for point in points]
        seconds = np.array([point["seconds"] for point in points])
        spread = [seconds - [p["low"] for p in points], [p["high"] for p in points] - seconds]
        work = np.array([point["operations"] for point in points])
        panel.errorbar(values, seconds, spread, marker="o", capsize=3, label="measured")
        panel.plot(values, work * seconds[-1] / work[-1], "--", label="the arithmetic alone")
        panel.set(xscale="log", yscale="log", xlabel=TITLES[name])
        panel.set_xticks(values, [f"{value:,}" for value in values])
        panel.minorticks_off()
        panel.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        panel.yaxis.set_tick_params(labelleft=True)
        panel.grid(axis="y", alpha=0.3)
        panel.set_title(summary(name, points).split("  ", 1)[1].strip(), fontsize=9)
    for panel in panels[:, 0]:
        panel.set_ylabel("seconds a step")
    panels[0, 0].legend(fontsize=8)
    figure.suptitle(
        f"train step of {options.size}, {options.dtype}: {jax.devices()[0].device_kind}"
    )
    figure.tight_layout()
    figure.savefig(options.output, dpi=120)


if __name__ == "__main__":
    main()
