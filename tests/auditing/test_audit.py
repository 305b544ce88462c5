"""A whole audit of a small table: its runs, its files, how it continues, and its mistakes."""

import csv
import shutil

import numpy as np
import pytest
from support.commands import mistake
from support.studies import in_this_process, small_arguments
from support.tables import read_csv

from cmaclip_jax.auditing import audit
from cmaclip_jax.auditing.suspect_files import read_suspects
from cmaclip_jax.evaluation.result_files import read_outcome
from cmaclip_jax.main import main
from cmaclip_jax.studies import framework
from cmaclip_jax.tasks import read_tasks

TWIN = "the twin"  # the id of a test row that repeats a training row, with another colour


@pytest.fixture(scope="module")
def table(catalogue, tmp_path_factory):
    """The catalogue, with a leak."""
    folder = tmp_path_factory.mktemp("audited")
    shutil.copytree(catalogue.parent / "images", folder / "images")
    rows = read_csv(catalogue)
    own = next(
        row
        for row in rows
        if row["split"] == "train" and row["picture"] and row["title"] and row["colour"]
    )
    other = next(row["colour"] for row in rows if row["colour"] not in ("", own["colour"]))
    rows.append(own | {"id": TWIN, "split": "test", "colour": other})
    with (folder / "products.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "products.csv", own["id"]


def arguments(table, workdir, *more):
    fields = "data.source=table", f"data.path={table}", "data.many=contents", "train.steps=4"
    own = [f"--config.{field}" for field in fields]
    return ["audit", *small_arguments(), *own, f"--workdir={workdir}", "--folds=2", *more]


@pytest.fixture(scope="module")
def finished(table, tmp_path_factory):
    """The folder of a finished audit."""
    workdir = tmp_path_factory.mktemp("audit")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit, "in_own_process", in_this_process)
        patch.setattr(framework, "in_own_process", in_this_process)
        patch.setattr(audit, "leave_devices_to_others", lambda: None)
        assert main(arguments(table[0], workdir)) == 0
    return workdir


@pytest.mark.slow
def test_every_row_is_answered_by_a_model_that_has_not_seen_it(finished, table):
    numbers = np.load(finished / "folds.npy")
    rows = read_csv(table[0])
    assert len(numbers) == len(rows)
    tested = [read_outcome(finished / f"fold-{n}", "test")["row"] for n in (1, 2)]
    assert [len(part) for part in tested] == [np.sum(numbers == n) for n in (1, 2)]
    by_split = [row for split in ("train", "val", "test") for row in rows if row["split"] == split]
    places = {row["id"]: place for place, row in enumerate(by_split)}
    assert numbers[places[TWIN]] == numbers[places[table[1]]]  # twins share a fold


@pytest.mark.slow
def test_suspects_have_the_mean_of_the_calibrated_answers(finished, table):
    suspects = read_suspects(finished / "audit.csv")
    assert suspects
    labels = {row["id"]: row for row in read_csv(table[0])}
    tasks = {task.name: task for task in read_tasks(finished / "fold-1/tasks.json")}
    for one in suspects:
        assert set(one.label.split("|")) == set(labels[one.id][one.task].split("|"))
        assert one.suggestion_probability > one.label_probability
        assert set(one.suggestion.split("|")) <= {*tasks[one.task].classes, ""}
    by_id = {(one.id, one.task): one for one in suspects}
    twins = [key for key in ((TWIN, "colour"), (table[1], "colour")) if key in by_id]
    assert all(by_id[key].twins for key in twins)


@pytest.mark.slow
def test_leaks_are_listed_and_judged_without(finished, table):
    listed = read_csv(finished / "twins.csv")
    leak = next(row for row in listed if {row["id"], row["twin"]} == {TWIN, table[1]})
    assert "colour" in leak["conflicts"]
    assert (finished / "as-given/evaluation/test.json").exists()
    page = (finished / "audit.html").read_text()
    assert "1 of test" in page
    assert "without leaked rows" in page


@pytest.mark.slow
def test_a_finished_audit_trains_nothing_anew(finished, table, capsys, monkeypatch):
    monkeypatch.setattr(audit, "in_own_process", in_this_process)
    monkeypatch.setattr(audit, "leave_devices_to_others", lambda: None)
    assert main(arguments(table[0], finished)) == 0
    said = capsys.readouterr().err
    assert "run 1 of 2: fold-1, seed 0: done before" in said
    assert "step " not in said
    line = mistake(capsys, *arguments(table[0], finished, "--config.train.steps=5"))
    assert "is another audit: config.train.steps is 4 there and 5 here" in line


def test_mistakes_are_one_line(table, tmp_path, capsys):
    few = tmp_path / "few.csv"
    rows = "a mug,red,wool|silk,train\na hat,blue,wool,train\na bag,red,silk,test\n"
    few.write_text(f"title,colour,contents,split\n{rows}")
    assert "--folds=1 must be at least 2" in mistake(
        capsys, *arguments(table[0], tmp_path, "--folds=1")
    )
    line = mistake(capsys, *arguments(few, tmp_path / "few", "--folds=4"))
    assert "--folds=4 needs as many different pairs, and this data has 3" in line
    again = mistake(capsys, *arguments(few, tmp_path / "few", "--folds=5"))
    assert "--folds=5 needs as many different pairs" in again  # the folder has no audit yet
    assert "--apply needs --output=FILE" in mistake(capsys, "audit", "--apply=decisions.csv")
    assert "belong to --apply" in mistake(capsys, "audit", "--output=clean.csv")
