"""Data in the layouts of Hugging Face: Parquet files, saved data sets, and folders of pictures."""

import collections
import csv
import io
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import ipc, parquet

from cmaclip_jax.config import base_config
from cmaclip_jax.data import arrow_tables, table_files
from cmaclip_jax.data.bad_records import BadRecords
from cmaclip_jax.data.batches import BatchEncoder
from cmaclip_jax.data.images import open_image
from cmaclip_jax.data.loading import DRAWS, Loader
from cmaclip_jax.data.order import Order
from cmaclip_jax.data.packed_strings import PackedStrings
from cmaclip_jax.data.sources import open_sources
from cmaclip_jax.data.table_files import base_folder, split_of
from cmaclip_jax.data.tables import read_rows
from cmaclip_jax.data.text import train_tokenizer
from cmaclip_jax.errors import UserError
from cmaclip_jax.main import main

COLOURS, TAGS = ["red", "green", "blue"], ["small", "old"]
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
# What `datasets` 5.2 writes into the metadata of a file.
FEATURES = {
    "image": {"_type": "Image"},
    "colour": {"names": COLOURS, "_type": "ClassLabel"},
    "tags": {"feature": {"names": TAGS, "_type": "ClassLabel"}, "_type": "List"},
    "text": {"dtype": "string", "_type": "Value"},
}
METADATA = {"huggingface": json.dumps({"info": {"features": FEATURES}})}


def png(number):
    """A picture whose colour is its number."""
    file = io.BytesIO()
    Image.new("RGB", (20, 16), (number, 2 * number, 0)).save(file, "PNG")
    return file.getvalue()


def number_of(record):
    """The number from which the picture of a record was made."""
    return int(np.asarray(open_image(record.image))[0, 0, 0])


def pairs(first, count, pictures=None):
    """A table of `datasets`. Every tenth row has no colour, and the last row no picture."""
    numbers = range(first, first + count)
    pictures = pictures or [{"bytes": png(n), "path": f"{n}.png"} for n in numbers[:-1]] + [None]
    columns = {
        "image": pa.array(pictures, PICTURE),
        "colour": pa.array([-1 if n % 10 == 9 else n % 3 for n in numbers], pa.int64()),
        "tags": pa.array(
            [[t for t in (0, 1) if n >> t & 1] for n in numbers], pa.list_(pa.int64())
        ),
        "text": pa.array([f"thing {n} of many" for n in numbers]),
    }
    return pa.table(columns).replace_schema_metadata(METADATA)


def opened(path, bad=None, **fields):
    data = base_config().data
    data.source, data.path = "table", str(path)
    data.update(fields)
    return open_sources(data, bad or BadRecords(max_share=1.0))


def check(splits, sizes):
    """Every row lies in its split, with its own picture, words and labels."""
    assert {name: len(source) for name, source in splits.items()} == sizes
    tasks = {task.name: (task.classes, task.many) for task in splits["train"].tasks}
    assert tasks == {"colour": (tuple(sorted(COLOURS)), False), "tags": (("old", "small"), True)}
    seen = set()
    for source in splits.values():
        for record in map(source.__getitem__, range(len(source))):
            number = int(record.text.split()[1])
            seen.add(number)
            assert record.labels["colour"] == (None if number % 10 == 9 else COLOURS[number % 3])
            tags = {TAGS[t] for t in (0, 1) if number >> t & 1}
            assert set(record.labels["tags"] or ()) == tags
            if record.image is not None:
                assert number_of(record) == number
        assert sum(source[i].image is None for i in range(len(source))) == 1
    assert len(seen) == sum(sizes.values())


def write_parquet(folder):
    (folder / "data").mkdir()
    for name, first in (("train-00000-of-00002", 0), ("train-00001-of-00002", 39)):
        table = pairs(first, 39)
        if first == 0:
            table = pairs(first, 39, [{"bytes": png(n), "path": None} for n in range(39)])
        parquet.write_table(table, folder / f"data/{name}.parquet", row_group_size=10)
    parquet.write_table(pairs(78, 22), folder / "data/validation.parquet")


def write_saved(folder):
    for split, first, count in (("train", 0, 78), ("validation", 78, 22)):
        (folder / split).mkdir()
        table = pairs(first, count)
        with ipc.new_stream(folder / split / "data-00000-of-00001.arrow", table.schema) as file:
            file.write_table(table, max_chunksize=20)
        (folder / split / "state.json").write_text("{}")
        (folder / split / "cache-1a2b.arrow").write_bytes(b"an unfinished cache")
    (folder / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')


def write_pictures(folder):
    for split, first, count in (("train", 0, 78), ("validation", 78, 22)):
        (folder / split / "pictures").mkdir(parents=True)
        with (folder / split / "metadata.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["file_name", "text", "colour", "tags"])
            for n in range(first, first + count):
                last = n == first + count - 1
                if not last:
                    (folder / split / f"pictures/{n}.png").write_bytes(png(n))
                colour = "" if n % 10 == 9 else COLOURS[n % 3]
                tags = "|".join(TAGS[t] for t in (0, 1) if n >> t & 1)
                name = "" if last else f"pictures/{n}.png"
                writer.writerow([name, f"thing {n} of many", colour, tags])


@pytest.mark.parametrize("write", [write_parquet, write_saved, write_pictures])
def test_a_folder_is_read_with_its_splits_names_and_pictures(tmp_path, write):
    write(tmp_path)
    check(opened(tmp_path, many=("tags",)), {"train": 78, "val": 22})


def test_a_pattern_names_files(tmp_path):
    write_parquet(tmp_path)
    whole = opened(tmp_path / "data/*.parquet", many=("tags",))
    check(whole, {"train": 78, "val": 22})
    with pytest.raises(UserError, match=r"no file matches .*\*\.csv"):
        opened(tmp_path / "*.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no table: no Parquet file"):
        opened(tmp_path / "empty")


def test_a_number_without_a_name_is_refused(tmp_path):
    table = pairs(0, 5).set_column(1, "colour", pa.array([0, 1, 2, 3, -1]))
    parquet.write_table(table.replace_schema_metadata(METADATA), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"'colour' has a class number 3, .* names 3 classes"):
        list(read_rows(str(tmp_path / "a.parquet")))


def test_a_folder_with_brackets_in_its_name_is_no_pattern(tmp_path):
    folder = tmp_path / "[old] data?"
    folder.mkdir()
    (folder / "1.png").write_bytes(png(1))
    (folder / "a.csv").write_text(
        "image,title,colour\n" + "1.png,a red mug,red\n,a hat,blue\n" * 20
    )
    source = opened(folder / "a.csv")["train"]
    assert {image for image in source.images if image} == {str(folder / "1.png")}
    assert base_folder("gs://bucket/d[1]/a.csv") == "gs://bucket/d[1]"


def test_a_pattern_may_name_files_in_a_bucket(monkeypatch):
    class Bucket:
        def __init__(self, folder):
            self.folder = folder

        def glob(self, pattern):
            assert pattern == "train-*.parquet"
            return [f"{self.folder}/train-{number}.parquet" for number in (2, 1)]

    monkeypatch.setattr(table_files.epath, "Path", Bucket)
    files = table_files.table_files("gs://bucket/d/train-*.parquet")
    assert [file.path for file in files] == [
        "gs://bucket/d/train-1.parquet",
        "gs://bucket/d/train-2.parquet",
    ]
    assert [(file.name, file.split) for file in files] == [
        ("train-1.parquet", "train"),
        ("train-2.parquet", "train"),
    ]


@pytest.mark.parametrize(
    ("file", "split"),
    [
        ("data/train-00000-of-00002.parquet", "train"),
        ("validation/0000.parquet", "val"),
        ("dev.parquet", "val"),
        ("my_test.parquet", "test"),
        ("evaluation-1.parquet", "test"),
        ("trainers/latest.parquet", ""),
    ],
)
def test_a_files_name_says_its_split(file, split):
    assert split_of(file) == split


def test_plain_bytes_and_paths_are_pictures_too(tmp_path):
    for number in range(30):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    words = pa.array([f"thing {n} of many" for n in range(30)])
    colours = pa.array([COLOURS[n % 3] for n in range(30)])
    for name, images in {
        "bytes": pa.array([png(n) for n in range(30)], pa.binary()),
        "paths": pa.array([{"bytes": None, "path": f"{n}.png"} for n in range(30)], PICTURE),
        "old": pa.array([f"{n}.png".encode() for n in range(30)], pa.binary()),  # text as bytes
    }.items():
        table = pa.table({"photo": images, "text": words, "colour": colours})
        parquet.write_table(table, tmp_path / f"{name}.parquet")
        source = opened(tmp_path / f"{name}.parquet")["train"]
        for record in map(source.__getitem__, range(len(source))):
            assert number_of(record) == int(record.text.split()[1]), name


def test_other_structs_are_text_and_a_column_of_their_own(tmp_path):
    table = pa.table({"box": [{"x": n} for n in range(30)], "colour": ["red", "blue"] * 15})
    table = table.append_column("title", pa.array([f"thing {n} of many" for n in range(30)]))
    parquet.write_table(table, tmp_path / "a.parquet")
    source = opened(tmp_path / "a.parquet")["train"]
    assert [task.name for task in source.tasks] == ["colour"]
    assert "box (free text: most values occur once)" in source.description


def test_a_broken_picture_is_a_bad_record_with_its_row(tmp_path):
    pictures = [
        {"bytes": png(n) if n != 17 else b"\xff\xd8\xff broken", "path": None} for n in range(40)
    ]
    parquet.write_table(pairs(0, 40, pictures), tmp_path / "train.parquet", row_group_size=7)
    splits, bad = opened(tmp_path), BadRecords(tmp_path / "bad.jsonl", max_share=1.0)
    encode = BatchEncoder(splits["train"].tasks, train_tokenizer(["thing"], 300), 16, 8)
    for split, source in splits.items():
        loader = Loader(source, split, encode, bad)
        rows = range(len(source))
        loader(rows, rows, np.zeros((len(source), DRAWS)))
    (fault,) = map(json.loads, (tmp_path / "bad.jsonl").read_text().splitlines())
    assert fault["reason"] == "unreadable picture"
    assert "train.parquet#image#17: cannot read the picture" in fault["detail"]


def test_every_row_group_is_read_once_an_epoch_and_few_stay_in_memory(tmp_path, monkeypatch):
    parquet.write_table(pairs(0, 100), tmp_path / "train.parquet", row_group_size=5)
    parquet.write_table(pairs(100, 20), tmp_path / "val.parquet")
    monkeypatch.setattr(arrow_tables, "CACHE_BYTES", 8 * len(png(1)) * 5)
    monkeypatch.setattr(arrow_tables, "CACHE", arrow_tables.GroupCache(arrow_tables.CACHE_BYTES, 3))
    reads = collections.Counter()
    read = arrow_tables.ArrowTable._bytes
    monkeypatch.setattr(
        arrow_tables.ArrowTable,
        "_bytes",
        lambda self, group, column: reads.update([group]) or read(self, group, column),
    )
    monkeypatch.setattr("cmaclip_jax.data.sources.table.SHUFFLED_TOGETHER", 10)
    source = opened(tmp_path, many=("tags",))["train"]
    order = Order(len(source), chunks=source.chunks, together=source.together).epoch(0)
    assert sorted(order) == list(range(100))
    assert (np.diff(order) != 1).sum() > 60
    for index in order:
        record = source[int(index)]
        if record.image is not None:
            assert number_of(record) == int(record.text.split()[1])
    assert set(reads) == set(range(20))
    assert sum(reads.values()) <= 22  # two at the borders of what is shuffled together
    assert len(arrow_tables.CACHE._groups) < 9


def test_predict_reads_the_same_files(finished_run, tmp_path):
    """A table with its pictures inside is answered as the table that names them."""
    catalogue = Path(json.loads((finished_run / "config.json").read_text())["data"]["path"])
    with catalogue.open(newline="") as file:
        rows = list(csv.DictReader(file))
    folder = tmp_path / "inside"
    folder.mkdir()
    columns = {name: [row[name] for row in rows] for name in rows[0] if name != "picture"}
    columns["picture"] = [
        {"bytes": (catalogue.parent / row["picture"]).read_bytes(), "path": None}
        if row["picture"]
        else None
        for row in rows
    ]
    schema = pa.schema([(name, PICTURE if name == "picture" else pa.string()) for name in columns])
    parquet.write_table(pa.table(columns, schema), folder / "0000.parquet", row_group_size=16)
    answers = []
    for number, table in enumerate((catalogue, folder)):
        output = tmp_path / f"{number}.csv"
        command = ["predict", f"--workdir={finished_run}", f"--input={table}", f"--output={output}"]
        assert main(command) == 0
        answers.append(output.read_text())
    assert answers[0] == answers[1]


def test_packed_strings_are_a_list():
    values = ["a", None, "", "déjà", "\ud800", "b" * 1_000]
    packed = PackedStrings(values)
    assert list(packed) == values
    assert (packed[-1], packed[1:3]) == (values[-1], values[1:3])
    with pytest.raises(IndexError):
        packed[6]


def test_a_real_catalogue_is_read_as_it_is():
    if "CMACLIP_TEST_DATA" not in os.environ:
        pytest.skip("CMACLIP_TEST_DATA names no folder of real data")
    folder = Path(os.environ["CMACLIP_TEST_DATA"]) / "fashion44k"
    splits = opened(folder, text="masked_title")
    assert {name: len(source) for name, source in splits.items()} == {"train": 35_081, "val": 4_435}
    classes = {task.name: len(task.classes) for task in splits["train"].tasks}
    assert (classes["gender"], classes["articleType"], classes["season"]) == (5, 138, 4)
    assert open_image(splits["val"][4_000].image).size == (60, 80)
    rows = list(read_rows(str(folder / "val.parquet")))
    assert rows[4_000]["image"] == "val.parquet#image#4000"
