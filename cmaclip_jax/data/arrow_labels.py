"""Labels in columns of Parquet and Arrow files, and how `datasets` describes such columns.

A column may hold text, numbers, lists, or the numbers of named classes.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from cmaclip_jax.data.arrow_tables import UNKNOWN
from cmaclip_jax.data.many_labels import split_cell

HUGGING_FACE = b"huggingface"  # the key of the metadata in which `datasets` describes the columns
TEXT = {"dtype": "string", "_type": "Value"}  # how it describes a column of text


def as_value(label: str, kind: pa.DataType, names: Sequence[str] | None, separator: str) -> Any:
    """A label as a value of a column's type; ValueError if the column cannot hold it.

    label: as a cell of text holds it; `separator` joins several labels.
    names: those of the column's classes, if it holds their numbers.
    """
    if pa.types.is_dictionary(kind):
        return as_value(label, kind.value_type, names, separator)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        parts = split_cell(label, separator)
        return [as_value(part, kind.value_type, names, separator) for part in parts]
    if names is not None:
        return UNKNOWN if not label else list(names).index(label)
    if not label:
        return None
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return label.encode()
    if pa.types.is_boolean(kind):
        return bool(["false", "true"].index(label))
    if pa.types.is_integer(kind):
        return int(label)
    if pa.types.is_floating(kind):
        return float(label)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return label
    raise ValueError(f"no label in a column of {kind}")


def with_text_columns(
    metadata: dict[bytes, bytes] | None, names: Iterable[str]
) -> dict[bytes, bytes] | None:
    """A schema's metadata, in which `datasets` finds further columns of text."""
    kept = json.loads((metadata or {}).get(HUGGING_FACE, b"{}"))
    features = kept.get("info", {}).get("features")
    if features is None:
        return metadata
    features.update(dict.fromkeys(names, TEXT))
    return {**(metadata or {}), HUGGING_FACE: json.dumps(kept).encode()}
