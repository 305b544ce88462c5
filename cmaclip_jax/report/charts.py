"""Plots as inline SVG, which take their colours from the style of the page."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from cmaclip_jax.report.markup import Html, element

WIDTH, HEIGHT = 380, 250
LEFT, RIGHT, TOP, BOTTOM = 50, 12, 10, 42
COLOURS = 8  # of lines; further lines are dashed
POINTS = 400  # of a line at most


@dataclasses.dataclass(frozen=True)
class Axis:
    """An axis of a plot."""

    label: str
    ticks: tuple[float, ...]
    write: Callable[[float], str] = "{:g}".format

    @property
    def low(self) -> float:
        return self.ticks[0]

    @property
    def high(self) -> float:
        return self.ticks[-1]

    def place(self, values) -> np.ndarray:
        """The places of values as shares of the axis; values outside are at its ends."""
        return (np.clip(values, self.low, self.high) - self.low) / (self.high - self.low)


def axis(label: str, values, write: Callable[[float], str] = "{:g}".format, ticks: int = 5) -> Axis:
    """An axis with round ticks that includes all values."""
    values = np.asarray(values, float)
    low, high = values.min(), values.max()
    rough = max((high - low) / (ticks - 1), abs(high) * 1e-3, 1e-6)
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    places = range(first, max(last, first + 1) + 1)
    return Axis(label, tuple(round(place * step, 10) for place in places), write)


def share_axis(label: str, low: float = 0.0) -> Axis:
    """An axis of shares, from `low` or a little below up to 1."""
    return axis(label, [math.floor(low * 5) / 5, 1.0], "{:.2f}".format, 6)


@dataclasses.dataclass(frozen=True)
class Plot:
    """A frame to draw in: methods return parts, and `svg` puts parts together."""

    x: Axis
    y: Axis

    def across(self, values) -> np.ndarray:
        return LEFT + self.x.place(values) * (WIDTH - LEFT - RIGHT)

    def down(self, values) -> np.ndarray:
        return HEIGHT - BOTTOM - self.y.place(values) * (HEIGHT - TOP - BOTTOM)

    def line(self, xs, ys, number: int = 0, name: str = "", class_: str = "curve") -> Html:
        """A line through points; `number` decides its colour."""
        xs, ys = thinned(np.asarray(xs, float), np.asarray(ys, float))
        points = zip(self.across(xs), self.down(ys), strict=True)
        path = "M" + "L".join(f"{across:.1f} {down:.1f}" for across, down in points)
        colour = line_style(number) if class_ == "curve" else None
        return element("path", element("title", name), d=path, class_=class_, style=colour)

    def dot(self, x: float, y: float, size: float, name: str, **attributes) -> Html:
        """A point with a name that appears under the mouse."""
        across, down = self.across(x), self.down(y)
        return element(
            "circle",
            element("title", name),
            cx=f"{across:.1f}",
            cy=f"{down:.1f}",
            r=f"{size:.1f}",
            **{"class_": "mark"} | attributes,
        )

    def bar(self, low: float, high: float, value: float, name: str) -> Html:
        """A bar from the bottom of the plot up to a value."""
        left, right, top = self.across(low) + 1, self.across(high) - 1, self.down(value)
        return element(
            "rect",
            element("title", name),
            x=f"{left:.1f}",
            y=f"{top:.1f}",
            width=f"{right - left:.1f}",
            height=f"{HEIGHT - BOTTOM - top:.1f}",
            class_="bar",
        )

    def svg(self, description: str, *parts: Html) -> Html:
        """The whole plot; screen readers read `description`."""
        return element(
            "svg",
            *self._grid(),
            *parts,
            viewBox=f"0 0 {WIDTH} {HEIGHT}",
            role="img",
            aria_label=description,
        )

    def _grid(self):
        foot, middle = HEIGHT - BOTTOM, TOP + (HEIGHT - TOP - BOTTOM) / 2
        for tick in self.y.ticks:
            down = float(self.down(tick))
            yield _stroke(LEFT, down, WIDTH - RIGHT, down)
            yield _text(self.y.write(tick), LEFT - 6, down + 4, "end")
        for number, tick in enumerate(self.x.ticks):
            across = float(self.across(tick))
            yield _stroke(across, foot, across, foot + 4)
            last = number == len(self.x.ticks) - 1
            yield _text(self.x.write(tick), across, foot + 17, "end" if last else "middle")
        yield _text(self.x.label, LEFT + (WIDTH - LEFT - RIGHT) / 2, HEIGHT - 6, "middle")
        turned = f"rotate(-90 11 {middle:.0f})"
        yield _text(self.y.label, 11, middle, "middle", turned)


def line_style(number: int) -> str:
    """The colour of a line, and dashes for those beyond the colours."""
    dashes = f";stroke-dasharray:{2 + 3 * (number // COLOURS)} 3" if number >= COLOURS else ""
    return f"stroke:var(--s{number % COLOURS}){dashes}"


def key(names: Sequence[str]) -> Html:
    """The names of the lines, each beside a sample of its line."""

    def sample(number: int) -> Html:
        path = element("path", d="M0 4H26", class_="curve", style=line_style(number))
        return element("svg", path, viewBox="0 0 26 8", aria_hidden="true")

    lines = [element("li", sample(number), name) for number, name in enumerate(names)]
    return element("ul", *lines, class_="key")


def chart(drawing: Html, *caption: str) -> Html:
    """A plot with its caption."""
    return element("figure", drawing, element("figcaption", *caption))


def thinned(xs: np.ndarray, ys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most POINTS points of a line, spread evenly, with both ends."""
    keep = np.unique(np.linspace(0, len(xs) - 1, min(len(xs), POINTS)).round().astype(int))
    return xs[keep], ys[keep]


def _stroke(x1: float, y1: float, x2: float, y2: float) -> Html:
    places = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    return element("line", class_="grid", **{n: f"{v:.1f}" for n, v in places.items()})


def _text(content: str, x: float, y: float, anchor: str, transform: str | None = None) -> Html:
    return element(
        "text", content, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, transform=transform
    )
