"""The loss and the accuracies of a run over its steps."""

from collections.abc import Mapping, Sequence

import numpy as np

from cmaclip_jax.report.charts import Plot, axis, chart, key, share_axis
from cmaclip_jax.report.markup import Html, element, join, paragraph
from cmaclip_jax.report.results import RunResults


def learning_curves(results: RunResults) -> Html:
    """The loss and every task's accuracy over the steps."""
    history = results.history
    if "train/loss" not in history:
        return paragraph("metrics.jsonl holds no figures, so there are no learning curves.")
    plots = [_loss_plot(*history["train/loss"])]
    names = {task.name for task in results.tasks}
    watched = {
        name: series
        for name, series in history.items()
        if not name.startswith("train/") and name.partition("/")[2] in names
    }
    if not watched:
        missing = "No accuracy was measured on the way (eval.every=0 or eval.watch='')."
        return join([element("div", *plots, class_="plots"), paragraph(missing)])
    plots.append(_accuracy_plot(watched))
    return element("div", *plots, class_="plots")


def _loss_plot(steps: Sequence[int], values: Sequence[float]) -> Html:
    plot = Plot(axis("step", [0, max(steps)], _steps, 5), axis("loss", [0, *_middle(values)]))
    caption = f"Training loss, from {values[0]:.3g} to {values[-1]:.3g} at step {steps[-1]:,}"
    return chart(plot.svg(caption, plot.line(steps, values, name="training loss")), caption + ".")


def _accuracy_plot(watched: Mapping[str, tuple]) -> Html:
    lowest = min(min(values) for _, values in watched.values())
    last = max(max(steps) for steps, _ in watched.values())
    plot = Plot(axis("step", [0, last], _steps, 5), share_axis("accuracy", lowest))
    lines, points, names = [], [], []
    for number, (name, (steps, values)) in enumerate(watched.items()):
        split, _, task = name.partition("/")
        lines.append(plot.line(steps, values, number, name))
        names.append(f"{task} {values[-1]:.3f}")
        for step, value in zip(steps, values, strict=True) if len(steps) <= 40 else ():
            colour = f"fill:var(--s{number % 8})"
            label = f"{name} {value:.3f} at step {step:,}"
            points.append(plot.dot(step, value, 2.5, label, class_="point", style=colour))
    caption = f"Accuracy on {split} of each task over the steps"
    return chart(plot.svg(caption, *lines, *points), f"{caption}; last value:", key(names))


def _middle(values: Sequence[float]) -> np.ndarray:
    """The values cut at their 99th percentile, so that an outlier does not flatten the curve."""
    return np.minimum(values, np.quantile(values, 0.99))


def _steps(step: float) -> str:
    return f"{step / 1000:g}k" if step >= 10_000 else f"{step:,.0f}"
