"""The two kinds of page: the report on a run, and the explanation of single pairs."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from cmaclip_jax.errors import UserError
from cmaclip_jax.files import write_text
from cmaclip_jax.report.explanation import Explanation, PairView
from cmaclip_jax.report.learning_curves import learning_curves
from cmaclip_jax.report.markup import Html, element, join, paragraph, script_source
from cmaclip_jax.report.mistakes import Cases
from cmaclip_jax.report.pair_section import explained_pairs
from cmaclip_jax.report.results import RunResults
from cmaclip_jax.report.style import STYLE
from cmaclip_jax.report.summary import summary, what_is_missing
from cmaclip_jax.report.task_section import task_sections
from cmaclip_jax.report.task_table import scored_tasks, task_table

# Even if a text is not escaped by mistake, the browser runs nothing and fetches nothing.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of a page; the table of contents links to `anchor`."""

    anchor: str
    title: str
    content: Html


def report_page(
    results: RunResults,
    about: Mapping[str, str],
    cases: Mapping[str, Cases],
    shown: Mapping[int, PairView],
    explained: Sequence[Explanation],
    missing: Sequence[str] = (),
    why_no_heat: str = "",
) -> str:
    """The report on a run.

    about: facts about the run: {name: value}.
    cases: {task: its single cases}.
    shown: {row in the split: pair} of these cases, for the pairs that can be read.
    missing: a line for everything that is missing besides files of the run's folder.
    """
    sections = [
        Section(
            "summary", "Summary", summary(results, about, [*what_is_missing(results), *missing])
        ),
        Section("learning", "How it learned", learning_curves(results)),
    ]
    if results.figures:
        tasks = task_sections(results, scored_tasks(results), cases, shown)
        sections += [
            Section("tasks", "All tasks", task_table(results)),
            Section("details", "Task by task", tasks),
        ]
    if explained:
        content = explained_pairs(explained, why_no_heat)
    else:
        content = paragraph(f"None can be shown: {why_no_heat}.")
    sections.append(Section("pairs", "Single pairs", content))
    title = f"Report on {results.workdir.resolve().name}"
    step = f" at step {results.figures['step']:,}" if results.figures else ""
    return page(title, f"{results.split} split{step}", sections)


def explain_page(pairs: Sequence[Explanation], about: str, why_no_heat: str) -> str:
    """The page that explains the answers to single pairs."""
    sections = [Section("pairs", "Pairs", join([explained_pairs(pairs, why_no_heat)]))]
    return page("Why these answers?", about, sections)


def page(
    title: str, about: str, sections: Sequence[Section], style: str = "", script: str = ""
) -> str:
    """The HTML file of a page, with a style and a script of its own; the browser runs no other."""
    policy = f"{POLICY}; script-src {script_source(script)}" if script else POLICY
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("title", title),
        element("style", Html(STYLE + style)),
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
        *([element("script", Html(script))] if script else []),
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
