"""Tables with more cells filled: every other cell as it was, in every kind of table."""

import io
import json

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet
from support.tables import ROWS, read_csv, typed, write

from cmaclip_jax.data.arrow_tables import embedded_picture
from cmaclip_jax.data.filled_tables import filled_ending, write_filled
from cmaclip_jax.data.tables import NoRow, read_rows
from cmaclip_jax.errors import UserError


def cells(rows):
    """A colour for every row without one, and a new column of several labels."""
    for number, row in enumerate(rows):
        yield {
            **({} if row["colour"] else {"colour": "blue"}),
            **({"things": ("mug", "hat")} if number % 2 else {}),
            "labelled": "x",
        }


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_only_the_named_cells_change(tmp_path, kind):
    rows = [typed(row) for row in ROWS] if kind in ("jsonl", "parquet") else ROWS
    path = write(tmp_path / f"a.{kind}", rows)
    output = tmp_path / f"b.{kind}"
    write_filled(path, output, ["colour", "things", "labelled"], cells(ROWS), "|")
    assert filled_ending(path) == f".{kind}"
    for before, after in zip(read_rows(path), read_rows(str(output)), strict=True):
        number = int(before["id"])
        assert after["colour"] == before["colour"] or "blue"
        assert after.get("things", "") == ("mug|hat" if number % 2 else "")
        assert after["labelled"] == "x"
        rest = {name: after[name] for name in before if name not in ("colour", "things")}
        assert rest == {name: before[name] for name in rest}
    if kind == "jsonl":
        lines = [json.loads(line) for line in output.read_text().splitlines()]
        assert lines[0]["year"] == 2010.0  # a number stays one
        assert lines[1]["things"] == ["mug", "hat"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"a.{kind}", f"b.{kind}"]


def picture(number):
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(file, "PNG")
    return file.getvalue()


def hub_files(folder):
    """Two files as Hugging Face's `datasets` writes them, in row groups of 3."""
    classes = {"names": ["red", "blue"], "_type": "ClassLabel"}
    features = {
        "image": {"_type": "Image"},
        "colour": classes,
        "tags": {"feature": classes, "_type": "Sequence"},
    }
    features |= {"year": {"dtype": "int64", "_type": "Value"}, "empty": {"dtype": "null"}}
    schema = pa.schema(
        {
            "image": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
            "colour": pa.int64(),
            "tags": pa.list_(pa.int64()),
            "year": pa.int64(),
            "empty": pa.null(),
        },
        {"huggingface": json.dumps({"info": {"features": features}})},
    )
    for name in ("train", "test"):
        rows = [
            {
                "image": {"bytes": picture(n), "path": f"{n}.png"},
                "colour": (0, 1, -1, None)[n % 4],
                "tags": [0] if n % 2 else None,
                "year": 2011 if n % 3 else None,
                "empty": None,
            }
            for n in range(7)
        ]
        table = pa.Table.from_pylist(rows, schema=schema)
        parquet.write_table(table, folder / f"{name}-00000-of-00001.parquet", row_group_size=3)
    return folder


def test_parquet_keeps_types_metadata_and_pictures(tmp_path):
    (tmp_path / "data").mkdir()
    folder, output = str(hub_files(tmp_path / "data")), tmp_path / "filled.parquet"
    before = list(read_rows(folder))

    def wanted():
        for row in before:
            given = {"colour": "blue", "tags": ("red", "blue"), "year": "2012", "empty": "full"}
            yield {n: x for n, x in given.items() if not row[n]} | {"labelled": "colour"}

    columns = ["colour", "tags", "year", "empty", "labelled"]
    write_filled(folder, output, columns, wanted(), "|")
    after = list(read_rows(str(output)))
    assert [row["split"] for row in after] == ["test"] * 7 + ["train"] * 7
    for old, new in zip(before, after, strict=True):
        assert new["colour"] == (old["colour"] or "blue")
        assert new["tags"] == (old["tags"] or "red|blue")
        assert new["year"] == (old["year"] or "2012")
        assert (new["empty"], new["labelled"]) == ("full", "colour")
        place = str(tmp_path / new["image"]), f"{folder}/{old['image']}"
        assert embedded_picture(place[0]) == embedded_picture(place[1])
    file = parquet.ParquetFile(output)
    assert file.schema_arrow.field("colour").type == pa.int64()
    assert [file.metadata.row_group(i).num_rows for i in range(6)] == [3, 3, 1] * 2
    info = json.loads(file.schema_arrow.metadata[b"huggingface"])["info"]["features"]
    assert info["colour"]["names"] == ["red", "blue"]
    assert info["empty"] == info["labelled"] == {"dtype": "string", "_type": "Value"}


def test_a_class_that_a_column_cannot_hold(tmp_path):
    (tmp_path / "data").mkdir()
    folder = str(hub_files(tmp_path / "data"))
    for column, label in (("colour", "mauve"), ("year", "soon")):
        rows = ({column: label} for _ in range(14))
        with pytest.raises(UserError, match=f"the column '{column}' cannot hold '{label}'"):
            write_filled(folder, tmp_path / "out.parquet", [column], rows, "|")
    assert not (tmp_path / "out.parquet").exists()


def test_the_tables_of_a_folder_of_pictures_become_one(tmp_path):
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "metadata.csv").write_text(f"file_name,title\n{split}.png,a title\n")
    output = tmp_path / "out.csv"
    write_filled(str(tmp_path), output, ["colour"], iter([{"colour": "red"}, {}]), "|")
    assert read_csv(output) == [
        {"file_name": "train/train.png", "title": "a title", "split": "train", "colour": "red"},
        {"file_name": "val/val.png", "title": "a title", "split": "val", "colour": ""},
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("bad.csv", "id,title\n1,a\ntoo,many,cells\n2,b\n"),
        ("bad.jsonl", '{"id": 1, "title": "a"}\n[1]\n{"id": 2, "title": "b"}\n'),
    ],
)
def test_places_that_are_no_rows_are_left_out(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    filled = [None if isinstance(row, NoRow) else {"colour": "red"} for row in read_rows(str(path))]
    assert filled.count(None) == 1
    output = path.with_stem("out")
    write_filled(str(path), output, ["colour"], filled, "|")
    rows = list(read_rows(str(output)))
    assert [(row["id"], row["colour"]) for row in rows] == [("1", "red"), ("2", "red")]
