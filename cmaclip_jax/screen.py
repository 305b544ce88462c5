"""What a person sees while a command works: lines, tables and progress, on stderr."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

SECONDS_BETWEEN_LINES = 5.0  # of progress, where lines cannot be rewritten in place
WIDE = 140  # columns of a table where no terminal limits them


class Screen:
    """Prints lines and tables, and shows progress.

    file: stderr by default; a command that prints its result as text gives stdout.
    quiet: prints nothing. Of several hosts only the first one prints.
    """

    def __init__(self, file: TextIO | None = None, quiet: bool = False, width: int | None = None):
        file = file or sys.stderr
        if width is None and not file.isatty():
            width = WIDE
        self.console = Console(file=file, quiet=quiet, width=width)

    @property
    def is_live(self) -> bool:
        """Whether a line can be rewritten in place."""
        return self.console.is_terminal and not self.console.quiet

    def say(self, line: str = "") -> None:
        """Prints a line as it is: rich neither wraps it nor interprets it."""
        self.console.print(line, highlight=False, markup=False, emoji=False, soft_wrap=True)

    def entry(self, name: str, value: object) -> None:
        """Prints a named value; the values of several entries stand in one column."""
        self.say(f"{name:11} {value}")

    def show(self, content: RenderableType) -> None:
        """Prints a table or another object that rich can render; a string as a line."""
        if isinstance(content, str):
            self.say(content)
        else:
            self.console.print(content, highlight=False)

    def warn(self, line: str) -> None:
        """Prints a line in red, for what a person must not overlook."""
        self.console.print(line, style="bold red", highlight=False, markup=False, soft_wrap=True)

    def bar(self, *columns: Any) -> Progress:
        """A progress bar with the caller's columns, which is shown on a terminal only."""
        return Progress(*columns, console=self.console, disable=not self.is_live)

    def track(
        self,
        items: Iterable,
        what: str,
        total: int,
        unit: str = "batches",
        size: Callable[[Any], int] = lambda item: 1,
    ) -> Iterator:
        """The items, with their progress: a bar on a terminal, a line every few seconds elsewhere.

        size: how many of the `total` units an item is.
        """
        if not self.is_live:
            yield from counted(items, self.say, what, total, unit, size)
            return
        columns = (what, BarColumn(), MofNCompleteColumn(), f"{unit},", TimeRemainingColumn())
        with self.bar(*columns, TextColumn("left")) as bar:
            task = bar.add_task("", total=total)
            for item in items:
                bar.advance(task, size(item))
                yield item


def counted(
    items: Iterable,
    say: Callable[[str], None],
    what: str,
    total: int,
    unit: str = "batches",
    size: Callable[[Any], int] = lambda item: 1,
) -> Iterator:
    """The items, with a line on the progress every few seconds and at the end."""
    start = last = time.monotonic()
    done = 0
    for item in items:
        yield item
        now, done = time.monotonic(), done + size(item)
        if now - last >= SECONDS_BETWEEN_LINES or (done >= total and last > start):
            left = (now - start) * max(total - done, 0) / max(done, 1)
            last = now
            say(f"{what}: {done:,} of {total:,} {unit}, {time_left(left)} left")


def text_table(lines: Iterable[list[str]], title: str) -> Table:
    """A table of text: the header first, then rows that begin with their name."""
    head, *body = lines
    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    for number, name in enumerate(head):
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for cells in body:
        table.add_row(*cells)
    return table


def time_left(seconds: float) -> str:
    """'0:42', '12:05' or '3:10:00'."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
