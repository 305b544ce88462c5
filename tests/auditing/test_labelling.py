"""cmaclip label: what is filled is accepted, what was there stays, and a stop loses nothing."""

import json
import shutil

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet
from support.commands import mistake
from support.tables import read_csv, write

from cmaclip_jax.auditing.labelling import accepted_label
from cmaclip_jax.auditing.review import Review, doubt_of
from cmaclip_jax.data.arrow_tables import embedded_picture
from cmaclip_jax.data.tables import read_rows
from cmaclip_jax.evaluation.result_files import read_outcome
from cmaclip_jax.evaluation.threshold_choice import choose_threshold
from cmaclip_jax.main import main
from cmaclip_jax.serving import table_answers
from cmaclip_jax.tasks import Task

PRECISION, LEVEL = 0.35, 0.5  # of a run of twelve steps, on its 64 training pairs


@pytest.fixture
def run(finished_run, tmp_path):
    """A copy of the finished run, to see that nothing in it changes."""
    return shutil.copytree(finished_run, tmp_path / "run")


@pytest.fixture(scope="module")
def unlabelled(catalogue):
    """The rows of test beside the catalogue; every third has its labels, the others lack both."""
    rows = [row for row in read_csv(catalogue) if row["split"] == "test"]
    kept = [
        row if number % 3 == 0 else row | {"colour": "", "contents": ""}
        for number, row in enumerate(rows)
    ]
    path = catalogue.parent / "unlabelled.csv"
    yield write(path, kept), kept, rows
    path.unlink()


def label(run, table, output, *more):
    command = ["label", f"--workdir={run}", f"--input={table}", f"--output={output}"]
    command += [f"--precision={PRECISION}", f"--confidence={LEVEL}", "--calibrate=train"]
    return [*command, *map(str, more)]


def files(folder):
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_accepted_answers_fill_the_gaps_and_nothing_else(run, unlabelled, tmp_path, capsys):
    table, kept, _ = unlabelled
    before = files(run)
    output = tmp_path / "out.csv"
    assert main(label(run, table, output, "--review=4")) == 0
    assert files(run) == before
    report = json.loads((tmp_path / "out.report.json").read_text())
    thresholds = report["tasks"]["colour"]["thresholds"]
    assert (thresholds["target"], thresholds["level"]) == (PRECISION, LEVEL)
    assert (thresholds["split"], thresholds["step"]) == ("train", 12)

    lines = read_csv(output)
    assert list(lines[0]) == [*kept[0], "labelled"]
    filled = 0
    for old, new in zip(kept, lines, strict=True):
        given = [task for task in ("colour", "contents") if not old[task] and new[task]]
        assert new["labelled"] == "|".join(given)
        filled += "colour" in given
        same = {name: new[name] for name in old if name not in given}
        assert same == {name: old[name] for name in same}
    already = sum(bool(row["colour"]) for row in kept)
    counts = report["tasks"]["colour"]
    assert (counts["already"], counts["filled"]) == (already, filled)
    assert sum(counts[x] for x in ("already", "filled", "empty")) == report["rows"] == len(kept)
    assert 0 < filled < len(kept) - already
    said = capsys.readouterr().err
    assert f"colour: {filled:,} cells filled, {already:,} had a label" in said
    assert not list(tmp_path.glob("out.csv.*"))


def test_the_promise_is_that_of_the_thresholds_of_the_split(run, unlabelled, tmp_path):
    """The same choice by hand, and the cells that it accepts."""
    table, kept, _ = unlabelled
    output = tmp_path / "out.csv"
    assert main(label(run, table, output)) == 0
    assert main(["evaluate", f"--workdir={run}", "--split=train"]) == 0
    outcome = read_outcome(run, "train")
    said, true = (outcome[x]["colour"] for x in ("probabilities", "labels"))
    report = json.loads((tmp_path / "out.report.json").read_text())["tasks"]["colour"]
    temperature = report["thresholds"]["temperature"]
    known = true >= 0

    def scaled(p):
        powers = np.exp(np.log(p) / temperature)
        return powers / powers.sum(axis=-1, keepdims=True)

    sure, right = scaled(said)[known].max(axis=1), (said.argmax(axis=1) == true)[known]
    value = choose_threshold(sure, right, PRECISION, LEVEL)
    assert report["thresholds"]["overall"]["value"] == pytest.approx(value, abs=1e-5)
    complete = ((outcome["has_image"] > 0) & (outcome["has_text"] > 0))[known]
    assert report["accuracy"] == pytest.approx(right[complete].mean())
    predicted = tmp_path / "predicted.jsonl"
    thresholds = {"thresholds": [t["thresholds"] for t in _tasks(tmp_path / "out.report.json")]}
    (run / "thresholds.json").write_text(json.dumps(thresholds))
    assert main(["predict", f"--workdir={run}", f"--input={table}", f"--output={predicted}"]) == 0
    for row, new, line in zip(kept, read_csv(output), read_rows(str(predicted)), strict=True):
        if not row["colour"]:
            assert (new["colour"] != "") == (line["colour_accepted"] == "true")


def _tasks(report):
    return json.loads(report.read_text())["tasks"].values()


def test_all_answers_can_be_accepted(run, unlabelled, tmp_path):
    table, kept, _ = unlabelled
    assert main(label(run, table, tmp_path / "out.csv", "--all", "--review=0")) == 0
    lines = read_csv(tmp_path / "out.csv")
    seen = [bool(row["picture"] or row["title"]) for row in kept]
    assert [bool(line["colour"]) for line in lines] == seen
    assert not (tmp_path / "out.review.csv").exists()


def test_rows_to_label_by_hand(run, unlabelled, tmp_path):
    table, _, _ = unlabelled
    assert main(label(run, table, tmp_path / "out.csv", "--review=4")) == 0
    lines = {line["id"]: line for line in read_csv(tmp_path / "out.csv")}
    review = read_csv(tmp_path / "out.review.csv")
    head = ["id", "picture", "title", "colour", "contents", "colour_guesses", "contents_guesses"]
    assert list(review[0]) == head
    assert len({row["id"] for row in review}) == len(review) == 4
    for row in review:
        line = lines[row["id"]]
        assert {name: row[name] for name in head[:5]} == {name: line[name] for name in head[:5]}
        assert not (line["colour"] and line["contents"])
        best = [float(guess.split()[-1]) for guess in row["colour_guesses"].split(", ")]
        assert best == sorted(best, reverse=True)
        assert len(best) == 3


def test_a_stopped_command_continues(run, unlabelled, tmp_path, monkeypatch):
    table, kept, _ = unlabelled
    monkeypatch.setattr(table_answers, "PART", 3)
    whole = tmp_path / "whole.csv"
    assert main(label(run, table, whole)) == 0
    stopped = tmp_path / "stopped.csv"
    with monkeypatch.context() as patch:
        write_part, left = table_answers.write_part, iter(range(2))

        def write_two(*arguments):
            if next(left, None) is None:
                raise KeyboardInterrupt
            write_part(*arguments)

        patch.setattr(table_answers, "write_part", write_two)
        assert main(label(run, table, stopped)) == 130
    assert not stopped.exists()
    answered, answer = [], table_answers.Classifier.answer
    monkeypatch.setattr(
        table_answers.Classifier,
        "answer",
        lambda self, batch, notes: answered.extend(notes) or answer(self, batch, notes),
    )
    with monkeypatch.context() as patch:  # stopped again, with all answers there
        patch.setattr("cmaclip_jax.auditing.labelling.write_review", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main(label(run, table, stopped))
    assert len(answered) == len(kept) - 2 * 3
    assert main(label(run, table, stopped)) == 0
    assert len(answered) == len(kept) - 2 * 3
    assert stopped.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob("stopped.csv.*"))


def test_parquet_keeps_its_pictures(run, unlabelled, catalogue, tmp_path):
    _, kept, _ = unlabelled
    rows = []
    for row in kept:
        content = (catalogue.parent / row["picture"]).read_bytes() if row["picture"] else None
        rows.append(row | {"picture": {"bytes": content, "path": row["picture"]}})
        rows[-1]["contents"] = row["contents"].split("|") if row["contents"] else None
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=7)
    assert main(label(run, path, tmp_path / "out.parquet", "--all")) == 0
    told = list(read_rows(str(tmp_path / "out.parquet")))
    for new, old in zip(told, kept, strict=True):
        assert new["colour"] == (old["colour"] or new["colour"])
        if old["picture"]:
            here = embedded_picture(str(tmp_path / new["picture"]))
            assert here == (catalogue.parent / old["picture"]).read_bytes()
    table = parquet.read_table(tmp_path / "out.parquet")
    assert pyarrow.types.is_list(table.schema.field("contents").type)


def test_mistakes(run, unlabelled, tmp_path, capsys):
    table, _, _ = unlabelled
    out = tmp_path / "out.csv"
    assert "--output ends in .csv" in mistake(capsys, *label(run, table, tmp_path / "out.parquet"))
    assert "is the table itself" in mistake(capsys, *label(run, table, table))
    assert "this data has no split 'dev'" in mistake(
        capsys, *label(run, table, out, "--calibrate=dev")
    )
    assert "--rounds=0; give 1 or more" in mistake(capsys, *label(run, table, out, "--rounds=0"))
    assert "--review=-1 rows" in mistake(capsys, *label(run, table, out, "--review=-1"))
    assert "add --rounds=1" in mistake(capsys, *label(run, table, out, "--runs=a"))
    says = mistake(capsys, *label(run, table, out, "--rounds=1"))
    assert "find them only there; name an --output in" in says
    out.write_text("precious")
    assert "add --overwrite" in mistake(capsys, *label(run, table, out))
    (tmp_path / "b.csv.labelling").mkdir()
    (tmp_path / "b.csv.labelling/about.json").write_text("{}")
    says = mistake(capsys, *label(run, table, tmp_path / "b.csv"))
    assert "holds answers for another table, run or precision" in says
    assert out.read_text() == "precious"


def test_a_cell_of_several_labels_is_filled_as_a_whole_or_not():
    task = Task("things", ("mug", "hat"), many=True)

    def given(label, accepted, every=False):
        return accepted_label({"things": label, "things_accepted": accepted}, task, every)

    assert given(["mug", "hat"], [True, True]) == ("mug", "hat")
    assert given(["mug", "hat"], [True, False]) is None
    assert given(["mug", "hat"], [True, False], every=True) == ("mug", "hat")
    assert given([], []) is None
    assert given(None, None, every=True) is None


def test_the_most_doubtful_rows_are_kept_in_little_memory():
    task = Task("colour", ("red", "blue"))
    random = np.random.default_rng(0)
    review, sure = Review(2), random.random(500)
    for number, p in enumerate(sure, 1):
        answer = {"colour": "red", "colour_probability": p}
        review.offer({"id": str(number)}, answer, [task], number)
        assert len(review._heap) <= 40
    expected = sorted(np.argsort(sure, kind="stable")[:40] + 1)
    assert [number for number, *_ in review.candidates()] == expected
    many = Task("things", ("mug", "hat"), many=True)
    answer = {"things": ["mug", "hat"], "things_probability": [0.9, 0.6]}
    assert doubt_of(answer, many) == pytest.approx(0.4)
    assert doubt_of({"things": None, "things_probability": None}, many) == 0
