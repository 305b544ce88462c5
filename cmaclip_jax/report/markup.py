"""HTML made of elements. Every string that is not an Html is text, and is escaped."""

import base64
import hashlib
import html
from collections.abc import Iterable, Sequence
from typing import Any

VOID = ("br", "img", "meta")
Cell = Any  # of a table: a text or markup


class Html(str):
    """Finished markup."""


def element(tag: str, *children: str, **attributes) -> Html:
    """An element; `class_` is the attribute class, `aria_label` aria-label, None leaves one out."""
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    return Html(f"<{tag}{written}>" + ("" if tag in VOID else f"{join(children)}</{tag}>"))


def join(children: Iterable[str]) -> Html:
    """The children in one string; texts among them are escaped."""
    return Html("".join(x if isinstance(x, Html) else html.escape(str(x)) for x in children))


def script_source(script: str) -> str:
    """The source in a page's policy that lets the browser run this one script."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def paragraph(*children: str, **attributes) -> Html:
    """A paragraph."""
    return element("p", *children, **attributes)


def table(
    caption: str, head: Sequence[Cell], rows: Iterable[Sequence[Cell]], words: Sequence[str] = ()
) -> Html:
    """A table that scrolls inside itself; the first cell of a row names it.

    words: the heads of columns with words, which are aligned left.
    """
    sides = ["words" if cell in words else None for cell in head]
    names = [element("th", c, scope="col", class_=s) for c, s in zip(head, sides, strict=True)]
    lines = [
        element(
            "tr",
            element("th", first, scope="row"),
            *[
                cell if is_cell(cell) else element("td", cell, class_=side)
                for cell, side in zip(rest, sides[1:], strict=True)
            ],
        )
        for first, *rest in rows
    ]
    whole = element(
        "table",
        element("caption", element("span", caption)),
        element("thead", element("tr", *names)),
        element("tbody", *lines),
    )
    return scrolling(caption, whole)


def is_cell(content: Cell) -> bool:
    """Whether the content is a finished table cell."""
    return isinstance(content, Html) and content.startswith("<td")


def scrolling(name: str, content: Html) -> Html:
    """Content that scrolls inside itself if it is too wide, also by keyboard."""
    return element("div", content, class_="wide", role="region", tabindex="0", aria_label=name)


def folded(summary: str, *content: str, **attributes) -> Html:
    """Content that is hidden until the reader opens it."""
    return element("details", element("summary", summary), *content, **attributes)


def picture(source: str, alternative: str, **attributes) -> Html:
    """A picture; `source` is a data URL, so the page needs no other file."""
    return element("img", src=source, alt=alternative, **attributes)


def figure(value: float | None, digits: int = 3) -> str:
    """A number as all tables of a report write it; '-' for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def share(image: float, text: float) -> Html:
    """The weights of picture and words as a bar."""
    label = f"picture {image:.2f}, words {text:.2f}"
    bar = element("span", style=f"width:{100 * image:.1f}%")
    return element("span", bar, class_="share", role="img", aria_label=label, title=label)
