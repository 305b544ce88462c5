"""A user's own table in every format: which column is what, and what its cells mean."""

import json
import os

import numpy as np
import pytest
from PIL import Image
from support.tables import ROWS, typed, write

from cmaclip_jax.config import base_config
from cmaclip_jax.data.bad_records import BadRecords
from cmaclip_jax.data.columns import why_no_task
from cmaclip_jax.data.sources import open_sources
from cmaclip_jax.data.tables import read_table
from cmaclip_jax.errors import UserError


@pytest.fixture
def config(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(5):
        Image.new("RGB", (9, 9), (number, 0, 0)).save(tmp_path / f"images/{number}.png")
    config = base_config()
    config.data.source = "table"
    config.data.many = ("materials",)
    return config


def opened(config, bad=None):
    return open_sources(config.data, bad or BadRecords())


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet", "b.jsonl", "b.parquet"])
def test_every_format_means_the_same(config, tmp_path, name):
    rows = list(map(typed, ROWS)) if name.startswith("b") else ROWS
    config.data.path = write(tmp_path / name, rows)
    splits = opened(config)
    assert {split: len(source) for split, source in splits.items()} == {
        "train": 24,
        "val": 8,
        "test": 8,
    }
    classes = {task.name: (task.classes, task.many) for task in splits["train"].tasks}
    assert classes == {
        "colour": (("NA", "None", "red"), False),  # words are classes, only nothing is nothing
        "materials": (("cotton", "silk", "wool"), True),
        "year": (("2010", "2011", "2012"), False),
    }
    record = splits["val"][0]
    assert (record.id, record.text) == ("3", "title number 3, with a comma")
    assert record.image == str(tmp_path / "images/3.png")
    assert record.labels == {"colour": None, "materials": ("cotton", "wool"), "year": "2010"}
    assert splits["train"].labels("materials")[2] is None


def test_the_choice_of_columns_is_told(config, tmp_path):
    config.data.path = write(tmp_path / "a.csv", ROWS)
    told = opened(config)["train"].description
    assert "picture image; words title; id id; split split" in told
    assert "tasks colour, materials, year" in told
    assert "price (numbers)" in told
    assert "brand (one value only)" in told
    config.data.labels = ("year",)
    assert [task.name for task in opened(config)["train"].tasks] == ["year"]


def test_texts_are_joined_and_modalities_left_out(config, tmp_path):
    config.data.path = write(tmp_path / "a.csv", ROWS)
    config.data.text = "brand, title"
    assert opened(config)["val"][0].text == "same title number 3, with a comma"
    config.data.text = "none"
    assert opened(config)["val"][0].text is None
    config.data.text, config.data.image = "", "none"
    assert opened(config)["val"][0].image is None


def test_without_a_split_the_id_decides(config, tmp_path):
    rows = [{k: v for k, v in row.items() if k != "split"} for row in ROWS * 25]
    rows = [row | {"id": f"item {number}"} for number, row in enumerate(rows)]
    config.data.path = write(tmp_path / "a.csv", rows)
    before = {split: set(source.ids) for split, source in opened(config).items()}
    config.data.path = write(tmp_path / "b.csv", rows[::-1][:600])
    after = {split: set(source.ids) for split, source in opened(config).items()}
    assert all(after[split] <= before[split] for split in before)
    assert [len(before[split]) / 1000 for split in before] == pytest.approx(
        [0.8, 0.1, 0.1], abs=0.03
    )


def test_a_split_without_val_gives_up_a_tenth(config, tmp_path):
    rows = [row | {"split": "train" if row["split"] == "val" else row["split"]} for row in ROWS]
    config.data.path = write(tmp_path / "a.csv", rows)
    splits = opened(config)
    assert sum(map(len, splits.values())) == 40
    assert {"train", "test"} <= set(splits)


def test_pictures_may_lie_in_a_bucket(config):
    import tensorflow as tf

    content = "image,title,kind\n" + "".join(f"p/{i}.jpg,word {i},{i % 2}\n" for i in range(20))
    tf.io.gfile.makedirs("ram://shop")
    with tf.io.gfile.GFile("ram://shop/table.csv", "w") as file:
        file.write(content)
    config.data.path, config.data.many = "ram://shop/table.csv", ()
    assert opened(config)["train"][0].image.startswith("ram://shop/p/")


@pytest.mark.parametrize("cell", ["../secret.png", "/etc/passwd", "images/../../x.png", "gs://b/x"])
def test_a_path_that_leaves_the_folder_is_refused_unless_allowed(config, tmp_path, cell):
    rows = [ROWS[0] | {"image": cell}, *ROWS[1:]]
    config.data.path = write(tmp_path / "a.csv", rows)
    bad = BadRecords()
    assert "0" not in opened(config, bad)["train"].ids
    assert bad.reasons == {"picture outside the data folder": 1}
    splits = opened(config, BadRecords(policy="no_image"))
    assert splits["train"][0].image is None
    config.data.outside = True
    expected = cell if "://" in cell else os.path.join(tmp_path, cell)
    assert opened(config)["train"][0].image == expected


def test_a_folder_with_a_name_that_begins_alike_is_outside(config, tmp_path):
    (tmp_path / "data").mkdir()
    rows = [ROWS[0] | {"image": "../database/x.png"}, *ROWS[1:]]
    config.data.path = write(tmp_path / "data/a.csv", rows)
    assert "0" not in opened(config)["train"].ids


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "has no rows"),
        ("id,image,title,kind\n", "has no rows"),
        ("id,id\n1,2\n", "two columns called 'id'"),
        ("id,kind\n1,a\n2,b\n3,a\n", "neither a picture nor words"),
        ("title,kind\nx y,a\nz w,a\nu v,a\n", "no column of the table looks like a task"),
        ("title,kind,split\nx,a,val\ny,b,val\n", "no row of"),
    ],
)
def test_tables_that_cannot_be_used_say_why(config, tmp_path, content, says):
    (tmp_path / "a.csv").write_text(content)
    config.data.path, config.data.many = str(tmp_path / "a.csv"), ()
    with pytest.raises(UserError, match=says):
        opened(config)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("labels", ("colours",), "did you mean 'colour'"),
        ("image", "picture", "no column 'picture' \\(data.image\\)"),
        ("text", "titel", "did you mean 'title'"),
        ("labels", ("brand",), "'brand' has 1 class"),
        ("path", "nowhere.csv", "there is no data.path='nowhere.csv', seen from /"),
        ("path", "", "needs data.path"),
        ("many", ("materialz",), "did you mean 'materials'"),
    ],
)
def test_wrong_fields_end_in_a_line_with_the_fix(config, tmp_path, field, value, says):
    config.data.path = write(tmp_path / "a.csv", ROWS)
    config.data[field] = value
    with pytest.raises(UserError, match=says):
        opened(config)


def test_rows_that_are_none_are_listed_and_the_others_read(config, tmp_path):
    path = tmp_path / "a.csv"
    write(path, ROWS * 5)
    path.write_bytes(path.read_bytes() + b"1,2,3\n")
    config.data.path = str(path)
    bad = BadRecords(tmp_path / "bad.jsonl")
    assert sum(map(len, opened(config, bad).values())) == 200
    lines = list(map(json.loads, (tmp_path / "bad.jsonl").read_text().splitlines()))
    reasons = [line["reason"] for line in lines if line["split"] == "table"]
    assert "3 cells where the head has 9" in reasons
    path = tmp_path / "a.jsonl"
    write(path, ROWS * 5)
    path.write_text(path.read_text() + "\n{broken\n[1]\n")
    config.data.path = str(path)
    bad = BadRecords()
    opened(config, bad)
    assert sum("not a JSON object" in reason for reason in bad.reasons) == 2


def test_classes_that_training_lacks_duplicated_ids_and_strange_splits_are_listed(config, tmp_path):
    rows = [dict(row) for row in ROWS * 3]
    rows[3]["colour"] = "mauve"  # a row of val
    rows[4]["split"] = "holdout"
    config.data.path = write(tmp_path / "a.csv", rows)
    bad = BadRecords()
    splits = opened(config, bad)
    assert splits["val"][0].labels["colour"] is None
    assert bad.reasons["class of colour that training lacks"] == 1
    assert bad.reasons["id that several rows have"] == 40
    assert bad.reasons["unknown split"] == 1
    assert sum(map(len, splits.values())) == 119


def test_a_class_that_only_training_lacks_labels_for_is_no_class(config, tmp_path):
    """Labels are known by training rows alone, whatever other splits hold."""
    rows = [row | {"colour": "red" if row["split"] == "train" else row["colour"]} for row in ROWS]
    rows[0]["colour"] = "blue"
    config.data.path = write(tmp_path / "a.csv", rows)
    task = opened(config)["train"].tasks[0]
    assert (task.name, task.classes) == ("colour", ("blue", "red"))


@pytest.mark.parametrize(
    ("name", "content", "titles"),
    [
        ("bom.csv", "\ufefftitle,kind\nä b,x\nc d,y\n".encode(), {"ä b", "c d"}),
        ("crlf.csv", b"title,kind\r\na b,x\r\nc d,y\r\n", {"a b", "c d"}),
        ("semicolon.csv", b'"title, or name";kind\na b;x\nc d;y\n', {"a b", "c d"}),
        ("lines.csv", b'title,kind\n"a\n""b""",x\nc d,y\n', {'a\n"b"', "c d"}),
        ("spaces.csv", b"title, kind \n a b , x\nc d,y \n", {"a b", "c d"}),
        ("trailing.csv", b"title,kind\na b,x,\nc d,y,\n", {"a b", "c d"}),
        ("windows.csv", "title,kind\npâté,x\npôté,y\n".encode("cp1252"), {"pâté", "pôté"}),
    ],
)
def test_tables_as_programs_write_them(config, tmp_path, name, content, titles):
    (tmp_path / name).write_bytes(content.replace(b'\\"\\"', b'""'))
    rows = read_table(str(tmp_path / name), lambda *fault: pytest.fail(str(fault)))
    assert set(next(iter(rows.values()))) == titles
    assert rows["kind"] == ["x", "y"]


def test_an_open_quote_swallows_nothing_silently(tmp_path):
    lines = [f"title {n},k" for n in range(200)]
    lines[20] = '"open' + lines[20]
    lines[120] = 'title"' + lines[120] + ",k"
    (tmp_path / "a.csv").write_text("title,kind\n" + "\n".join(lines))
    faults = []
    rows = read_table(str(tmp_path / "a.csv"), lambda *fault: faults.append(fault))
    assert faults
    assert "a quote is open" in faults[0][1]
    assert len(rows["kind"]) < 200


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("array.json", "one JSON array; write one object a line"),
        ("broken.parquet", "cannot be read as Parquet"),
    ],
)
def test_tables_that_mean_something_else_say_so(tmp_path, name, says):
    path = tmp_path / name
    path.write_text("[{}]")
    with pytest.raises(UserError, match=says):
        read_table(str(path), lambda *fault: None)


def test_numbers_are_neither_words_nor_tasks_and_odd_columns_are_left_out(config, tmp_path):
    rows = [
        {
            "": str(n),
            "price": str(100 + n),
            "headline": f"words of {n}",
            "Is food?": "ab"[n % 2],
            "rare": "b" if n == 3 else "a",
            "kind": "xy"[n % 2],
            "split": "val" if n == 3 else "train",
        }
        for n in range(12)
    ]
    config.data.path, config.data.many = write(tmp_path / "a.csv", rows), ()
    source = opened(config)["train"]
    assert [task.name for task in source.tasks] == ["Is food", "kind"]
    assert (source[1].id, source.text(1)) == ("1", "words of 1")
    assert "tasks Is food (of the column 'Is food?'), kind" in source.description
    assert "price (numbers)" in source.description
    assert "rare (one value only in train)" in source.description


@pytest.mark.parametrize(
    ("values", "repeats", "why"),
    [
        (1_100, 3, "1,100 values in 3,300 rows"),  # a second title, which a few products share
        (1_100, 10, ""),
        (900, 3, ""),
        (3_300, 1, "free text: most values occur once"),
    ],
)
def test_many_values_of_few_rows_each_are_no_task(values, repeats, why):
    cells = [f"leather {n}" for n in range(values)] * repeats
    assert why_no_task("subtitle", cells, many=False) == why
    assert why_no_task("subtitle", cells, many=True) == ""


def test_rows_of_no_known_split_are_too_many_at_once(config, tmp_path):
    rows = [row | {"split": "extra" if i % 2 else "train"} for i, row in enumerate(ROWS)]
    config.data.path = write(tmp_path / "a.csv", rows)
    with pytest.raises(UserError, match=r"20 of the first 40 records of the data .*unknown split"):
        opened(config)


def test_too_many_bad_rows_end_the_run(config, tmp_path):
    path = tmp_path / "a.csv"
    write(path, ROWS)
    path.write_text(path.read_text() + "1,2\n" * 5)
    config.data.path = str(path)
    with pytest.raises(UserError, match=r"more than data\.max_bad=0\.05 allows"):
        opened(config)


@pytest.mark.skipif("CMACLIP_TEST_DATA" not in os.environ, reason="CMACLIP_TEST_DATA is not set")
def test_the_real_catalogue():
    config = base_config()
    config.data.source = "table"
    config.data.path = os.path.join(os.environ["CMACLIP_TEST_DATA"], "fashion/pairs.csv")
    config.data.text = "masked_title"
    splits = opened(config)
    assert sum(map(len, splits.values())) == 8_608
    tasks = {task.name: len(task.classes) for task in splits["train"].tasks}
    assert len(tasks) == 8
    assert "title" not in tasks
    assert "NA" in dict((t.name, t.classes) for t in splits["train"].tasks)["usage"] or any(
        "NA" in task.classes for task in splits["train"].tasks
    )
    counts = np.unique(splits["train"].labels("gender"), return_counts=True)[1]
    assert counts.sum() == len(splits["train"])
