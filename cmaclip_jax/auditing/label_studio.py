"""Suspects as tasks of Label Studio, and its annotations as decisions.

A task of Label Studio is a row. It asks for the labels of the row's suspects, with the suggestions
as predictions. Its `data` keeps what the decisions need: table, id and the audited labels. Several
choices of a many-label task are one decision. An answer without a choice means "don't know".
"""

import collections
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from cmaclip_jax.auditing.decisions import ACCEPT, KEEP, UNKNOWN, Decision
from cmaclip_jax.auditing.suspect import Suspect
from cmaclip_jax.auditing.suspect_files import worst_first
from cmaclip_jax.data.many_labels import split_cell
from cmaclip_jax.data.tables import SEPARATOR
from cmaclip_jax.errors import UserError
from cmaclip_jax.files import write_text
from cmaclip_jax.report.explanation import PairView
from cmaclip_jax.report.pair_card import jpeg
from cmaclip_jax.tasks import Task

WORDS = "text"  # the element that the choices belong to, since every row has one
NO_PICTURE = np.full((32, 32, 3), 128, np.uint8)
MODEL = "cmaclip audit"


def labelling_config(tasks: Sequence[Task]) -> str:
    """The XML of a project's labelling interface: picture, words, and choices of every task."""
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name="image", value="$image")
    ElementTree.SubElement(view, "Text", name=WORDS, value=f"${WORDS}")
    ElementTree.SubElement(view, "Header", value="$question")
    for task in tasks:
        ElementTree.SubElement(view, "Header", value=task.name, size="4")
        choice = "multiple" if task.many else "single"
        choices = ElementTree.SubElement(
            view, "Choices", name=task.name, toName=WORDS, choice=choice, showInline="true"
        )
        for name in task.classes:
            ElementTree.SubElement(choices, "Choice", value=name)
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode") + "\n"


def studio_tasks(
    suspects: Iterable[Suspect],
    tasks: Sequence[Task],
    show: Callable[[int], PairView],
    table: str,
    picture: Callable[[Suspect], str] | None = None,
    separator: str = SEPARATOR,
) -> list[dict[str, Any]]:
    """The rows of the suspects as Label Studio imports them, worst first.

    show: the pair of a row.
    table: the path of the audited table, as the audit's config names it.
    picture: the address of a row's picture, as `/data/local-files/?d=images/1.jpg` where Label
        Studio serves the folder; None: every picture is embedded.
    """
    many = {task.name for task in tasks if task.many}
    rows: dict[int, list[Suspect]] = collections.defaultdict(list)
    for suspect in worst_first(suspects):
        rows[suspect.row].append(suspect)
    made = []
    for row, some in rows.items():
        shown = show(row)
        pixels = NO_PICTURE if shown.picture is None else shown.picture
        data = {
            "image": jpeg(pixels) if picture is None else picture(some[0]),
            WORDS: shown.text or "(no words)",
            "question": "; ".join(_question(one) for one in some),
            "table": table,
            "id": some[0].id,
            "split": some[0].split,
            "audited": {one.task: one.label for one in some},
        }
        results = [_result(one, one.task in many, separator) for one in some if one.suggestion]
        score = max(one.suggestion_probability for one in some)
        prediction = {"model_version": MODEL, "score": score, "result": results}
        made.append({"data": data, "predictions": [prediction]})
    return made


def write_studio(
    folder: str | Path, studio: Sequence[dict[str, Any]], tasks: Sequence[Task]
) -> list[Path]:
    """Writes `label_studio.json`, to import, and `label_studio.xml`, the labelling interface."""
    paths = [Path(folder) / f"label_studio.{ending}" for ending in ("json", "xml")]
    write_text(paths[0], json.dumps(studio, ensure_ascii=False, indent=1) + "\n")
    write_text(paths[1], labelling_config(tasks))
    return paths


def _question(one: Suspect) -> str:
    given = f"given as {one.label}" if one.label else "without a label"
    return f"{one.task} ({given}): {one.suggestion or 'no label'}?"


def _result(one: Suspect, many: bool, separator: str) -> dict[str, Any]:
    choices = list(split_cell(one.suggestion, separator)) if many else [one.suggestion]
    return {
        "id": one.task,
        "from_name": one.task,
        "to_name": WORDS,
        "type": "choices",
        "value": {"choices": choices},
        "score": one.suggestion_probability,
    }


def read_annotations(path: str | Path, separator: str = SEPARATOR) -> list[Decision]:
    """The decisions in an export of Label Studio, as JSON. A row that nobody answered has none.

    A row that was skipped, and one that two people answered differently, is unknown.
    """
    try:
        exported = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r} ({error.strerror}); name another") from error
    except ValueError as error:
        raise UserError(f"{str(path)!r} is no JSON ({error}); export the project anew") from error
    if not isinstance(exported, list):
        raise UserError(f"{str(path)!r} is no list of tasks; export the project as JSON")
    rows = enumerate(exported, 1)
    return [one for number, row in rows for one in _of_row(path, number, row, separator)]


def _of_row(path: str | Path, number: int, row: Any, separator: str) -> list[Decision]:
    try:
        data, annotations = row["data"], row["annotations"]
        about = str(data["table"]), str(data["id"])
        answers = [_chosen(one) for one in annotations]
        audited = dict(data["audited"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{str(path)!r}, task {number}: it is no annotated task of an audit ({error!r}); "
            "export the project as JSON, not as JSON-MIN"
        ) from error
    if not answers:
        return []
    return [
        _decision(*about, task, label, [answer.get(task, ()) for answer in answers], separator)
        for task, label in audited.items()
    ]


def _chosen(annotation: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """{task: the choices of an annotation}."""
    if annotation.get("was_cancelled"):
        return {}
    results = [one for one in annotation["result"] if one["type"] == "choices"]
    return {one["from_name"]: tuple(one["value"]["choices"]) for one in results}


def _decision(
    table: str, identity: str, task: str, label: str, answers: Sequence[tuple], separator: str
) -> Decision:
    chosen = {frozenset(answer) for answer in answers}
    if len(chosen) > 1 or not answers[0]:
        return Decision(table, identity, task, label, UNKNOWN)
    if chosen in ({frozenset([label])}, {frozenset(split_cell(label, separator))}):
        return Decision(table, identity, task, label, KEEP)
    return Decision(table, identity, task, label, ACCEPT, separator.join(answers[0]))
