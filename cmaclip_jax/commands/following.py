"""How far a command is: a bar on a terminal, a line every few seconds elsewhere."""

import functools
from collections.abc import Callable, Iterable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from cmaclip_jax.parallel.cluster import leads
from cmaclip_jax.training.progress import told


def leader_console() -> Console:
    """Where a command says how far it is. Of several hosts only the first speaks."""
    return Console(stderr=True, quiet=not leads())


def follow(
    items: Iterable,
    console: Console,
    what: str,
    total: int,
    unit: str = "batches",
    size: Callable = lambda item: 1,
) -> Iterator:
    """The items as they come; `size` says how many of `total` units one is."""
    if console.quiet or not console.is_terminal:
        say = functools.partial(console.print, highlight=False, soft_wrap=True)
        yield from told(items, say, what, total, unit, size)
        return
    columns = (what, BarColumn(), MofNCompleteColumn(), f"{unit},", TimeRemainingColumn(), "left")
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=total)
        for item in items:
            bar.advance(task, size(item))
            yield item
