"""The frame of a page: head, contents, sections, and nothing from anywhere else."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from cmaclip_jax.errors import UserError
from cmaclip_jax.files import write_text
from cmaclip_jax.report.markup import Html, element, join, paragraph
from cmaclip_jax.report.style import STYLE

# Should a text ever come through unescaped, it may neither run nor fetch anything.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of a page; `anchor` is what the contents lead to."""

    anchor: str
    title: str
    content: Html


def page(title: str, about: str, sections: Sequence[Section]) -> str:
    """The whole file."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("title", title),
        element("style", Html(STYLE)),
    )
    links = [
        element("li", element("a", section.title, href=f"#{section.anchor}"))
        for section in sections
    ]
    parts = [
        element(
            "section",
            element("h2", section.title, id=f"{section.anchor}-title"),
            section.content,
            id=section.anchor,
            aria_labelledby=f"{section.anchor}-title",
        )
        for section in sections
    ]
    body = element(
        "body",
        element("a", "Skip to the content", class_="skip", href="#content"),
        element("header", element("h1", title), paragraph(about)),
        *([element("nav", element("ul", *links), aria_label="Contents")] if links[1:] else []),
        element("main", join(parts), id="content", tabindex="-1"),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def write_page(path: str | Path, text: str) -> Path:
    """Writes a page, whole or not at all."""
    path = Path(path)
    try:
        write_text(path, text)
    except OSError as error:
        raise UserError(
            f"cannot write {str(path)!r} ({error.strerror}); name another file with --output"
        ) from error
    return path
