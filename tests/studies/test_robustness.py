"""Noise on a finished run: what it is judged by stays, what it is shown gets worse."""

import csv
import itertools
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from support.commands import mistake
from support.small import small_config

from cmaclip_jax.data import view
from cmaclip_jax.data.bad_records import BadRecords
from cmaclip_jax.data.noise import IMAGE_NOISES, PROTOCOLS, STRENGTHS, TEXT_NOISES, Noise
from cmaclip_jax.data.sources import open_sources
from cmaclip_jax.evaluation.result_files import read_outcome
from cmaclip_jax.evaluation.scores import score
from cmaclip_jax.main import main
from cmaclip_jax.runs import judged, training
from cmaclip_jax.runs.judged import open_judged
from cmaclip_jax.runs.training import train_and_evaluate
from cmaclip_jax.studies import robustness
from cmaclip_jax.studies.robustness import CLEAN, SEVERITIES, conditions, judge
from cmaclip_jax.training.workdir import saved_config

OWN = {
    f"robustness{more}.{kind}" for more in ("", "-half") for kind in ("json", "md", "csv", "png")
}


@pytest.fixture
def run(finished_run, tmp_path):
    """A copy of the finished run, to write into."""
    return shutil.copytree(finished_run, tmp_path / "run")


@pytest.fixture(scope="module")
def trained(finished_run):
    return open_judged(finished_run, saved_config(finished_run))


def figures_under(trained, *noises):
    return [figures for _, figures in judge(trained, "test", noises, lambda batches, _: batches)]


def read_rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def contents(folder):
    return {x: x.read_bytes() for x in folder.rglob("*") if x.is_file() and x.name not in OWN}


def test_every_kind_and_severity_comes_once():
    noises = conditions()
    assert noises[0] == CLEAN
    degrees = {kind: 5 if kind in STRENGTHS else 1 for kind in {*IMAGE_NOISES, *TEXT_NOISES}}
    for where, kinds in (("image", IMAGE_NOISES), ("text", TEXT_NOISES)):
        for kind in kinds:
            assert sum(getattr(noise, where) == kind for noise in noises) == degrees[kind]
    assert len(set(noises)) == len(noises) == 1 + 5 * 6 + 5
    assert conditions(["blank"]) == [CLEAN, Noise(image="blank"), Noise(text="blank")]
    assert conditions(["image.blank"]) == [CLEAN, Noise(image="blank")]
    assert conditions(["missing"], share=0.3) == [CLEAN, Noise(image="missing", share=0.3)]
    assert conditions(["drop"], [2]) == [CLEAN, Noise(text="drop", severity=2)]


def test_the_command_writes_what_it_found_and_nothing_else(run, finished_run, capsys, monkeypatch):
    other = shutil.copytree(finished_run, run.parent / "other")
    before = contents(run.parent)
    command = ["robustness", f"--workdir={run}", f"--against={other}"]
    command += ["--noises=occlusion,typos,blank", "--severities=1,5"]
    assert main(command) == 0
    assert contents(run.parent) == before
    assert {path.name for path in run.iterdir()} >= {x for x in OWN if "half" not in x}
    rows = read_rows(run / "robustness.csv")
    assert len(rows) == 2 * (1 + 2 * 2 + 2) * 3
    evaluated = json.loads((run / "evaluation/test.json").read_text())
    for row in rows:
        task = evaluated["tasks"].get(row["task"])
        assert task is None or int(row["examples"]) == task["examples"]
        if row["severity"] == "0":
            figures = task or evaluated["mean"]
            assert float(row["accuracy"]) == figures["accuracy"]
            if task:
                assert float(row["image_weight"]) == task["modality_weights"]["image"]
        if row["text"] == "blank":
            assert float(row["image_weight"]) == 1.0
    assert [row for row in rows if row["run"] == "run"] == [
        row | {"run": "run"} for row in rows if row["run"] == "other"
    ]
    text = (run / "robustness.md").read_text()
    assert "| noise | run | clean | 1 | 5 | whole |" in text
    assert "| text blank | other |" in text
    with Image.open(run / "robustness.png") as image:
        assert min(image.size) > 300
    capsys.readouterr()
    monkeypatch.setattr(robustness, "judge", None)  # all is known
    assert main(command) == 0
    assert "run: 7 of 7 evaluated before" in capsys.readouterr().err
    assert read_rows(run / "robustness.csv") == rows


@pytest.mark.slow
def test_a_stopped_study_goes_on_and_forgets_what_is_of_another_split(run, monkeypatch, capsys):
    command = ["robustness", f"--workdir={run}", "--noises=drop", "--severities=1,3,5"]
    collect, left = judged.collect, iter(range(2))

    def collect_two(*arguments):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return collect(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(judged, "collect", collect_two)
        assert main(command) == 130
    assert len(json.loads((run / "robustness.json").read_text())["findings"]) == 2
    capsys.readouterr()
    assert main(command) == 0
    assert "run: 2 of 4 evaluated before" in capsys.readouterr().err
    rows = read_rows(run / "robustness.csv")
    (run / "robustness.json").unlink()
    assert main(command) == 0
    assert read_rows(run / "robustness.csv") == rows
    capsys.readouterr()
    assert main([*command, "--split=val"]) == 0
    assert "evaluated before" not in capsys.readouterr().err
    assert read_rows(run / "robustness.csv") != rows


def test_the_pairs_are_those_that_are_complete_without_noise(trained):
    clean, half, whole = figures_under(
        trained, CLEAN, Noise(text="blank", share=0.5), Noise(text="blank")
    )
    for task, figures in clean["tasks"].items():
        examples = figures["examples"]
        assert half["tasks"][task]["examples"] == whole["tasks"][task]["examples"] == examples
        assert whole["tasks"][task]["image_weight"] == 1.0
        assert figures["image_weight"] < half["tasks"][task]["image_weight"] < 1.0


@pytest.mark.parametrize(
    ("noise", "taken"),
    [
        ({"text": "blank"}, "text"),
        ({"image": "missing"}, "image"),
        ({"image": "swap", "text": "swap"}, None),
    ],
)
def test_evaluate_judges_the_pairs_that_are_complete_without_noise(run, noise, taken):
    command = ["evaluate", f"--workdir={run}"]
    assert main(command) == 0
    clean = json.loads((run / "evaluation/test.json").read_text())
    complete = read_outcome(run, "test")
    complete = complete["row"][(complete["has_image"] > 0) & (complete["has_text"] > 0)]
    fields = [f"--config.data.noise.{name}={kind}" for name, kind in noise.items()]
    assert main([*command, *fields, "--config.data.noise.share=0.5"]) == 0
    noisy = json.loads((run / "evaluation/test.json").read_text())
    assert noisy["examples"] == clean["examples"] == len(complete)
    sizes = [
        {name: part["examples"] for name, part in figures["slices"].items()}
        for figures in (clean, noisy)
    ]
    assert sizes[0] == sizes[1]
    outcome = read_outcome(run, "test")
    rows = np.isin(outcome["row"], complete)
    said, labels = (outcome[name]["colour"][rows] for name in ("probabilities", "labels"))
    right = (said.argmax(axis=1) == labels)[labels >= 0]
    assert noisy["tasks"]["colour"]["accuracy"] == pytest.approx(right.mean())
    weights = outcome["modality_weights"]["colour"][rows]
    if taken:  # the struck pairs are among those judged
        assert 0 < np.sum(weights[:, ("image", "text").index(taken)] == 0) < len(weights)


def test_a_runs_own_evaluations_judge_them_too(config, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(training, "score", lambda *told: seen.append(score(*told)) or seen[-1])
    config.data.labels = ("colour",)
    config.train.steps, config.eval.every = 2, 1
    config.data.noise.text, config.data.noise.share = "blank", 0.5
    last = train_and_evaluate(config, tmp_path)
    for split, examples in [("val", seen[0]["examples"]), ("test", last["examples"])]:
        source = open_sources(config.data, BadRecords())[split]
        records = map(source.__getitem__, range(len(source)))
        assert examples == sum(bool(r.text) and r.image is not None for r in records)


def test_noise_reaches_what_is_read_and_the_data_stay_as_they_were(trained, monkeypatch):
    seen = []
    for name in ("corrupt_image", "corrupt_text"):
        corrupt = getattr(view, name)

        def spy(what, kind, severity, rng, corrupt=corrupt):
            seen.append((kind, severity))
            return corrupt(what, kind, severity, rng)

        monkeypatch.setattr(view, name, spy)
    before = trained.data.config.to_json()
    figures_under(trained, Noise(image="blur", severity=4), Noise(text="drop", severity=2))
    assert set(seen) == {("blur", 4), ("drop", 2)}
    assert trained.data.config.to_json() == before
    clean = next(iter(trained.data.eval_batches("test")))
    noisy = trained.with_noise(PROTOCOLS["acml-10"]).data
    worse = next(iter(noisy.eval_batches("test")))
    there = clean["has_image"]
    struck = (clean["image"] != worse["image"]).any(axis=(1, 2, 3))
    both = there & clean["has_text"]
    np.testing.assert_array_equal(struck[both], ~worse["has_text"][both])
    assert 0 < struck[both].sum() < both.sum()


@pytest.mark.slow
def test_the_published_protocol(run):
    assert main(["robustness", f"--workdir={run}", "--protocol=half"]) == 0
    rows = read_rows(run / "robustness-half.csv")
    conditions = {(x["image"], x["text"], x["severity"], x["share"]) for x in rows}
    assert conditions == {
        ("", "", "0", "1.0"),
        ("gaussian", "blank", "5", "0.5"),
        ("gaussian", "blank", "10", "0.5"),
    }
    assert "| image gaussian, text blank (50%) |" in (run / "robustness-half.md").read_text()
    assert not (run / "robustness.json").exists()


def test_mistakes_end_in_one_line(run, finished_run, catalogue, capsys, tmp_path):
    command = ["robustness", f"--workdir={run}"]
    assert "unknown noise 'blurr'; there is image.gaussian" in mistake(
        capsys, *command, "--noises=blurr"
    )
    assert "'blur' has no severity 9; use one of" in mistake(
        capsys, *command, "--noises=blur", "--severities=9"
    )
    assert "numbers such as 1,3,5" in mistake(capsys, *command, "--severities=high")
    assert "leave --noises, --severities and --share out" in mistake(
        capsys, *command, "--protocol=half", "--noises=blur"
    )
    assert "must lie between 0 and 1" in mistake(capsys, *command, "--share=1.5")
    assert "is no run" in mistake(capsys, "robustness", f"--workdir={tmp_path}")
    assert "is no run" in mistake(capsys, *command, f"--against={tmp_path}/nothing")
    assert "has no split 'tset'" in mistake(capsys, *command, "--split=tset")
    assert "unknown argument '--noise=blur'" in mistake(capsys, *command, "--noise=blur")
    other = shutil.copytree(finished_run, tmp_path / "other")
    tasks = json.loads((other / "tasks.json").read_text())
    (other / "tasks.json").write_text(json.dumps({"tasks": tasks["tasks"][:1]}))
    assert "differ in their tasks or classes" in mistake(capsys, *command, f"--against={other}")
    (other / "tasks.json").unlink()
    assert "lacks a tasks.json" in mistake(capsys, *command, f"--against={other}")
    (other / "tasks.json").write_text(json.dumps(tasks))
    fewer = catalogue.with_name("fewer.csv")
    fewer.write_text("".join(catalogue.read_text().splitlines(keepends=True)[:-5]))
    config = json.loads((other / "config.json").read_text())
    config["data"]["path"] = str(fewer)
    (other / "config.json").write_text(json.dumps(config))
    says = mistake(capsys, *command, f"--against={other}", "--noises=image.blank")
    fewer.unlink()
    assert "compare runs on the same data" in says


@pytest.mark.slow
def test_what_a_model_learnt_wears_away_with_the_severity(tmp_path):
    config = small_config()
    config.data.shop.train_size, config.data.shop.test_size = 2_000, 300
    config.data.shop.articles = 1
    config.train.steps, config.train.batch_size = 300, 32
    config.train.learning_rate, config.eval.every = 2e-3, 0
    config.checkpoint.every = config.train.log_every = 100
    train_and_evaluate(config, tmp_path)
    trained = open_judged(tmp_path, saved_config(tmp_path))
    noises = conditions(["occlusion", "drop", "image.blank"], SEVERITIES)
    found = dict(zip(noises, figures_under(trained, *noises), strict=True))
    for noise, task in (("occlusion", "backdrop"), ("drop", "category")):
        own = [x for x in noises if noise in (x.image, x.text)]
        curve = [found[x]["tasks"][task]["accuracy"] for x in (CLEAN, *own)]
        assert curve[0] > 0.8
        assert all(after < before + 0.05 for before, after in itertools.pairwise(curve))
    blank = found[Noise(image="blank")]["tasks"]
    assert blank["backdrop"]["accuracy"] < 0.5  # the picture alone shows it, and it is gone
    assert blank["category"]["accuracy"] > 0.8  # the title says it
