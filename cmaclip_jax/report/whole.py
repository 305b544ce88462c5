"""Whole pages: of a run, and of single pairs."""

from collections.abc import Mapping, Sequence

from cmaclip_jax.report.cases import Cases
from cmaclip_jax.report.explain import Explained, Shown
from cmaclip_jax.report.kept import Kept
from cmaclip_jax.report.markup import join, paragraph
from cmaclip_jax.report.page import Section, page
from cmaclip_jax.report.pairs import explained_pairs
from cmaclip_jax.report.sections import (
    learning,
    scored_tasks,
    summary,
    task_table,
    what_is_missing,
)
from cmaclip_jax.report.task_section import task_sections


def report_page(
    kept: Kept,
    about: Mapping[str, str],
    found: Mapping[str, Cases],
    shown: Mapping[int, Shown],
    explained: Sequence[Explained],
    missing: Sequence[str] = (),
    why_no_heat: str = "",
) -> str:
    """The report on a run.

    about: what it was trained on and how, by name.
    found: of every task the cases to be shown, with their pairs in `shown`, where they are at hand.
    missing: what could not be had, a line each, beside what the folder itself lacks.
    """
    sections = [
        Section("summary", "Summary", summary(kept, about, [*what_is_missing(kept), *missing])),
        Section("learning", "How it learned", learning(kept)),
    ]
    if kept.figures:
        tasks = task_sections(kept, scored_tasks(kept), found, shown)
        sections += [
            Section("tasks", "All tasks", task_table(kept)),
            Section("details", "Task by task", tasks),
        ]
    if explained:
        content = explained_pairs(explained, why_no_heat)
    else:
        content = paragraph(f"None can be shown: {why_no_heat}.")
    sections.append(Section("pairs", "Single pairs", content))
    title = f"Report on {kept.workdir.resolve().name}"
    step = f" at step {kept.figures['step']:,}" if kept.figures else ""
    return page(title, f"{kept.split} split{step}", sections)


def explain_page(pairs: Sequence[Explained], about: str, why_no_heat: str) -> str:
    """What single pairs' answers rest on."""
    sections = [Section("pairs", "Pairs", join([explained_pairs(pairs, why_no_heat)]))]
    return page("Why these answers?", about, sections)
