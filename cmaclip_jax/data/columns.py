"""Which column of a table is what, where its user did not say."""

import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from cmaclip_jax.errors import UserError
from cmaclip_jax.tasks import TASK_NAME

IDS = ("", "unnamed: 0", "id", "ids", "item_id", "product_id", "image_id", "uid", "key", "index")
IMAGES = ("image", "image_path", "img", "picture", "photo", "path", "file", "filename", "file_name")
TEXTS = ("text", "title", "caption", "description", "name", "product_name", "sentence")
SPLIT = ("split", "subset", "partition", "fold")
PICTURE = re.compile(r".*\.(jpe?g|png|webp|gif|bmp|tiff?)", re.IGNORECASE)
NUMBER = re.compile(r"\s*[-+]?(\d+\.\d+|\d*\.\d+|\d+)([eE][-+]?\d+)?\s*")
NONE = "none"
LONG = 6  # words a cell on average: more is free text


@dataclasses.dataclass(frozen=True)
class Columns:
    """The roles of a table's columns; `left_out` says why a column has none."""

    id: str | None
    image: str | None
    text: tuple[str, ...]
    split: str | None
    tasks: tuple[str, ...]
    left_out: Mapping[str, str]

    def __str__(self) -> str:
        """What was chosen, in one line for the person who watches."""
        parts = [
            f"picture {self.image or 'none'}",
            f"words {' + '.join(self.text) or 'none'}",
            f"id {self.id or 'none'}",
            f"split {self.split or 'by a hash of the id'}",
            f"tasks {', '.join(self.tasks)}",
        ]
        left = ", ".join(f"{name} ({why})" for name, why in self.left_out.items())
        return "columns: " + "; ".join(parts) + (f"; left out: {left}" if left else "")


def choose_columns(table: Mapping[str, Sequence[str]], data: ConfigDict) -> Columns:
    """The roles that `data.image`, `data.text`, `data.labels` name, and the rest by looking."""
    split = _called(table, SPLIT)
    identity, image, text = choose_inputs(table, data.image, data.text)
    taken = {identity, split, image, *text} - {None}
    for name in data.many:
        _existing(table, name, "data.many")
    if data.labels:
        tasks = tuple(_existing(table, name, "data.labels") for name in data.labels)
        return Columns(identity, image, text, split, tasks, {})
    reasons = {
        name: why_no_task(name, values, name in data.many)
        for name, values in table.items()
        if name not in taken
    }
    tasks = tuple(name for name, why in reasons.items() if not why)
    left_out = {name: why for name, why in reasons.items() if why}
    if not tasks:
        raise UserError(
            f"no column of the table looks like a task ({left_out}); name them in data.labels"
        )
    return Columns(identity, image, text, split, tasks, left_out)


def choose_inputs(
    table: Mapping[str, Sequence[str]], image: str = "", text: str = ""
) -> tuple[str | None, str | None, tuple[str, ...]]:
    """The columns of ids, of pictures and of words: those that are named, and the rest by looking.

    image, text: as `data.image` and `data.text`.
    """
    identity = _called(table, IDS)
    chosen = _image_column(table, image)
    taken = {identity, _called(table, SPLIT), chosen} - {None}
    words = _text_columns(table, text, taken)
    if not chosen and not words:
        raise UserError(
            f"the table has neither a picture nor words among its columns {list(table)}; name "
            "them in data.image and data.text"
        )
    return identity, chosen, words


def why_no_task(name: str, values: Sequence[str], many: bool) -> str:
    """Why a column is not a question with a list of answers; '' where it is one."""
    filled = [value for value in values if value]
    distinct = set(filled)
    if not distinct:
        return "empty"
    if not re.fullmatch(TASK_NAME, name):
        return "its name is no task's"
    if len(distinct) == 1 and not many:
        return "one value only"
    if many:
        return ""
    if any("." in value for value in distinct) and all(map(NUMBER.fullmatch, distinct)):
        return "numbers"
    if len(distinct) > len(filled) / 2 and len(distinct) > 2:
        numbers = all(map(NUMBER.fullmatch, distinct))
        return "numbers" if numbers else "free text: most values occur once"
    if sum(len(value.split()) for value in distinct) > LONG * len(distinct):
        return "free text: long"
    return ""


def without_constants(columns: Columns, table, training: Sequence[int]) -> Columns:
    """The same, but for tasks that have fewer than two answers in the training rows."""
    constant = {
        name: "one value only in train"
        for name in columns.tasks
        if len({table[name][row] for row in training} - {""}) < 2
    }
    tasks = tuple(name for name in columns.tasks if name not in constant)
    return dataclasses.replace(columns, tasks=tasks, left_out={**columns.left_out, **constant})


def _called(table, names: Sequence[str]) -> str | None:
    lower = {name.lower(): name for name in table}
    return next((lower[name] for name in names if name in lower), None)


def _image_column(table, wanted: str) -> str | None:
    if wanted == NONE:
        return None
    if wanted:
        return _existing(table, wanted, "data.image")
    named = _called(table, IMAGES)
    return named or next((name for name in table if _holds_pictures(table[name])), None)


def _holds_pictures(values: Sequence[str]) -> bool:
    some = [value for value in values[:1_000] if value]
    return bool(some) and sum(bool(PICTURE.fullmatch(value)) for value in some) > len(some) / 2


def _text_columns(table, wanted: str, taken: set[str]) -> tuple[str, ...]:
    if wanted == NONE:
        return ()
    if wanted:
        names = [wanted] if wanted in table else [name.strip() for name in wanted.split(",")]
        return tuple(_existing(table, name, "data.text") for name in names)
    named = _called({name: 0 for name in table if name not in taken}, TEXTS)
    if named:
        return (named,)
    words = {
        name: sum(len(value.split()) for value in values)
        for name, values in table.items()
        if name not in taken
        and not all(map(NUMBER.fullmatch, filter(None, values)))
        and why_no_task("text", values, False).startswith("free")
    }
    return (max(words, key=words.get),) if words else ()


def _existing(table, name: str, field: str) -> str:
    if name in table:
        return name
    near = difflib.get_close_matches(name, table, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"it has {list(table)}"
    raise UserError(f"the table has no column {name!r} ({field}); {hint}")
