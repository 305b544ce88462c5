"""A corrected table has exactly the accepted changes; all else keeps its bytes."""

import csv
import io
import itertools
import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as some
from pyarrow import ipc, parquet
from support.tables import ROWS, read_csv, typed, write

from cmaclip_jax.auditing.corrected_text import cells_as_written
from cmaclip_jax.auditing.correction import apply_decisions, apply_file
from cmaclip_jax.auditing.decisions import Decision, read_decisions, write_decisions
from cmaclip_jax.config import base_config
from cmaclip_jax.data.bad_records import BadRecords
from cmaclip_jax.data.sources import open_sources
from cmaclip_jax.data.tables import read_rows
from cmaclip_jax.errors import UserError

COLOURS = ["red", "green", "blue"]
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
FEATURES = {
    "image": {"_type": "Image"},
    "colour": {"names": COLOURS, "_type": "ClassLabel"},
    "tags": {"feature": {"names": ["small", "old"], "_type": "ClassLabel"}, "_type": "List"},
    "sku": {"dtype": "string", "_type": "Value"},
}
METADATA = {"huggingface": json.dumps({"info": {"features": FEATURES}}), "mine": "kept"}


def accepted(identity, label, new, task="colour", table="t") -> Decision:
    return Decision(table, str(identity), task, label, "accept", new)


def kept(identity, label, decision="keep", task="colour") -> Decision:
    return Decision("t", str(identity), task, label, decision)


def misfits(output) -> dict:
    """{(id, task): the reason} of the file beside a corrected table."""
    rows = read_csv(output.with_name(f"{output.stem}.unapplied.csv"))
    return {(row["id"], row["task"]): row["reason"] for row in rows}


CSV = b"""\xef\xbb\xbfid,"title",colour,materials,note\r
1,"a ""red"" mug, new",red,wool|silk,1.50\r
2, spaced ,"red",silk,caf\xe9 \xc3\xa9\r
\r
3,"two
lines",NA,"wool | silk",007\r
4,too,few\r
5,plain,red,,"",\r
6,last,blue,silk,"""


def test_a_csv_file_keeps_all_other_bytes(tmp_path):
    (tmp_path / "t.csv").write_bytes(CSV)
    decisions = [
        accepted(1, "red", "dark, red"),
        accepted(2, "red", "blue"),
        accepted(3, "silk|wool", "cotton|silk", "materials"),
        accepted(3, "NA", "red"),
        accepted(5, "red", "green"),
        kept(6, "blue"),
    ]
    output = tmp_path / "clean.csv"
    lines = apply_decisions(str(tmp_path / "t.csv"), decisions, str(output))
    assert lines[:2] == [
        "decisions: 6 (5 accepted, 1 kept, 0 unknown)",
        "changed cells: 5, in 4 of 5 rows",
    ]
    assert output.read_bytes() == (
        b'\xef\xbb\xbfid,"title",colour,materials,note,changed\r\n'
        b'1,"a ""red"" mug, new","dark, red",wool|silk,1.50,"colour: red -> dark, red"\r\n'
        b'2, spaced ,"blue",silk,caf\xe9 \xc3\xa9,colour: red -> blue\r\n'
        b"\r\n"
        b'3,"two\nlines",red,"cotton|silk",007,'
        b"materials: wool | silk -> cotton|silk; colour: NA -> red\r\n"
        b"4,too,few\r\n"
        b'5,plain,green,,"",colour: red -> green\r\n'
        b"6,last,blue,silk,,"
    )
    assert not (tmp_path / "clean.unapplied.csv").exists()
    # A second round finds the labels of the first, and its column of changes.
    again = [accepted(2, "blue", "green"), accepted(1, "red", "dark, red")]
    lines = apply_decisions(str(output), again, str(tmp_path / "second.csv"))
    assert "accepted labels that the table has already: 1" in lines
    before, after = (path.read_bytes().splitlines() for path in (output, tmp_path / "second.csv"))
    (changed,) = [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]
    assert changed[1].endswith(b"colour: red -> blue; colour: blue -> green")


@given(some.text('ab",; \t'), some.sampled_from(",;\t"))
def test_cells_are_parted_as_csv_parts_them(record, delimiter):
    cells = cells_as_written(record, delimiter)
    assert delimiter.join(cells) == record
    read = [next(csv.reader(io.StringIO(cell), delimiter=delimiter), []) for cell in cells]
    expected = next(csv.reader(io.StringIO(record), delimiter=delimiter), [])
    assert [("".join(cell)) for cell in read] == (expected or [""])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1252"])
@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
def test_exactly_the_accepted_cells_change(tmp_path, name, encoding):
    rows = [row | {"title": f"caf\N{LATIN SMALL LETTER E WITH ACUTE} {row['id']}"} for row in ROWS]
    path, output = tmp_path / name, tmp_path / f"clean{name[1:]}"
    write(path, rows)
    path.write_bytes(path.read_text(encoding="utf-8").encode(encoding))
    decisions = [accepted(n, "red", "None") for n in (0, 4, 36)] + [kept(8, "red", "unknown")]
    apply_decisions(str(path), decisions, str(output))
    before, after = (list(read_rows(str(one))) for one in (path, output))
    expected = [
        row | {"changed": ""}
        if row["id"] not in ("0", "4", "36")
        else row | {"colour": "None", "changed": "colour: red -> None"}
        for row in before
    ]
    assert after == expected


def test_json_lines_keep_all_other_bytes(tmp_path):
    rows = [
        '{"id": "a",  "colour":"red", "price": 1.50e0, "year": 2010, "tags": ["x","y"]}',
        "not json",
        "",
        '{"id":"b","colour":null,"text":"\\u00e9 \\" {}","year":2010.0,"sold":true}',
        "{}",
        '{ "id" : "c" , "year" : 2011 }',
    ]
    (tmp_path / "t.jsonl").write_text("\r\n".join(rows))
    decisions = [
        accepted("a", "red", "blue"),
        accepted("a", "2010", "2012", "year"),
        accepted("a", "y|x", "z", "tags"),
        accepted("b", "", "red"),
        accepted("b", "2010", "2012", "year"),
        accepted("b", "true", "false", "sold"),
        accepted("c", "", "red"),
    ]
    output = tmp_path / "clean.jsonl"
    lines = apply_decisions(str(tmp_path / "t.jsonl"), decisions, str(output))
    assert not (tmp_path / "clean.unapplied.csv").exists(), lines
    a, bad, empty, b, none, c = output.read_bytes().decode().split("\r\n")
    assert a == (
        '{"id": "a",  "colour":"blue", "price": 1.50e0, "year": 2012, "tags": ["z"], "changed": '
        '"colour: red -> blue; year: 2010 -> 2012; tags: x|y -> z"}'
    )
    assert b == (
        '{"id":"b","colour":"red","text":"\\u00e9 \\" {}","year":2012.0,"sold":false, "changed": '
        '"colour: (empty) -> red; year: 2010 -> 2012; sold: true -> false"}'
    )
    assert (bad, empty, none) == ("not json", "", '{"changed": ""}')
    assert json.loads(c) == {
        "id": "c", "year": 2011, "colour": "red", "changed": "colour: (empty) -> red"
    }  # fmt: skip


def test_typed_tables_keep_their_types(tmp_path):
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps(typed(row)) for row in ROWS))
    decisions = [accepted(3, "2010", "2012", "year"), accepted(0, "wool|silk", "silk", "materials")]
    apply_decisions(str(tmp_path / "t.jsonl"), decisions, str(tmp_path / "clean.jsonl"))
    after = [json.loads(line) for line in (tmp_path / "clean.jsonl").read_text().splitlines()]
    expected = [typed(row) | {"changed": ""} for row in ROWS]
    expected[3] |= {"year": 2012.0, "changed": "year: 2010 -> 2012"}
    expected[0] |= {"materials": ["silk"], "changed": "materials: wool|silk -> silk"}
    assert after == expected


def of_datasets(rows: int) -> pa.Table:
    pictures = [{"bytes": b"\x89PNG\xff%d" % n, "path": f"{n}.png"} for n in range(rows)]
    columns = {
        "image": pa.array(pictures, PICTURE),
        "colour": pa.array([-1 if n == 7 else n % 3 for n in range(rows)], pa.int64()),
        "tags": pa.array([[n % 2] if n % 4 else [0, 1] for n in range(rows)], pa.list_(pa.int64())),
        "sku": pa.array([f"s{n}" for n in range(rows)]),
        "size": pa.array(["S", "L"] * (rows // 2)).dictionary_encode(),
        "year": pa.array([2000 + n for n in range(rows)], pa.int16()),
    }
    return pa.table(columns).replace_schema_metadata(METADATA)


OF_DATASETS = [
    accepted("s4", "green", "blue"),
    accepted("s7", "", "red"),
    accepted("s8", "old|small", "old", "tags"),
    accepted("s9", "L", "S", "size"),
    accepted("s9", "2009", "1999", "year"),
    accepted("s1", "green", "pink"),
    accepted("s1", "2001", "new", "year"),
]


def check_of_datasets(after: pa.Table, before: pa.Table):
    expected = before.to_pydict()
    expected["colour"][4], expected["colour"][7], expected["tags"][8] = 2, 0, [1]
    expected["size"][9], expected["year"][9] = "S", 1999
    changed = dict.fromkeys(range(len(before)), "")
    changed[4], changed[7] = "colour: green -> blue", "colour: (empty) -> red"
    changed[8], changed[9] = "tags: small|old -> old", "size: L -> S; year: 2009 -> 1999"
    expected["changed"] = list(changed.values())
    assert after.to_pydict() == expected
    assert after.schema.remove(len(before.schema)).equals(before.schema)
    features = json.loads(after.schema.metadata[b"huggingface"])["info"]["features"]
    assert features == FEATURES | {"changed": {"dtype": "string", "_type": "Value"}}
    assert after.schema.metadata[b"mine"] == b"kept"


def test_parquet_keeps_pictures_types_groups_and_classes(tmp_path):
    before, output = of_datasets(12), tmp_path / "clean.parquet"
    parquet.write_table(before, tmp_path / "t.parquet", row_group_size=5, compression="zstd")
    lines = apply_decisions(str(tmp_path / "t.parquet"), OF_DATASETS, str(output), "sku")
    check_of_datasets(parquet.read_table(output), before)
    assert "not applied: 2, the column cannot hold the new label (as colour of 's1')" in lines
    assert len(misfits(output)) == 2
    metadata = parquet.ParquetFile(output).metadata
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    assert [group.num_rows for group in groups] == [5, 5, 2]
    assert groups[0].column(0).compression == "ZSTD"
    data = base_config().data
    data.source, data.path, data.id = "table", str(output), "sku"
    sources = open_sources(data, BadRecords(max_share=1.0))
    records = [source[n] for source in sources.values() for n in range(len(source))]
    assert {one.id: one.labels["colour"] for one in records}["s4"] == "blue"


@pytest.mark.parametrize("make", [ipc.new_stream, ipc.new_file])
def test_a_saved_data_set_is_corrected_as_a_folder(tmp_path, make):
    folder, output, before = tmp_path / "saved", tmp_path / "clean", of_datasets(12)
    (folder / "train").mkdir(parents=True)
    with make(folder / "train" / "data-00000-of-00001.arrow", before.schema) as writer:
        writer.write_table(before, 5)
    (folder / "dataset_dict.json").write_text('{"splits": ["train"]}')
    (folder / "train" / "state.json").write_text("{}")
    (folder / "train" / "dataset_info.json").write_text(json.dumps({"features": FEATURES}))
    apply_decisions(str(folder), OF_DATASETS, str(output), "sku")
    with pa.memory_map(str(output / "train" / "data-00000-of-00001.arrow")) as file:
        opened = ipc.open_stream if make is ipc.new_stream else ipc.open_file
        check_of_datasets(opened(file).read_all(), before)
    info = json.loads((output / "train" / "dataset_info.json").read_text())
    assert list(info["features"]) == [*FEATURES, "changed"]
    assert (output / "dataset_dict.json").exists()
    assert (output / "train" / "state.json").exists()
    assert misfits(output)


def test_several_files_become_files_of_the_same_names(tmp_path):
    halves = {"train.csv": ROWS[:25], "val.csv": ROWS[25:]}
    (tmp_path / "parts").mkdir()
    for name, rows in halves.items():
        write(tmp_path / "parts" / name, rows)
    decisions = [accepted(4, "red", "None"), accepted(32, "red", "NA")]
    lines = apply_decisions(str(tmp_path / "parts/*.csv"), decisions, str(tmp_path / "clean"))
    assert any("move the table there" in line for line in lines)
    after = [row for name in halves for row in read_csv(tmp_path / "clean" / name)]
    changed = {row["id"]: row["changed"] for row in after if row["changed"]}
    assert changed == {"4": "colour: red -> None", "32": "colour: red -> NA"}
    assert [row["id"] for row in after] == [row["id"] for row in ROWS]


def test_rows_without_an_id_are_called_as_the_source_calls_them(tmp_path):
    lines = ["title,colour,shape", "a b c d,red,x", "broken,red", "b c d e,blue,y", "f g,red,y"]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    data = base_config().data
    data.source, data.path, data.text = "table", str(tmp_path / "t.csv"), "title"
    data.labels = ("colour",)
    sources = open_sources(data, BadRecords(max_share=1.0))
    named = {one[n].text: one[n].id for one in sources.values() for n in range(len(one))}
    assert named["b c d e"] == "row 2"
    apply_decisions(
        str(tmp_path / "t.csv"), [accepted("row 2", "blue", "red")], str(tmp_path / "clean.csv")
    )
    assert (tmp_path / "clean.csv").read_text().splitlines()[
        3
    ] == "b c d e,red,y,colour: blue -> red"


def test_decisions_that_do_not_fit_are_kept_with_the_reason(tmp_path):
    rows = [*ROWS, ROWS[5]]
    write(tmp_path / "t.csv", rows)
    decisions = [
        accepted(0, "red", "NA"),
        accepted(5, "NA", "red"),  # of two rows
        accepted(8, "None", "NA"),  # it is red now
        kept(12, "None"),
        accepted(999, "red", "NA"),
        kept(998, "red", "unknown"),
        accepted(16, "red", "NA", "shape"),
        accepted(20, "red", "NA"),
        accepted(20, "red", "None"),
        accepted(0, "red", "NA"),  # the same once more
    ]
    write_decisions(tmp_path / "decisions.csv", decisions)
    output = tmp_path / "clean.csv"
    lines = apply_file(str(tmp_path / "decisions.csv"), str(output), str(tmp_path / "t.csv"))
    assert "changed cells: 1, in 1 of 41 rows" in lines
    assert misfits(output) == {
        ("5", "colour"): "several rows have the id",
        ("8", "colour"): "the label has changed since the audit",
        ("12", "colour"): "the label has changed since the audit",
        ("999", "colour"): "no row has the id",
        ("998", "colour"): "no row has the id",
        ("16", "shape"): "the table has no column of the task",
        ("20", "colour"): "decided in two ways",
    }
    for count, reason in ((2, "no row has"), (1, "several rows"), (2, "decided in two")):
        assert [line for line in lines if line.startswith(f"not applied: {count}, {reason}")]
    unapplied = tmp_path / "clean.unapplied.csv"
    assert sorted(map(str, read_decisions(unapplied))) == sorted(map(str, decisions[1:-1]))
    after = read_csv(output)
    assert [row for row in after if row["changed"]] == [
        rows[0] | {"colour": "NA", "changed": "colour: red -> NA"}
    ]
    apply_decisions(str(tmp_path / "t.csv"), decisions[:1], str(output))
    assert not unapplied.exists()


def test_a_column_of_corrections_is_no_task(tmp_path):
    write(tmp_path / "t.csv", ROWS)
    wrong = [accepted(n, "red", "None") for n in range(0, 40, 4)]
    apply_decisions(str(tmp_path / "t.csv"), wrong, str(tmp_path / "clean.csv"))
    data = base_config().data
    data.source, data.path, data.image = "table", str(tmp_path / "clean.csv"), "none"
    source = open_sources(data, BadRecords(max_share=1.0))["train"]
    assert "changed" not in [task.name for task in source.tasks]
    assert "changed (it says what was corrected)" in source.description
    data.labels = ("colour",)
    source = open_sources(data, BadRecords(max_share=1.0))["train"]
    assert [task.name for task in source.tasks] == ["colour"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "lacks the column table, id"),
        ("id,task,label\n1,a,b\n", "lacks the column table, decision, new_label"),
        ("{head}\nt,1,c,red,keep,\nt,2,c,red,maybe,\n", "line 3: unknown decision 'maybe'"),
        ('{head}\nt,1,c,"a\nb",keep,\nt,2,c\n', "line 4: 3 cells where the head has 6"),
        ("{head}\nt,,c,red,keep,\n", "line 2: no id"),
    ],
)  # fmt: skip
def test_malformed_decisions_are_refused_with_their_line(tmp_path, text, said):
    path = tmp_path / "decisions.csv"
    path.write_text(text.format(head="table,id,task,label,decision,new_label"))
    with pytest.raises(UserError, match=said) as error:
        read_decisions(path)
    assert "\n" not in str(error.value)


def test_decisions_that_a_spreadsheet_saved_are_read(tmp_path):
    decisions = [accepted(1, "red, dark", "b;c"), kept(2, "red", "unknown")]
    write_decisions(tmp_path / "a.csv", decisions)
    rows = list(csv.reader((tmp_path / "a.csv").open(newline="")))
    file = io.StringIO()
    csv.writer(file, delimiter=";").writerows(rows)
    (tmp_path / "b.csv").write_bytes(file.getvalue().encode("utf-8-sig"))
    assert read_decisions(tmp_path / "a.csv") == read_decisions(tmp_path / "b.csv") == decisions


def test_mistakes_end_in_one_line_and_write_nothing(tmp_path):
    write(tmp_path / "t.csv", ROWS)
    table, output = str(tmp_path / "t.csv"), str(tmp_path / "clean.csv")
    path = tmp_path / "decisions.csv"
    one, two = accepted(0, "red", "NA", table=table), accepted(0, "red", "NA", table="other.csv")
    for decisions, arguments, said in [
        ([], {}, "holds no decision"),
        ([one, two], {}, "names 2 tables"),
        ([accepted(0, "red", "NA", table="")], {}, "names no table; name the one"),
        ([two], {}, "there is no table 'other.csv'"),
        ([one], {"output": table}, "is the table itself"),
        ([one], {"output": str(tmp_path / "clean.jsonl")}, "--output ends in .csv"),
        ([one], {"output": str(tmp_path)}, "--output ends in .csv"),
        ([one], {"identity": "title"}, "none of the ids, as '0'.*'title'.*--id"),
        ([one], {"identity": "sku"}, "no column 'sku'"),
    ]:
        write_decisions(path, decisions)
        with pytest.raises(UserError, match=said) as error:
            apply_file(**{"path": str(path), "output": output} | arguments)
        assert "\n" not in str(error.value)
    assert sorted(x.name for x in tmp_path.iterdir()) == ["decisions.csv", "t.csv"]
    write_decisions(path, [one, two])
    apply_file(str(path), output, table)
    assert set(misfits(tmp_path / "clean.csv").values()) == {"about another table"}
    assert len(list(itertools.compress(ROWS, (r["changed"] for r in read_csv(output))))) == 1
