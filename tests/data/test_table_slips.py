"""Tables as people write them the first time: what is put right, and what is refused in a line."""

import itertools
import json
import os
import shutil
import zipfile

import pytest
import tensorflow as tf
from PIL import Image
from support.commands import mistake

from cmaclip_jax.config import base_config, check_config
from cmaclip_jax.config_arguments import with_overrides
from cmaclip_jax.data.bad_records import BadRecords
from cmaclip_jax.data.named_pictures import evenly
from cmaclip_jax.data.sources import open_sources
from cmaclip_jax.data.tables import read_rows, read_table
from cmaclip_jax.errors import UserError
from cmaclip_jax.runs import data
from cmaclip_jax.runs.data import check_kinds, open_data
from cmaclip_jax.runs.towers import open_towers
from cmaclip_jax.training.workdir import open_workdir

WORDS = ("mug", "hat", "bag", "shoe", "lamp", "vase")


def no_faults(*fault):
    pytest.fail(str(fault))


@pytest.fixture
def opened(tmp_path):
    """Opens the splits of a table that is written from a text or bytes."""

    def open_splits(content, name="a.csv", bad=None, **fields):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        data = base_config().data
        data.source, data.path = "table", str(path)
        data.update(fields)
        return open_sources(data, bad or BadRecords(max_share=1.0))

    return open_splits


def table(head, *columns, rows=40):
    """A CSV: `columns` are functions of a row's number, or the values that they go through."""
    lines = [",".join(c(n) if callable(c) else c[n % len(c)] for c in columns) for n in range(rows)]
    return "\n".join((head, *lines)) + "\n"


def title(number):
    return f"a {WORDS[number % 6]} of number {number}"


def tasks(splits):
    return {task.name: (task.classes, task.many) for task in splits["train"].tasks}


def test_a_table_that_leaves_no_task_is_refused(opened):
    content = "title,colour,split\na mug,red,train\na hat,blue,val\na bag,blue,val\n"
    with pytest.raises(UserError, match=r"no task is left, since colour .* 1 rows? of train"):
        opened(content)


@pytest.mark.parametrize(
    "rows",
    [
        ["p1.jpg,a mug,red", "p2.jpg,a hat,blue"],
        ["gs://shop/p1,a mug,red", "gs://shop/p2,a hat,blue"],
        ["7,a blue mug,Men,red", "8,a hat,Women,blue", "9,a bag,Men,blue"],
        ["3,Wall St. Bears", "4,Carlyle Looks", "3,Oil and Economy"],
        ["Men,Men,a mug", "Women,Men,a hat", "Men,Men,a bag"],  # two names alike as well
    ],
)
def test_a_table_without_a_head_line_is_refused(tmp_path, rows):
    (tmp_path / "a.csv").write_text("\n".join(rows) + "\n")
    with pytest.raises(UserError, match=r"looks like a row, .*put a line of names above it"):
        read_table(str(tmp_path / "a.csv"), no_faults)


@pytest.mark.parametrize(
    "rows",
    [
        ["id,image,title", "1,p1.jpg,title"],  # somebody's placeholder
        [",0,1,2", "0,1,a,b", "1,1,c,b"],  # pandas counts nameless columns
        ["headline,1990,1991", "a mug,3,4", "a hat,5,6"],
        ["headline,wool,silk", "a mug,wool,", "a hat,,silk"],  # boxes that were ticked
        ["headline,kind", "a mug,x", "headline,kind", "a hat,y"],  # two files in one
        ["headline,kind"],
    ],
)
def test_a_head_line_is_not_taken_for_a_row(tmp_path, rows):
    (tmp_path / "a.csv").write_text("\n".join(rows) + "\n")
    read = list(read_rows(str(tmp_path / "a.csv")))
    assert [list(row.values()) for row in read] == [row.split(",") for row in rows[1:]]


def test_pictures_on_the_web_are_refused_with_the_reason(opened):
    content = table("image,title,colour", lambda n: f"https://shop/{n}.jpg", title, ["red", "blue"])
    with pytest.raises(UserError, match=r"are addresses, as 'https://shop/0.jpg', and nothing is"):
        opened(content)
    with pytest.raises(UserError, match="nothing is fetched"):
        opened(content, outside=True)
    assert opened(content, image="none")["train"].images[0] is None
    some = content.replace("https://shop/1", "1")
    bad = BadRecords(max_share=1.0)
    assert sum(map(len, opened(some, bad=bad).values())) == 11
    assert bad.reasons == {"picture on the web": 29}


def test_pictures_that_all_lie_outside_name_the_field_that_allows_it(opened):
    content = table("image,title,colour", lambda n: f"../{n}.jpg", title, ["red", "blue"])
    with pytest.raises(UserError, match=r"as '\.\./0.jpg'; allow that with --config.data.outside"):
        opened(content)
    assert opened(content, outside=True)["train"].images[0].endswith("/../0.jpg")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_utf_16_is_read(tmp_path, encoding, end):
    lines = ["title\tkind", 'päté de "x"\ta', '"two\nlines"\tb', "line\u2028break\tc", ""]
    mark = b"" if encoding == "utf-16" else b"\xfe\xff"
    content = mark + end.join(lines).encode(encoding)
    (tmp_path / "a.csv").write_bytes(content)
    expected = {
        "title": ['päté de "x"', "two\nlines", "line\u2028break"],
        "kind": ["a", "b", "c"],
    }
    assert read_table(str(tmp_path / "a.csv"), no_faults) == expected
    remote = f"ram://{tmp_path.name}.csv"
    with tf.io.gfile.GFile(remote, "wb") as file:
        file.write(content)
    assert read_table(remote, no_faults) == expected


def test_backslashes_part_folders_where_no_file_has_them_in_its_name(opened, tmp_path):
    (tmp_path / "img").mkdir()
    for name in ("img/p1.png", "odd\\p2.png"):
        Image.new("RGB", (9, 9)).save(tmp_path / name)
    rows = ["img\\p1.png,a mug,red", "odd\\p2.png,a hat,blue", "..\\x\\p3.png,a bag,red"]
    content = "\n".join(("image,title,colour,split", *(f"{row},train" for row in rows))) + "\n"
    bad = BadRecords(max_share=1.0)
    source = opened(content, bad=bad)["train"]
    assert list(source.images) == [str(tmp_path / "img/p1.png"), str(tmp_path / "odd\\p2.png")]
    assert source.ids[0] == "img\\p1.png"  # by which a hash decides on a split, as before
    assert bad.reasons == {"picture outside the data folder": 1}
    assert all(os.path.exists(path) for path in source.images)


def test_a_name_that_no_task_may_have_is_shortened(opened):
    content = table("headline,Yes/No,kind", title, ["yes", "no"], ["x", "y", "z"])
    splits = opened(content)
    assert list(tasks(splits)) == ["Yes-No", "kind"]
    assert splits["train"].labels("Yes-No")[0] in ("yes", "no")
    assert "Yes-No (of the column 'Yes/No')" in splits["train"].description
    assert list(tasks(opened(content, labels=("Yes/No",)))) == ["Yes-No"]
    taken = table("headline,Yes/No,Yes-No", title, ["yes", "no"], ["x", "y", "z"])
    splits = opened(taken)
    assert list(tasks(splits)) == ["Yes-No"]
    assert splits["train"].labels("Yes-No")[0] in "xyz"
    assert "Yes/No (as a task's name 'Yes-No' is taken)" in splits["train"].description
    with pytest.raises(UserError, match=r"'Yes-No' is taken\); rename it"):
        opened(taken, labels=("Yes/No",))


@pytest.mark.parametrize("name", ["a.xlsx", "a.csv"])
def test_a_workbook_is_to_be_saved_as_csv(opened, tmp_path, name):
    with zipfile.ZipFile(tmp_path / "book", "w") as book:
        book.writestr("xl/workbook.xml", "<workbook/>")
    with pytest.raises(UserError, match=f"{name}' is a spreadsheet's workbook.*save it as CSV"):
        opened((tmp_path / "book").read_bytes(), name)


def test_a_bar_may_part_the_cells_of_a_row(opened):
    content = table("headline,colour", title, ["red", "blue"]).replace(",", "|")
    assert tasks(opened(content)) == {"colour": (("blue", "red"), False)}
    one_bar = "headline,sizes a|b\n" + "".join(f"{title(n)},{'xy'[n % 2]}\n" for n in range(20))
    assert list(tasks(opened(one_bar))) == ["sizes a-b"]


@pytest.mark.parametrize("index", ["", "Unnamed: 0"])
def test_a_column_called_id_comes_before_a_nameless_one(opened, index):
    head, columns = f"{index},id,title,colour,sku", (str, lambda n: f"p{n}", title, ["red", "blue"])
    content = table(head, *columns, lambda n: f"s{n}")
    splits = opened(content)
    assert all(name.startswith("p") for source in splits.values() for name in source.ids)
    told = splits["train"].description
    assert "id id;" in told
    assert f"{index or '(the column without a name)'} (it has no name)" in told
    alone = table(head.replace(",id", ""), columns[0], *columns[2:], lambda n: f"s{n}")
    before = opened(alone)
    assert all(name.isdigit() for source in before.values() for name in source.ids)
    assert f"id {index or '(the column without a name)'};" in before["train"].description
    assert all(x.startswith("s") for x in opened(content, id="sku")["train"].ids)
    assert opened(content, id="none")["train"].ids[0].startswith("row ")
    with pytest.raises(UserError, match=r"no column 'skuu' \(data.id\); did you mean 'sku'"):
        opened(content, id="skuu")


def test_bars_between_known_labels_make_a_task_of_many(opened):
    cells = ["red|green", "red", "green | blue", "blue", "green", ""]
    content = table("headline,colours", title, cells, rows=120)
    splits = opened(content)
    assert tasks(splits) == {"colours": (("blue", "green", "red"), True)}
    assert set(splits["train"].labels("colours")) >= {("red", "green"), ("blue",), None}
    assert "colours has several labels in a cell, split by '|'" in splits["train"].description
    whole = tasks(opened(content, many=("none",)))
    assert whole["colours"] == (("blue", "green", "green | blue", "red", "red|green"), False)


def test_a_run_that_learned_one_class_a_cell_is_not_judged_by_many(opened):
    content = table("headline,kinds", title, ["a|b", "a", "b|c", "c"], rows=120)
    source = opened(content)["train"]
    (kept,) = opened(content, many=("none",))["train"].tasks
    with pytest.raises(UserError, match=r"'kinds' with one label a pair.*--config.data.many=none"):
        check_kinds((kept,), source)
    with pytest.raises(UserError, match=r"several labels a pair.*--config.data.many=kinds"):
        check_kinds(source.tasks, opened(content, many=("none",))["train"])
    check_kinds(source.tasks, source)


def test_data_without_a_task_cannot_be_learned(config, monkeypatch):
    class Words(list):
        tasks = ()

        def text(self, index):
            return self[index]

    monkeypatch.setattr(data, "open_sources", lambda *_: {"train": Words(["a mug"])})
    config.eval.every = 0
    with pytest.raises(UserError, match=r"no task to learn; name columns in data.labels"):
        open_data(config, None, open_towers(config, None))


def test_a_run_goes_on_that_was_begun_before_a_field_was_there(config, tmp_path):
    open_workdir(tmp_path, config)
    (tmp_path / "checkpoints/2").mkdir(parents=True)
    saved = json.loads((tmp_path / "config.json").read_text())
    del saved["data"]["id"], saved["data"]["separator"]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    open_workdir(tmp_path, config)
    config.data.separator = ","
    with pytest.raises(UserError, match=r"data.separator is '\|' there and ',' here"):
        open_workdir(tmp_path, config)


def test_other_separators_are_mentioned_and_may_be_chosen(opened):
    cells = ['"red,green"', "red", '"green,blue"', "blue", "green"]
    content = table("headline,colours", title, cells, rows=120)
    splits = opened(content)
    assert tasks(splits)["colours"][1] is False
    told = splits["train"].description
    flags = "--config.data.many=colours --config.data.separator=','"
    assert f"colours has cells such as 'red,green'; {flags} makes them several labels" in told
    overrides = [flag.replace("'", "") for flag in flags.split()]
    config = with_overrides(base_config(), overrides)
    chosen = tasks(opened(content, many=config.data.many, separator=config.data.separator))
    assert chosen == {"colours": (("blue", "green", "red"), True)}
    config.data.separator = ""
    with pytest.raises(UserError, match=r"data\.separator is empty"):
        check_config(config)


def test_a_list_is_several_labels_whatever_the_separator(opened):
    rows = [{"title": title(n), "kinds": [["a,b", "c"], ["c"], ["a,b"]][n % 3]} for n in range(60)]
    content = "\n".join(str(row).replace("'", '"') for row in rows)
    assert tasks(opened(content, "a.jsonl"))["kinds"] == (("a,b", "c"), True)
    content = content.replace("a,b", "a|b")
    chosen = tasks(opened(content, "b.jsonl", separator=";"))
    assert chosen["kinds"] == (("a|b", "c"), True)


@pytest.mark.parametrize(
    "cells",
    [
        ['"Sports, Outdoor"', "Toys", '"Home, Garden"', '"Home, Kitchen"'],
        ["Home|Kitchen|Pans", "Home|Kitchen|Pots", "Home|Garden|Spades", "Toys|Cars|Red"],
        ["5|8", "5.5", "6"],
        ['"1,5"', '"1,8"', '"2,5"', '"2,8"'],
        ["red", "green", "blue"],
    ],
)
def test_names_with_separators_in_them_are_one_class(opened, cells):
    splits = opened(table("headline,kind", title, cells, rows=120))
    assert tasks(splits) == {"kind": (tuple(sorted(c.strip('"') for c in cells)), False)}
    assert "--config.data" not in splits["train"].description


def test_a_few_cells_with_bars_are_mentioned_alone(opened):
    cells = [*["red", "green"] * 20, "red|green"]
    splits = opened(table("headline,kind", title, cells, rows=410))
    assert tasks(splits)["kind"][1] is False
    assert "'red|green'; --config.data.many=kind makes them" in splits["train"].description


def test_a_column_of_labels_is_no_words(opened):
    content = table("picture,tags", lambda n: f"{n}.jpg", lambda n: f"{title(n)}|{title(n + 1)}")
    splits = opened(content, labels=("tags",), many=("tags",))
    assert splits["train"].texts[0] is None


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 100, 1_000])
def test_a_sample_is_spread_evenly(count):
    some = evenly(iter(range(count)), 8)
    assert min(count, 4) <= len(some) <= 8
    assert len({b - a for a, b in itertools.pairwise(some)}) <= 1
    assert not some or count - some[-1] <= max(1, count / 4)


def test_evaluating_from_another_folder_names_the_field(
    finished_run, catalogue, tmp_path, capsys, monkeypatch
):
    run = shutil.copytree(finished_run, tmp_path / "run")
    config = (run / "config.json").read_text()
    (run / "config.json").write_text(config.replace(str(catalogue), catalogue.name))
    monkeypatch.chdir(tmp_path)
    says = mistake(capsys, "evaluate", f"--workdir={run}")
    assert f"there is no data.path='products.csv', seen from {tmp_path}; say where with" in says
    assert "--config.data.path=" in says
