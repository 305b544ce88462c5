"""Which columns of a table hold ids, pictures, texts, splits and labels."""

import collections
import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

from ml_collections import ConfigDict

from cmaclip_jax.data.many_labels import SEPARATORS, share_of_several, split_cell
from cmaclip_jax.data.storage import EMBEDDED
from cmaclip_jax.errors import UserError
from cmaclip_jax.tasks import task_name, without_tasks

NAMELESS = ("", "unnamed: 0")  # names that programs give to the row's number
UNNAMED = r"(unnamed: \d+)?"  # names that programs give to a column without one
IDS = ("id", *NAMELESS, "ids", "item_id", "product_id", "image_id", "uid", "key", "index")
IMAGES = ("image", "image_path", "img", "picture", "photo", "path", "file", "filename", "file_name")
TEXTS = ("text", "title", "caption", "description", "name", "product_name", "sentence")
SPLIT = ("split", "subset", "partition", "fold")
KNOWN_NAMES = {*IDS, *IMAGES, *TEXTS, *SPLIT} - {*NAMELESS}
PICTURE = re.compile(r".*\.(jpe?g|png|webp|gif|bmp|tiff?)", re.IGNORECASE)
NUMBER = re.compile(r"\s*[-+]?(\d+\.\d+|\d*\.\d+|\d+)([eE][-+]?\d+)?\s*")
NONE = "none"
# The column in which a corrected table says what was changed, as `colour: red -> blue; ...`.
CHANGED, CHANGES = "changed", re.compile(r"[^:]+: .* -> .*", re.DOTALL)
LABELLED = "labelled"  # the column in which `cmaclip label` says which cells it has filled
LONG = 6  # words in a cell on average; a column with more is free text
# A column with more values than MANY_VALUES, and fewer rows a value than FEW_ROWS, is no task.
MANY_VALUES, FEW_ROWS = 1_000, 10
MANY = 0.1  # share of cells with several labels that makes a column a many-label task


@dataclasses.dataclass(frozen=True)
class Columns:
    """The roles of a table's columns. `left_out` says why a column has none.

    many: the tasks that have several labels in a cell.
    hints: lines about guesses, each with the config field that changes it.
    """

    id: str | None
    image: str | None
    text: tuple[str, ...]
    split: str | None
    tasks: tuple[str, ...]
    many: tuple[str, ...]
    left_out: Mapping[str, str]
    hints: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The chosen columns, to be printed."""
        tasks = [
            name if task_name(name) == name else f"{task_name(name)} (of the column {name!r})"
            for name in self.tasks
        ]
        parts = [
            f"picture {shown(self.image)}",
            f"words {' + '.join(map(shown, self.text)) or 'none'}",
            f"id {shown(self.id)}",
            f"split {self.split or 'by a hash of the id'}",
            f"tasks {', '.join(tasks) or NONE}",
        ]
        left = ", ".join(f"{shown(name)} ({why})" for name, why in self.left_out.items())
        line = "columns: " + "; ".join(parts) + (f"; left out: {left}" if left else "")
        return "\n".join((line, *self.hints))


def joined_text(cells: Iterable[str]) -> str | None:
    """The text that these cells of a row make; None if all are empty."""
    return " ".join(filter(None, (cell.strip() for cell in cells))) or None


def shown(name: str | None) -> str:
    """A column's name, to be printed."""
    return "none" if name is None else name or "(the column without a name)"


def choose_columns(table: Mapping[str, Sequence[str]], data: ConfigDict) -> Columns:
    """The roles that the fields of `data` give, and guesses for the other columns."""
    split = _called(table, SPLIT)
    identity, image, text = choose_inputs(table, data)
    changed = _changed_column(table)
    taken = {identity, split, image, *text, *changed} - {None}
    if without_tasks(data.labels, table):
        return Columns(identity, image, text, split, (), (), {})
    named = tuple(_existing(table, name, "data.labels") for name in data.labels)
    many, hints = _many_columns(table, data, named or [x for x in table if x not in taken])
    reasons = {
        name: why_no_task(name, values, name in many)
        for name, values in table.items()
        if name not in taken and not named
    }
    tasks = named or tuple(name for name, why in reasons.items() if not why)
    for name in tasks:
        if why := _why_no_name(name, table, tasks):
            reasons[name] = why
    left_out = {name: why for name, why in reasons.items() if why}
    if named and left_out:
        raise UserError(f"data.labels names what cannot be tasks ({_reasons(left_out)}); rename it")
    tasks = tuple(name for name in tasks if name not in left_out)
    left_out |= {} if named else changed
    if not tasks:
        raise UserError(
            f"no column of the table looks like a task ({_reasons(left_out)}); name them in "
            "data.labels"
        )
    return Columns(identity, image, text, split, tasks, many, left_out, hints)


def choose_inputs(
    table: Mapping[str, Sequence[str]], data: ConfigDict
) -> tuple[str | None, str | None, tuple[str, ...]]:
    """The columns of ids, pictures and texts: those that `data` names, or guesses.

    A column that is named as a task is not guessed to be a text or a picture.
    """
    tasks = {*data.labels, *data.many, *_changed_column(table)}
    rest = {name: values for name, values in table.items() if name not in tasks}
    identity = _id_column(table, data.id)
    chosen = _image_column(table, rest, data.image)
    taken = {identity, _called(table, SPLIT), chosen} - {None}
    words = _text_columns(table, rest, data.text, taken)
    if not chosen and not words:
        raise UserError(
            f"the table has neither a picture nor words among its columns {list(table)}; name "
            "them in data.image and data.text"
        )
    return identity, chosen, words


def identity_column(
    table: Mapping[str, Sequence[str]], wanted: str, tasks: Iterable[str]
) -> str | None:
    """The column that names a row: of ids, else of pictures; None where rows only have numbers."""
    identity = _id_column(table, wanted)
    if identity is not None:
        return identity
    others = table.keys() - {*tasks}
    return _image_column(table, {name: table[name] for name in table if name in others}, "")


def _changed_column(table: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """{the column that says what was changed in the table: why it has no role}; or {}."""
    filled = list(filter(None, table.get(CHANGED, ())))
    if filled and all(map(CHANGES.fullmatch, filled)):
        return {CHANGED: "it says what was corrected"}
    return {}


def _many_columns(
    table, data: ConfigDict, among: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The columns with several labels in a cell, and lines about those that are guesses.

    `data.many` names the columns. If it is empty, a column whose cells split at `data.separator`
    is one. A column whose cells would split at another separator is only mentioned, since a comma
    or a slash is often part of a class's name.
    """
    if NONE in data.many and NONE not in table:
        return (), ()
    many = [_existing(table, name, "data.many") for name in data.many]
    hints = []
    for name in among:
        if name in many:
            continue
        cells = collections.Counter(filter(None, table[name]))
        shares = {
            separator: share_of_several(cells, separator)
            for separator in dict.fromkeys((data.separator, *SEPARATORS))
        }
        separator = max(shares, key=shares.get)
        if not data.many and shares[data.separator] >= MANY:
            many.append(name)
            hints.append(
                f"{name} has several labels in a cell, split by {data.separator!r}; "
                "--config.data.many=none makes every cell one class"
            )
        elif shares[separator] and not _of_numbers(cells, separator):
            cell = next(cell for cell in cells if len(split_cell(cell, separator)) > 1)
            flags = f"--config.data.many={','.join((*data.many, name))}"
            if separator != data.separator:
                flags += f" --config.data.separator='{separator}'"
            hints.append(f"{name} has cells such as {cell!r}; {flags} makes them several labels")
    return tuple(many), tuple(hints)


def _of_numbers(cells: Iterable[str], separator: str) -> bool:
    """Whether all parts of the cells are numbers, as in 1,5 and 12/05."""
    return all(NUMBER.fullmatch(part) for cell in cells for part in split_cell(cell, separator))


def _why_no_name(name: str, table, tasks: Sequence[str]) -> str:
    """Why a column's name cannot be a task's name; '' if it can."""
    short = task_name(name)
    if not short:
        return "its name is no task's"
    others = {*table, *map(task_name, (task for task in tasks if task != name))}
    return f"as a task's name {short!r} is taken" if short in others - {name} else ""


def _reasons(left_out: Mapping[str, str]) -> str:
    return ", ".join(f"{shown(name)}: {why}" for name, why in left_out.items()) or "all are taken"


def why_no_task(name: str, values: Sequence[str], many: bool) -> str:
    """Why a column cannot be a task; '' if it can."""
    filled = [value for value in values if value]
    distinct = set(filled)
    if not distinct:
        return "empty"
    if name == LABELLED:
        return "it says what `cmaclip label` filled"
    if re.fullmatch(UNNAMED, name.lower()):
        return "it has no name"
    if len(distinct) == 1 and not many:
        return "one value only"
    if many:
        return ""
    if any("." in value for value in distinct) and all(map(NUMBER.fullmatch, distinct)):
        return "numbers"
    if len(distinct) > len(filled) / 2 and len(distinct) > 2:
        numbers = all(map(NUMBER.fullmatch, distinct))
        return "numbers" if numbers else "free text: most values occur once"
    if len(distinct) > MANY_VALUES and len(filled) < FEW_ROWS * len(distinct):
        return f"{len(distinct):,} values in {len(filled):,} rows"
    if sum(len(value.split()) for value in distinct) > LONG * len(distinct):
        return "free text: long"
    return ""


def without_constants(columns: Columns, table, training: Sequence[int]) -> Columns:
    """The columns without tasks that have fewer than two classes in the training rows."""
    constant = {
        name: "one value only in train"
        for name in columns.tasks
        if len({table[name][row] for row in training} - {""}) < 2
    }
    tasks = tuple(name for name in columns.tasks if name not in constant)
    if not tasks:
        raise UserError(
            f"no task is left, since {', '.join(constant)} has one value only in the "
            f"{len(training):,} rows of train; add rows"
        )
    return dataclasses.replace(columns, tasks=tasks, left_out={**columns.left_out, **constant})


def _called(table, names: Sequence[str]) -> str | None:
    lower = {name.lower(): name for name in table}
    return next((lower[name] for name in names if name in lower), None)


def _id_column(table, wanted: str) -> str | None:
    if wanted == NONE:
        return None
    return _existing(table, wanted, "data.id") if wanted else _called(table, IDS)


def _image_column(table, rest, wanted: str) -> str | None:
    if wanted == NONE:
        return None
    if wanted:
        return _existing(table, wanted, "data.image")
    named = _called(rest, IMAGES)
    return named or next((name for name in rest if _holds_pictures(rest[name])), None)


def _holds_pictures(values: Sequence[str]) -> bool:
    some = [value for value in values[:1_000] if value]
    pictures = sum(bool(PICTURE.fullmatch(x) or EMBEDDED.fullmatch(x)) for x in some)
    return bool(some) and pictures > len(some) / 2


def _text_columns(table, rest, wanted: str, taken: set[str]) -> tuple[str, ...]:
    if wanted == NONE:
        return ()
    if wanted:
        names = [wanted] if wanted in table else [name.strip() for name in wanted.split(",")]
        return tuple(_existing(table, name, "data.text") for name in names)
    named = _called({name: 0 for name in rest if name not in taken}, TEXTS)
    if named:
        return (named,)
    words = {
        name: sum(len(value.split()) for value in values)
        for name, values in rest.items()
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
