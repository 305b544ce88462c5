"""An ablation: its variants are what they say, its table is what its runs wrote."""

import csv
import json
import re
import statistics
import sys

import pytest
from flax.traverse_util import flatten_dict
from PIL import Image
from support.commands import mistake
from support.small import small_config
from support.studies import TASKS, in_this_process, small_arguments

from cmaclip_jax.config import field_paths, value_at
from cmaclip_jax.main import main
from cmaclip_jax.studies import ablation, framework, throughput, variant_study
from cmaclip_jax.studies.ablation import StudyRun, open_study
from cmaclip_jax.studies.variant_report import training_minutes
from cmaclip_jax.studies.variants import VARIANTS
from cmaclip_jax.training.saved_parameters import read_parameters


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A finished study of a variant with two seeds, and a run for each task."""
    workdir = tmp_path_factory.mktemp("study")
    command = ["ablate", *small_arguments(), f"--workdir={workdir}", "--tasks-apart"]
    command += ["--seeds=2", "--variants=late-fusion"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(framework, "in_own_process", in_this_process)
        patch.setattr(variant_study, "in_own_process", in_this_process)
        assert main(command) == 0
    return workdir, command


def accuracy(folder, task):
    written = json.loads((folder / "evaluation/test.json").read_text())
    return written["tasks"][task]["accuracy"]


@pytest.mark.slow
def test_the_table_is_what_the_runs_wrote(study):
    workdir, _ = study
    with (workdir / "ablation.csv").open(newline="") as file:
        rows = {(row["variant"], row["task"]): row for row in csv.DictReader(file)}
    assert len(rows) == 2 * 3
    means = {}
    for (variant, task), row in rows.items():
        if task not in TASKS:
            continue
        name = f"apart-{task}" if variant == "apart" else variant
        values = [accuracy(workdir / name / f"seed-{seed}", task) for seed in (0, 1)]
        means.setdefault(variant, []).append(values)
        assert float(row["mean"]) == pytest.approx(sum(values) / 2)
        assert float(row["sd"]) == pytest.approx(statistics.stdev(values))
        assert (row["n"], row["steps"]) == ("2", "8")
        assert float(row["minutes"]) > 0
    for variant, by_task in means.items():
        values = [sum(of_seed) / 2 for of_seed in zip(*by_task, strict=True)]
        row = rows[variant, "(mean)"]
        assert float(row["mean"]) == pytest.approx(sum(values) / 2)
        assert float(row["sd"]) == pytest.approx(statistics.stdev(values))
        assert row["steps"] == ("16" if variant == "apart" else "8")
    text = (workdir / "ablation.md").read_text()
    row = rows["late-fusion", "contents"]
    cell = f"{float(row['mean']):.3f} ±{float(row['sd']):.3f} |"
    assert re.search(rf"^\| late-fusion \| 2 \| 8 \|.*{re.escape(cell)}$", text, re.MULTILINE)
    assert "- apart: a run for every task" in text
    with Image.open(workdir / "ablation.png") as image:
        assert min(image.size) > 200


def parts(folder):
    """The parts that a run's parameters belong to, and how wide an answer's input is."""
    params = flatten_dict(read_parameters(folder)[1], sep="/")
    names = {path.split("/")[0] for path in params}
    names |= {"blocks" for path in params if path.startswith("sequence/last")}
    return names, params["head_colour/hidden_0/kernel"].shape[0]


@pytest.mark.slow
def test_variants_lack_what_they_say(study):
    workdir, _ = study
    alone, width = parts(workdir / "apart-colour/seed-1")
    assert alone == {
        *("image", "text", "sequence", "blocks", "modality", "logit_scale"),
        "head_colour",
    }
    late = alone - {"blocks", "modality"} | {"head_contents"}
    assert parts(workdir / "late-fusion/seed-1") == (late, 2 * width)
    for seed in (0, 1):
        config = json.loads((workdir / f"late-fusion/seed-{seed}/config.json").read_text())
        assert config["seed"] == seed


def test_every_variant_changes_what_it_says(config, tmp_path):
    names = [name for name, variant in VARIANTS.items() if not variant.from_clip]
    config.eval.prompts = ("{}",)  # as long as the texts of this small data at most
    config.eval.every = 4
    study = open_study(config, tmp_path, names, 1)
    fields = field_paths(config)
    for arm in study.arms:
        changes = {
            x: value for x in fields if (value := value_at(arm.config, x)) != value_at(config, x)
        }
        assert changes == VARIANTS[arm.name].changes
    assert not list(tmp_path.iterdir())


def anonymous_memory():
    """Mebibytes that this process holds, beside what it maps from files."""
    with open("/proc/self/status") as file:
        (line,) = [line for line in file if line.startswith("RssAnon")]
    return int(line.split()[1]) // 1024


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux says what is held")
def test_a_study_keeps_nothing_of_the_runs_that_it_has_made(tmp_path, monkeypatch):
    held = []
    monkeypatch.setattr(
        variant_study, "write_report", lambda *_: held.append(anonymous_memory()) or []
    )
    command = ["ablate", *small_arguments(), f"--workdir={tmp_path}", "--seeds=2"]
    assert main([*command, "--variants=full"]) == 0
    assert len(held) == 2  # after every run
    assert held[-1] - held[0] < 20, held


@pytest.mark.slow
def test_a_study_goes_on_where_it_was_stopped(study, capfd):
    workdir, command = study
    lost = workdir / "late-fusion/seed-1/evaluation/test.json"
    written, before = lost.read_text(), (workdir / "ablation.md").read_text()
    lost.unlink()
    results = {file: file.stat().st_mtime_ns for file in workdir.glob("*/*/evaluation/test.json")}
    assert main(command) == 0
    assert {file: file.stat().st_mtime_ns for file in results} == results
    said = capfd.readouterr().err
    assert "run 1 of 6: late-fusion, seed 0: done before" in said
    assert "run 4 of 6: late-fusion, seed 1\n" in said
    assert "continuing from the checkpoint of step 8" in said
    assert lost.read_text() == written
    assert (workdir / "ablation.md").read_text() == before


@pytest.mark.parametrize(
    ("speeds", "minutes"),
    [({}, 0), ({20: 64}, 20 / 60), ({20: 1, 40: 64, 60: 32}, (20 + 40) * 1.5 / 60)],
    ids=["none kept", "one", "the first compiles"],
)
def test_a_runs_minutes_are_those_of_its_steps(tmp_path, speeds, minutes):
    rows = [{"step": step, "examples_per_second": speed} for step, speed in speeds.items()]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = small_config()
    config.train.batch_size = 64
    run = StudyRun(None, 0, config, tmp_path)
    assert training_minutes(run) == pytest.approx(minutes)


@pytest.mark.slow
def test_equal_minutes_are_measured_once_and_kept(tmp_path, monkeypatch, capsys):
    measure, rates = throughput.steps_a_second, []

    def quick(function, *arguments):
        if function is not measure:
            return function(*arguments)
        rates.append(measure(*arguments, seconds=0.2))
        return rates[-1]

    monkeypatch.setattr(ablation, "in_own_process", quick)
    monkeypatch.setattr(framework, "in_own_process", in_this_process)
    minutes = 0.001
    command = ["ablate", *small_arguments(), f"--workdir={tmp_path}", f"--minutes={minutes}"]
    command += ["--seeds=1", "--variants=image-only"]
    assert main(command) == 0
    steps = json.loads((tmp_path / "steps.json").read_text())["steps"]
    assert list(steps.values()) == [max(1, round(60 * minutes * rate)) for rate in rates]
    assert "text" not in parts(tmp_path / "image-only/seed-0")[0]
    for name, count in steps.items():
        assert (
            json.loads((tmp_path / name / "seed-0/config.json").read_text())["train"]["steps"]
            == count
        )
        assert f"| {name} | 1 | {count} |" in (tmp_path / "ablation.md").read_text()
    assert "trained for 0.001 minutes each" in (tmp_path / "ablation.md").read_text()
    assert not list(tmp_path.glob(".measuring*"))
    assert main(command) == 0
    assert len(rates) == 1
    capsys.readouterr()
    assert "is a study of 0.001 minutes a run" in mistake(capsys, *command, "--minutes=2")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--variants=full,no-sequnce"], "unknown variant 'no-sequnce'; there is full, no-seq"),
        (["--seeds=0"], "--seeds=0 must be at least 1"),
        (["--minutes=0"], "--minutes=0 must be more than 0"),
        (["--config.model.inputs=image"], "begins with the whole model; use model.inputs='both'"),
        (["--config.model.sequence_layers=0"], "model.sequence_layers of 1 or more"),
        (["--config.train.objective=contrastive"], "use train.objective='classification'"),
        (
            ["--config.train.rates=(('text/.*',0.1),('.*',1.0))"],
            "image-only: train.rates: 'text/.*' matches no parameter",
        ),
    ],
)
def test_mistakes_end_before_anything_is_trained(capsys, tmp_path, arguments, says):
    command = ["ablate", *small_arguments(), f"--workdir={tmp_path}/study"]
    assert says in mistake(capsys, *command, *arguments)
    assert not (tmp_path / "study").exists()


@pytest.mark.slow
def test_a_study_belongs_to_one_config(study, capsys):
    workdir, command = study
    says = mistake(capsys, *command, "--config.train.learning_rate=1")
    assert f"workdir '{workdir}/late-fusion/seed-0' belongs to a different config" in says
