"""A finished run put to use: the same answers by every way, each row in its place."""

import csv
import json
import os
import shutil
import sys

import numpy as np
import pytest
from pyarrow import parquet
from support.commands import mistake
from support.tables import read_csv

import cmaclip_jax as cma
from cmaclip_jax.evaluation.result_files import read_outcome
from cmaclip_jax.evaluation.threshold_choice import calibrate
from cmaclip_jax.evaluation.thresholds import read_thresholds, write_thresholds
from cmaclip_jax.main import main
from cmaclip_jax.serving import table_answers
from cmaclip_jax.serving.answer_files import answer_line
from cmaclip_jax.serving.classifier import Classifier


@pytest.fixture(scope="module")
def rows(catalogue):
    """The test rows of the catalogue."""
    return [row for row in read_csv(catalogue) if row["split"] == "test"]


@pytest.fixture
def write_table(catalogue):
    """Writes rows as a table beside the catalogue's pictures."""
    written = []

    def write(name, rows):
        path = catalogue.parent / name
        written.append(path)
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        return path

    yield write
    for path in written:
        path.unlink()


@pytest.fixture
def run(finished_run, tmp_path):
    """A copy of the finished run, to write into."""
    return shutil.copytree(finished_run, tmp_path / "run")


@pytest.fixture(scope="module")
def model(finished_run):
    return cma.load(finished_run)


def predict(run, table, output, *more):
    command = ["predict", f"--workdir={run}", f"--input={table}", f"--output={output}"]
    assert main([*command, *map(str, more)]) == 0
    return output


def test_evaluate_predict_and_python_agree(run, rows, write_table, model, catalogue, tmp_path):
    before = (run / "evaluation/test.json").read_text()
    (run / "evaluation/test.json").unlink()
    assert main(["evaluate", f"--workdir={run}"]) == 0
    assert (run / "evaluation/test.json").read_text() == before  # what training had written
    outcome = read_outcome(run, "test")
    np.testing.assert_array_equal(outcome["row"], np.arange(len(rows)))
    lines = read_csv(predict(run, write_table("some.csv", rows), tmp_path / "out.csv"))
    assert [line["id"] for line in lines] == [row["id"] for row in rows]
    images = [row["picture"] and str(catalogue.parent / row["picture"]) for row in rows]
    answers = model.predict(
        [image or None for image in images], [row["title"] or None for row in rows]
    )
    classes = {task.name: task.classes for task in model.tasks}
    for number, (line, answer) in enumerate(zip(lines, answers, strict=True)):
        said = outcome["probabilities"]["colour"][number]
        assert line["colour"] == answer["colour"].label == classes["colour"][said.argmax()]
        assert float(line["colour_probability"]) == pytest.approx(said.max(), abs=1e-6)
        assert answer["colour"].probability == pytest.approx(said.max(), abs=1e-6)
        image = outcome["modality_weights"]["colour"][number][0]
        assert float(line["colour_image_weight"]) == pytest.approx(image, abs=1e-6)
        assert answer["colour"].weights == pytest.approx({"image": image, "text": 1 - image})
        held = np.flatnonzero(outcome["probabilities"]["contents"][number] > 0.5)
        assert answer["contents"].label == tuple(classes["contents"][i] for i in held)
        assert line["contents"] == "|".join(answer["contents"].label)
        assert line["colour_accepted"] == ""
        assert answer["colour"].accepted is None


@pytest.mark.parametrize(
    "kind", ["csv", *(pytest.param(k, marks=pytest.mark.slow) for k in ("jsonl", "parquet"))]
)
def test_a_file_of_answers_is_the_same_however_it_came_about(
    finished_run, rows, write_table, tmp_path, kind, monkeypatch
):
    monkeypatch.setattr(table_answers, "PART", 3)
    table = write_table(f"{kind}.csv", rows)
    whole = predict(finished_run, table, tmp_path / f"whole.{kind}")
    again = predict(finished_run, table, tmp_path / f"again.{kind}")
    for host in (0, 1):
        shared = tmp_path / f"shared.{kind}"
        assert not shared.exists()
        predict(finished_run, table, shared, f"--host={host}", "--hosts=2")
    stopped = tmp_path / f"stopped.{kind}"
    with monkeypatch.context() as patch:
        write, left = table_answers.write_part, iter(range(2))

        def write_two(*arguments):
            if next(left, None) is None:
                raise KeyboardInterrupt
            write(*arguments)

        patch.setattr(table_answers, "write_part", write_two)
        command = ["predict", f"--workdir={finished_run}", f"--input={table}"]
        assert main([*command, f"--output={stopped}"]) == 130
    assert not stopped.exists()
    answered = []
    answer = table_answers.Classifier.answer
    monkeypatch.setattr(
        table_answers.Classifier,
        "answer",
        lambda self, batch, notes: answered.extend(notes) or answer(self, batch, notes),
    )
    predict(finished_run, table, stopped)
    assert len(answered) == len(rows) - 2 * 3  # and not what was answered before
    assert {path.read_bytes() for path in (again, shared, stopped)} == {whole.read_bytes()}
    assert {path.suffix for path in tmp_path.iterdir()} == {f".{kind}"}  # no parts are left


def test_every_kind_of_file_holds_the_same(finished_run, rows, write_table, tmp_path):
    table = write_table("same.csv", rows)
    paths = {k: predict(finished_run, table, tmp_path / f"a.{k}") for k in ("jsonl", "parquet")}
    lines = [json.loads(line) for line in paths["jsonl"].read_text().splitlines()]
    for line, row in zip(lines, parquet.read_table(paths["parquet"]).to_pylist(), strict=True):
        assert line.keys() == row.keys()
        for name, value in line.items():
            if name.endswith(("_probability", "_weight")) and value is not None:
                np.testing.assert_allclose(row[name], value, rtol=1e-6)
            else:
                assert row[name] == value
    assert isinstance(lines[0]["contents"], list)


def test_bad_rows_are_answered_in_their_place_with_a_note(
    finished_run, rows, catalogue, tmp_path, model
):
    good = next(row for row in rows if row["picture"] and row["title"])
    (catalogue.parent / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    table = catalogue.parent / "bad.csv"
    table.write_text(
        "id,picture,title\n"
        f"a,{good['picture']},{good['title']}\n"
        f"b,nowhere.png,{good['title']}\n"
        f"c,broken.jpg,{good['title']}\n"
        f"d,{good['picture']},\n"
        "e,,\n"
        "too,many,cells,here\n"
        f"f,../secret.png,{good['title']}\n"
        f"g,broken.jpg,\n"
        f",{good['picture']},{good['title']}\n"
    )
    lines = read_csv(predict(finished_run, table, tmp_path / "out.csv"))
    assert [(line["id"], line["note"]) for line in lines] == [
        ("a", ""),
        ("b", "missing picture"),
        ("c", "unreadable picture"),
        ("d", "no words"),
        ("e", "neither picture nor words"),
        ("line 7", "4 cells where the head has 3"),
        ("f", "picture outside the data folder"),
        ("g", "unreadable picture; no words"),
        (good["picture"], ""),
    ]
    weights = [line["colour_image_weight"] for line in lines]
    assert [weights[i] for i in (1, 2, 6)] == ["0.0"] * 3
    assert weights[3] == "1.0"
    for line in (lines[4], lines[5], lines[7]):
        assert line["colour"] == line["colour_probability"] == line["colour_image_weight"] == ""
    alone = model.predict(texts=[good["title"]])[0]["colour"]  # what b, c and f are answered by
    assert alone.weights == {"image": 0.0, "text": 1.0}
    for line in (lines[1], lines[2], lines[6]):
        assert line["colour"] == alone.label
        assert float(line["colour_probability"]) == pytest.approx(alone.probability, abs=1e-6)
    assert {**lines[8], "id": ""} == {**lines[0], "id": ""}
    nothing = model.predict(images=[None])[0]["colour"]
    assert (nothing.label, nothing.note) == (None, "neither picture nor words")


@pytest.mark.parametrize("per_class", [False, True])
def test_an_answer_is_accepted_where_its_probability_reaches_the_threshold(
    model, tmp_path, per_class, monkeypatch
):
    """Also where a threshold is exactly an observed confidence, over many rows of every task."""
    random, rows, chosen, outcome = np.random.default_rng(per_class), 3_000, [], {}
    for task in model.tasks:
        scores = 3 * random.normal(size=(rows, len(task.classes)))
        scores = np.where(random.random((rows, 1)) < 0.01, 40 * np.sign(scores), scores)
        if task.many:
            said = (1 / (1 + np.exp(-scores))).astype(np.float32)
            labels = (random.random(said.shape) < said**1.2).astype(int)
        else:
            said = np.exp(scores)
            said = (said / said.sum(axis=1, keepdims=True)).astype(np.float32)
            labels = np.where(random.random(rows) < said.max(axis=1) ** 1.2, said.argmax(axis=1), 0)
        chosen.append(calibrate(task, said, labels, 0.9, per_class=per_class))
        outcome[task.name] = said
    write_thresholds(tmp_path / "thresholds.json", chosen)
    thresholds = read_thresholds(tmp_path / "thresholds.json")
    classifier = Classifier(model.trained, thresholds)
    weights = {task.name: np.full((rows, 2), 0.5, np.float32) for task in model.tasks}
    told = {"probabilities": outcome, "modality_weights": weights}
    monkeypatch.setattr(classifier, "outcome", lambda batch, count: told)
    at_the_threshold, held_back, seen = 0, 0, 0
    for number, answers in enumerate(classifier.answer({}, [""] * rows)):
        line = answer_line("", answers, "")
        for place, task in enumerate(model.tasks):
            own, answer = thresholds[task.name], answers[task.name]
            triple = answer.label, answer.probability, answer.accepted
            triples = list(zip(*triple, strict=True)) if task.many else [triple]
            printed = line[2 + 4 * place] if task.many else [line[2 + 4 * place]]
            for (label, probability, accepted), number_in_file in zip(
                triples, printed, strict=True
            ):
                value = own.classes.get(label, own.overall).value
                least = np.inf if value is None else value
                assert accepted == (probability >= least)
                assert accepted == (np.float32(number_in_file) >= np.float32(least))
                at_the_threshold += probability == value
                held_back += not accepted
                seen += 1
            if not task.many:
                scores = np.log(np.maximum(outcome[task.name][number], 1e-37)) / own.temperature
                odds = np.exp(scores - scores.max())
                assert answer.probability == pytest.approx(odds.max() / odds.sum(), abs=1e-6)
                assert answer.label == task.classes[outcome[task.name][number].argmax()]
    assert at_the_threshold > 0
    assert 0 < held_back < seen


def test_the_table_is_never_overwritten_and_other_files_only_if_that_is_asked(
    finished_run, rows, write_table, tmp_path, capsys, monkeypatch
):
    table = write_table("kept.csv", rows[:5])
    before = table.read_bytes()
    command = ["predict", f"--workdir={finished_run}", f"--input={table}"]
    (tmp_path / "link.csv").symlink_to(table)
    os.link(table, tmp_path / "hard.csv")
    monkeypatch.chdir(table.parent)
    for output in (table, table.name, tmp_path / "link.csv", tmp_path / "hard.csv"):
        for more in ([], ["--overwrite"]):
            says = mistake(capsys, *command, f"--output={output}", *more)
            assert "is the table itself; name another file with --output" in says
    output = tmp_path / "out.csv"
    output.write_text("precious")
    assert "is there already; add --overwrite" in mistake(capsys, *command, f"--output={output}")
    (tmp_path / "folder.csv").mkdir()
    assert "folder.csv is a folder" in mistake(capsys, *command, f"--output={tmp_path}/folder.csv")
    assert (table.read_bytes(), output.read_text()) == (before, "precious")
    assert not list(tmp_path.glob("out.csv.*"))
    predict(finished_run, table, output, "--overwrite")
    whole = output.read_bytes()
    assert len(read_csv(output)) == 5
    assert "is there already" in mistake(capsys, *command, f"--output={output}")  # it is finished
    with monkeypatch.context() as patch:  # killed after the file was written
        patch.setattr(table_answers.shutil, "rmtree", lambda folder: sys.exit(9))
        with pytest.raises(SystemExit):
            main([*command, f"--output={output}", "--overwrite"])
    predict(finished_run, table, output)
    assert output.read_bytes() == whole
    assert not list(tmp_path.glob("out.csv.*"))


def test_a_table_without_any_usable_picture_is_refused(
    finished_run, rows, tmp_path, capsys, catalogue
):
    good = [row for row in rows if row["picture"] and row["title"]]

    def table(*pictures):
        lines = [f"{picture},{good[0]['title']}\n" for picture in pictures]
        (tmp_path / "table.csv").write_text("".join(("picture,title\n", *lines)))
        return tmp_path / "table.csv"

    def command(table, verb="predict"):
        more = {
            "predict": ["--overwrite", f"--output={tmp_path}/out.csv"],
            "explain": ["--rows=1", f"--output={tmp_path}/page.html"],
        }
        return [verb, f"--workdir={finished_run}", f"--input={table}", *more[verb]]

    outside = table(*(catalogue.parent / row["picture"] for row in good[:4]))
    for verb in ("predict", "explain"):
        says = mistake(capsys, *command(outside, verb))
        assert "allow that with --outside, or go without pictures by --image=none" in says
    assert main([*command(outside), "--outside"]) == 0
    assert [line["note"] for line in read_csv(tmp_path / "out.csv")] == [""] * 4
    assert "attention" not in capsys.readouterr().err
    missing = command(table("nowhere.png", "", "p/none.png"))
    assert "is there, as 'nowhere.png'; move the table" in mistake(capsys, *missing)
    assert "nothing is fetched" in mistake(capsys, *command(table("http://shop/p.jpg")))
    assert main([*command(table("nowhere.png")), "--image=none"]) == 0
    assert "attention" not in capsys.readouterr().err
    (tmp_path / "there.png").write_bytes((catalogue.parent / good[0]["picture"]).read_bytes())
    some = table("there.png", "nowhere.png", "../x.png", "https://shop/p.png", "")
    assert main(command(some)) == 0
    assert (
        "attention: 3 of 5 rows name a picture that could not be used, and were answered by their "
        "words alone; --outside allows those outside"
    ) in capsys.readouterr().err


def test_rows_are_called_by_the_column_that_is_named(
    finished_run, rows, write_table, tmp_path, capsys
):
    numbered = [{"": str(n), "sku": f"s{n}", **row} for n, row in enumerate(rows[:5])]
    table = write_table("numbered.csv", numbered)
    lines = read_csv(predict(finished_run, table, tmp_path / "a.csv"))
    assert [line["id"] for line in lines] == [row["id"] for row in rows[:5]]
    assert "; id id\n" in capsys.readouterr().err
    lines = read_csv(predict(finished_run, table, tmp_path / "b.csv", "--id=sku"))
    assert [line["id"] for line in lines] == ["s0", "s1", "s2", "s3", "s4"]
    assert "; id sku\n" in capsys.readouterr().err
    command = ["explain", f"--workdir={finished_run}", f"--input={table}", "--id=sku", "--rows=s3"]
    assert main([*command, f"--output={tmp_path}/page.html"]) == 0
    assert "row 4 (s3)" in (tmp_path / "page.html").read_text()


def test_a_run_without_a_task_answers_nothing(run, rows, write_table, tmp_path, capsys):
    table = write_table("nothing.csv", rows[:2])
    (run / "tasks.json").write_text('{"tasks": []}')
    command = ["predict", f"--workdir={run}", f"--input={table}", f"--output={tmp_path}/out.csv"]
    assert "has no task to answer; train it anew" in mistake(capsys, *command)
    assert "has no task to report on" in mistake(capsys, "report", f"--workdir={run}")


def test_thresholds_say_what_is_accepted(run, rows, write_table, tmp_path, capsys):
    command = ["evaluate", f"--workdir={run}", "--precision=0.3"]
    assert main(command) == 0
    said = capsys.readouterr().err
    assert "chosen on val, reached on test" in said
    thresholds = read_thresholds(run / "thresholds.json")
    assert thresholds["colour"].target == 0.3
    outcome = read_outcome(run, "test")
    expected = thresholds["colour"].accepts(outcome["probabilities"]["colour"])
    capsys.readouterr()
    lines = read_csv(predict(run, write_table("accept.csv", rows), tmp_path / "out.csv"))
    said = capsys.readouterr().err
    assert "probabilities are scaled by each task's temperature" in said
    assert "accepted: colour" in said
    value = thresholds["colour"].overall.value
    for line in lines:
        if line["colour"]:
            reaches = float(line["colour_probability"]) >= float(str(np.float32(value)))
            assert line["colour_accepted"] == str(reaches).lower()
    assert [line["colour_accepted"] == "true" for line in lines] == list(expected)
    stand = thresholds["contents"].accepts(outcome["probabilities"]["contents"])
    for line, accepted in zip(lines, stand, strict=True):
        assert line["contents_accepted"].split("|").count("true") == accepted.sum()
    answers = cma.load(run).predict(texts=[row["title"] or None for row in rows])
    assert {answer["colour"].accepted for answer in answers} <= {True, False, None}
    assert any(answer["colour"].accepted is not None for answer in answers)
    assert main([*command, "--confidence=0.999999", "--precision=0.9999"]) == 0
    assert "nothing can be promised for colour" in capsys.readouterr().err
    assert main([*command, "--precision=0.9999"]) == 0
    said = capsys.readouterr().err
    assert "no threshold of colour" in said
    assert "reaches a precision of 0.9999 on val; use a lower --precision" in said
    assert "promised" not in said
    assert main([*command, "--split=val", "--per-class"]) == 0
    assert "chosen on one half of val" in capsys.readouterr().err


def test_mistakes_end_in_one_line(run, rows, write_table, tmp_path, capsys, catalogue):
    table = write_table("mistakes.csv", rows)
    command = ["predict", f"--workdir={run}", f"--input={table}", f"--output={tmp_path}/out.csv"]
    assert "no column 'headline'" in mistake(capsys, *command, "--text=headline")
    assert "cannot read the table" in mistake(capsys, *command, "--input=nowhere.csv")
    assert "ends in .csv, .jsonl" in mistake(capsys, *command, f"--output={tmp_path}/out.xlsx")
    assert "cannot write beside" in mistake(capsys, *command, "--output=/proc/none/out.csv")
    assert "numbered from 0" in mistake(capsys, *command, "--host=2", "--hosts=2")
    assert "is no run" in mistake(capsys, *command, f"--workdir={tmp_path}")
    (tmp_path / "empty.csv").write_text("picture,title\n")
    assert "has no rows" in mistake(capsys, *command, f"--input={tmp_path}/empty.csv")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    assert "neither a picture nor words" in mistake(
        capsys, *command, f"--input={tmp_path}/other.csv"
    )
    predict(run, table, tmp_path / "out.csv", "--host=1", "--hosts=2")
    other = write_table("shorter.csv", rows[:5])
    assert "remove it or name another" in mistake(capsys, *command, f"--input={other}")
    assert "has no split 'tset'" in mistake(capsys, "evaluate", f"--workdir={run}", "--split=tset")
    says = mistake(capsys, "evaluate", f"--workdir={run}", "--config.data.pth=x")
    assert "did you mean --config.data.path?" in says
    assert "add --precision" in mistake(capsys, "evaluate", f"--workdir={run}", "--confidence=0.9")
    assert "evaluate needs --workdir" in mistake(capsys, "evaluate")
    (run / "thresholds.json").write_text("{}")
    assert "does not hold thresholds" in mistake(capsys, *command)
    (run / "thresholds.json").unlink()
    shutil.rmtree(run / "checkpoints")
    assert "no checkpoint in" in mistake(capsys, *command)
    (run / "config.json").write_text("{")
    assert "is not the config of a run" in mistake(capsys, *command)


def test_any_checkpoint_can_be_asked(run, rows, write_table, tmp_path, capsys):
    """The run has steps 10 and 12, neither of them judged on the way."""
    table = write_table("steps.csv", rows)
    newest, older = cma.load(run), cma.load(run, checkpoint=10)
    assert (newest.trained.step, older.trained.step) == (12, 10)
    texts = [row["title"] for row in rows if row["title"]]
    said = {
        model.trained.step: [
            answers["colour"].probability for answers in model.predict(texts=texts)
        ]
        for model in (newest, older)
    }
    assert said[12] != pytest.approx(said[10], abs=1e-6)
    alone = ["--image=none", "--checkpoint=10"]
    lines = read_csv(predict(run, table, tmp_path / "older.csv", *alone))
    told = [float(line["colour_probability"]) for line in lines if line["colour"]]
    assert told == pytest.approx(said[10], abs=1e-6)
    assert "answers of step 10" in capsys.readouterr().err
    (run / "checkpoints/10/metrics/metrics").write_text('{"score": 0.75}')
    assert cma.load(run, "best").trained.step == 10
    (run / "checkpoints/12/metrics/metrics").write_text('{"score": 0.75}')
    assert cma.load(run, "best").trained.step == 12
    (run / "checkpoints/12/metrics/metrics").write_text('{"score": 0.5}')
    assert main(["evaluate", f"--workdir={run}", "--checkpoint=best"]) == 0
    assert json.loads((run / "evaluation/test.json").read_text())["step"] == 10
    assert "test at step 10" in capsys.readouterr().err
    thresholds = ["evaluate", f"--workdir={run}", "--precision=0.3", "--checkpoint=10"]
    assert main(thresholds) == 0
    command = ["predict", f"--workdir={run}", f"--input={table}", f"--output={tmp_path}/new.csv"]
    assert "take --checkpoint=10" in mistake(capsys, *command)
    predict(run, table, tmp_path / "same.csv", "--checkpoint=10")


def test_a_checkpoint_that_is_not_there_ends_in_one_line(run, rows, write_table, tmp_path, capsys):
    table, out = write_table("none.csv", rows), tmp_path / "out"
    for command in (
        ("evaluate",),
        ("predict", f"--input={table}", f"--output={out}.csv"),
        ("explain", f"--input={table}", "--rows=1", f"--output={out}.html"),
        ("report",),
        ("export", f"--output={out}"),
        ("robustness",),
    ):
        for which in ("9", "latest"):
            says = mistake(capsys, *command, f"--workdir={run}", f"--checkpoint={which}")
            assert f"no checkpoint {which} in" in says
            assert says.endswith("--checkpoint takes newest, best or one of 10, 12")
    says = mistake(capsys, "evaluate", f"--workdir={run}", "--checkpoint=best")
    assert "was judged on the way" in says


def test_parts_of_another_checkpoint_are_not_joined(run, rows, write_table, tmp_path, capsys):
    table, output = write_table("parts.csv", rows), tmp_path / "out.csv"
    predict(run, table, output, "--host=1", "--hosts=2")
    command = ["predict", f"--workdir={run}", f"--input={table}", f"--output={output}"]
    assert "parts of another" in mistake(capsys, *command, "--checkpoint=10")
