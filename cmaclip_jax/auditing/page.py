"""The page on which a person decides about suspects: one file, which needs no server.

The browser keeps the decisions, and the page makes `decisions.csv` of them (see page.js).
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from cmaclip_jax.auditing.suspect import Suspect
from cmaclip_jax.auditing.suspect_files import worst_first
from cmaclip_jax.report.explanation import PairView
from cmaclip_jax.report.markup import Html, element, figure, join, paragraph
from cmaclip_jax.report.pages import Section, page
from cmaclip_jax.report.pair_card import card, pair_picture, pair_words

MOST = 500  # suspects on a page
MOST_TWINS = 3  # beside a suspect
SHORT = 9  # characters of a fact that is shown large
HERE = Path(__file__).parent
SCRIPT = (HERE / "page.js").read_text(encoding="utf-8")
STYLE = (HERE / "page.css").read_text(encoding="utf-8")
# (key, what it does), as page.js reads them.
KEYS = (
    ("j", "or \N{DOWNWARDS ARROW}: next"),
    ("k", "or \N{UPWARDS ARROW}: previous"),
    ("a", "accept the suggestion"),
    ("x", "keep the label"),
    ("d", "don't know"),
    ("u", "undo"),
)

Show = Callable[[int], PairView]
ShowTwins = Callable[[Suspect], Sequence[tuple[PairView, str]]]


def audit_page(
    title: str,
    about: str,
    facts: Sequence[tuple[str, str]],
    suspects: Sequence[Suspect],
    show: Show,
    show_twins: ShowTwins,
    table: str = "",
    sections: Sequence[Section] = (),
    most: int = MOST,
) -> str:
    """The page of an audit.

    facts: (what, its value), in their order.
    show: the pair of a row.
    show_twins: the twins of a suspect, each with its label of the suspect's task.
    table: the path of the audited table as the config names it, for the file of decisions.
    sections: further sections, below the suspects.
    most: how many suspects the page holds.
    """
    worst = worst_first(suspects)
    shown = worst[:most]
    content = [
        _controls(shown),
        _cards(shown, show, show_twins, table),
        paragraph("No suspect matches these filters.", id="none", hidden=""),
    ]
    if not shown:
        content = [paragraph("There is no suspect.")]
    parts = [
        Section("summary", "Summary", join([_facts(facts), _limit(len(shown), len(worst))])),
        Section("suspects", "Suspects", join(content)),
        *sections,
    ]
    return page(title, about, parts, STYLE, SCRIPT if shown else "")


def _limit(shown: int, count: int) -> Html:
    if shown == count:
        return paragraph(f"All {count:,} suspects are on this page.")
    return paragraph(
        f"The {shown:,} worst of {count:,} suspects are on this page. The file audit.csv has all "
        "of them."
    )


def _facts(facts: Sequence[tuple[str, str]]) -> Html:
    """Short facts as tiles, longer ones as lines."""
    tiles = [
        element("div", element("b", value), element("span", what))
        for what, value in facts
        if len(value) <= SHORT
    ]
    lines = [
        element("div", element("dt", what), element("dd", value))
        for what, value in facts
        if len(value) > SHORT
    ]
    return join(
        [
            *([element("div", *tiles, class_="tiles")] if tiles else []),
            *([element("dl", *lines)] if lines else []),
        ]
    )


def _controls(shown: Sequence[Suspect]) -> Html:
    """The keys, the filters, and the bar with the counter, which stays in sight."""
    keys = [element("li", element("kbd", key), f" {what}") for key, what in KEYS]
    tasks = sorted({one.task for one in shown})
    labels = [
        element("optgroup", *_options(x.label for x in shown if x.task == task), label=task)
        for task in tasks
    ]
    states = [element("option", name, value=name) for name in ("undecided", "decided")]
    filters = [
        _filter("task", "Task", _options(tasks)),
        _filter("label", "Given label", labels),
        _filter("split", "Split", _options(one.split for one in shown)),
        _filter("state", "Decision", states),
    ]
    bar = [
        paragraph(f"0 of {len(shown):,} decided", id="counter"),
        element("button", "Undo", type="button", id="undo", aria_keyshortcuts="u"),
        element("button", "Save decisions", type="button", id="save", class_="main"),
    ]
    return join(
        [
            paragraph(
                "The decisions stay in this browser. To apply them to the table, save them as "
                "decisions.csv."
            ),
            element("ul", *keys, class_="keys"),
            element("div", *filters, class_="filters", role="group", aria_label="Filters"),
            element("div", *bar, class_="progress"),
            paragraph("", id="said", role="status"),
            paragraph("", id="trouble", role="alert", class_="bad"),
            element("noscript", paragraph("The browser must run this page's script to decide.")),
        ]
    )


def _filter(name: str, title: str, options: Sequence[Html]) -> Html:
    choice = element("select", element("option", "all"), *options, id=f"by-{name}")
    return element("label", element("span", title), choice)


def _options(values: Iterable[str]) -> list[Html]:
    names = sorted(set(values))
    return [element("option", name or "(no label)", value=name) for name in names]


def _cards(shown: Sequence[Suspect], show: Show, show_twins: ShowTwins, table: str) -> Html:
    """The cards of all suspects. The name under which a browser keeps decisions is the audit's."""
    named = "\0".join("\0".join((one.id, one.task, one.label, one.suggestion)) for one in shown)
    audit = hashlib.sha256(f"{table}\0{named}".encode(errors="surrogatepass")).hexdigest()[:16]
    cards = [
        _card(number, one, show(one.row), show_twins(one)) for number, one in enumerate(shown, 1)
    ]
    return element("div", *cards, id="cards", data_audit=audit, data_table=table)


def _card(
    number: int, one: Suspect, shown: PairView, twins: Sequence[tuple[PairView, str]]
) -> Html:
    """A suspect: its pair, its two labels with their probabilities, its twins, and the buttons."""
    name = f"suspect-{number}"
    title = element(
        "h3",
        element("span", f"{number}. {one.task} ", id=f"{name}-title"),
        element("span", id=f"{name}-state", class_="state"),
    )
    likely = "probably wrong" if one.likely else "less probably wrong"
    about = paragraph(pair_words(shown), element("br"), _quiet(f"{one.id}, {one.split}, {likely}"))
    labels = element(
        "dl",
        _label("given", one.label or "(no label)", one.label_probability),
        _label("suggested", one.suggestion or "(no label)", one.suggestion_probability),
        class_="labels",
    )
    words = element("div", title, about, labels, _buttons(one), class_="facts")
    content = [element("div", pair_picture(shown), class_="own"), words]
    if twins:
        content.append(_twins(twins, len(one.twins)))
    return element(
        "article",
        *content,
        id=name,
        class_="suspect",
        tabindex="0" if number == 1 else "-1",
        aria_labelledby=f"{name}-title {name}-state",
        data_id=one.id,
        data_task=one.task,
        data_label=one.label,
        data_new=one.suggestion,
        data_split=one.split,
    )


def _label(kind: str, label: str, probability: float) -> Html:
    bar = element("span", style=f"width:{100 * probability:.1f}%")
    return element(
        "div",
        element("dt", kind),
        element("dd", element("b", label), element("span", bar, class_="part", aria_hidden="true")),
        element("dd", figure(probability), class_="number"),
        class_=kind,
    )


def _buttons(one: Suspect) -> Html:
    """The three decisions, and what was decided."""
    texts = {
        "accept": ("a", f"Accept {one.suggestion or 'no label'}"),
        "keep": ("x", f"Keep {one.label or 'no label'}"),
        "unknown": ("d", "Don't know"),
    }
    buttons = [
        element(
            "button",
            f"{text} ",
            element("kbd", key, aria_hidden="true"),
            type="button",
            aria_pressed="false",
            aria_keyshortcuts=key,
            data_decision=decision,
        )
        for decision, (key, text) in texts.items()
    ]
    return element("div", *buttons, class_="buttons")


def _twins(twins: Sequence[tuple[PairView, str]], count: int) -> Html:
    cards = [
        card(pair, paragraph(element("b", label or "(no label)")))
        for pair, label in twins[:MOST_TWINS]
    ]
    more = max(count, len(twins)) - len(cards)
    head = "Same or nearly the same pair" + (f", and {more:,} more" if more > 0 else "")
    return element("div", paragraph(head, class_="quiet"), *cards, class_="twins")


def _quiet(text: str) -> Html:
    return element("span", text, class_="quiet")
