"""Answers by Apache Beam: file by file the same as without it, each row once, also after a stop."""

import csv
import json
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet
from support.commands import mistake
from support.tables import read_csv

from cmaclip_jax.data.table_files import table_files
from cmaclip_jax.main import main
from cmaclip_jax.serving import beam_answers
from cmaclip_jax.serving.beam_answers import BeamAnswers

DIRECT = ["--beam", "--runner=DirectRunner"]


@pytest.fixture
def files(catalogue, tmp_path):
    """The catalogue in four CSV files; rows without an id and without a picture are numbered."""
    rows = read_csv(catalogue)
    for row in rows:
        row["picture"] = row["picture"] and str(catalogue.parent / row["picture"])
    rows[40] |= {"id": "", "picture": ""}
    rows[41]["picture"] = "missing.png"
    for number in range(4):
        with (tmp_path / f"in-{number}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows[number * 26 : (number + 1) * 26])
    return tmp_path


def command(run, folder, output):
    verb = ["predict", f"--workdir={run}", f"--input={folder}/in-*.csv", "--outside"]
    return [*verb, f"--output={folder}/{output}"]


def lines(*files):
    """The lines of CSV files without their first lines, in order."""
    return sorted(line for file in files for line in Path(file).read_text().splitlines()[1:])


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_beam_gives_each_row_the_answer_of_predict(finished_run, files, ending):
    pytest.importorskip("apache_beam")
    assert main(command(finished_run, files, f"whole.{ending}")) == 0
    assert main([*command(finished_run, files, f"beam.{ending}"), *DIRECT]) == 0
    parts = sorted(files.glob(f"beam-*-of-00004.{ending}"))
    assert len(parts) == 4
    if ending == "csv":
        assert lines(*parts) == lines(files / "whole.csv")
        assert any(line.startswith("row 41,") for line in lines(*parts))
    else:
        both = pyarrow.concat_tables(map(parquet.read_table, parts))
        assert both.equals(parquet.read_table(files / "whole.parquet"))


def test_the_same_command_answers_what_is_missing(finished_run, files, capsys):
    pytest.importorskip("apache_beam")
    beam = [*command(finished_run, files, "beam.csv"), *DIRECT]
    assert main(beam) == 0
    parts = sorted(files.glob("beam-*"))
    before = {part: part.read_bytes() for part in parts}
    parts[2].unlink()
    kept = [part.stat().st_mtime_ns for part in parts if part.exists()]
    capsys.readouterr()
    assert main(beam) == 0
    said = capsys.readouterr().err
    assert "26 rows" in said
    assert "3 were there already" in said
    assert {part: part.read_bytes() for part in parts} == before
    assert kept == [part.stat().st_mtime_ns for part in parts if part != parts[2]]


def test_a_file_is_answered_whole_or_not_at_all(finished_run, files, monkeypatch):
    monkeypatch.setattr(beam_answers, "_count", lambda values: None)  # Beam's counters
    workdir, pattern = str(finished_run), f"{files}/in-*.csv"
    table = beam_answers.InputTable(pattern, 0, "id", "picture", ("title",), outside=True)
    job = BeamAnswers.of(workdir, 12, table, f"{files}/beam.csv", overwrite=False)
    numbered = list(enumerate(table_files(pattern)))
    sizes = [beam_answers._size(job, one) for one in numbered]
    assert sizes == [(number, 26) for number in range(4)]

    def fail(*_):
        raise OSError("the worker is gone")

    with monkeypatch.context() as broken:
        broken.setattr(beam_answers, "join_parts", fail)
        with pytest.raises(OSError, match="gone"):
            beam_answers._answer_file(job, numbered[1], sizes)
    assert not list(files.glob("*beam-*"))
    for one in reversed(numbered):
        beam_answers._answer_file(job, one, sizes)
    assert main(command(finished_run, files, "whole.csv")) == 0
    assert lines(*files.glob("beam-*")) == lines(files / "whole.csv")


def test_mistakes_end_in_one_line(finished_run, files, capsys):
    words = command(finished_run, files, "beam.xls")
    assert "--output ends in" in mistake(capsys, *words, *DIRECT)
    words = command(finished_run, files, "beam.csv")
    (files / "beam.csv.about.json").write_text(json.dumps({"path": "another"}))
    assert "add --overwrite" in mistake(capsys, *words, *DIRECT)


def test_answers_to_other_files_do_not_stay(finished_run, files):
    pattern = f"{files}/in-*.csv"
    table = beam_answers.InputTable(pattern, 0, "id", "picture", ("title",), outside=True)

    def claim(overwrite):
        return BeamAnswers.of(str(finished_run), 12, table, f"{files}/beam.csv", overwrite)

    old = Path(claim(False).shard(3))
    old.write_text("old")
    (files / "in-0.csv").unlink()
    with pytest.raises(beam_answers.UserError, match="add --overwrite"):
        claim(False)
    assert len(claim(True).files) == 3
    assert not old.exists()
