"""The command: a run in its folder, and every mistake in one line with its fix."""

import csv
import importlib
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from support.commands import QUICKSTART, ROOT, mistake
from support.studies import small_arguments

import cmaclip_jax as cma
from cmaclip_jax.config import base_config, check_config, field_paths
from cmaclip_jax.config_arguments import read_config
from cmaclip_jax.data.bad_records import BadRecords
from cmaclip_jax.data.sources import open_sources
from cmaclip_jax.errors import UserError
from cmaclip_jax.evaluation.result_files import read_outcome
from cmaclip_jax.evaluation.threshold_choice import reached
from cmaclip_jax.evaluation.thresholds import read_thresholds
from cmaclip_jax.main import VERBS, main
from cmaclip_jax.runs.training import train_and_evaluate


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("--config.train.learning_rte=1", "did you mean --config.train.learning_rate?"),
        ("--config.learning_rate=1", "did you mean --config.train.learning_rate?"),
        ("--config.model.sequence_layer=0", "did you mean --config.model.sequence_layers?"),
        ("--config.train.steps=many", "train.steps"),
        ("--config.train.steps", "write --config.train.steps=VALUE"),
        ("--config.train.steps=0", "must be at least 1"),
        ("--config.model.inputs=picture", "('both', 'image', 'text')"),
        ("--config.data.shop.missing_texts=2", "between 0 and 1"),
        ("--config.train.accumulate=3", "use 30 or 33"),
        ("--config.data.shop.articles=9", "must lie between 1 and 8"),
        ("--config.data.text_length=2", "needs 3 or more"),
        ("--config.train.batch_size=12", "does not divide over 8 device(s); use 8 or 16"),
        ("--config.eval.batch_size=12", "eval.batch_size=12 does not divide over 8 device(s)"),
        ("--config.mesh.tensor=3", "does not fill 8 device(s)"),
        ("--config.data.labels=('colour','size')", "unknown task 'size'"),
        ("--config.train.task_weights=(('size',2.0),)", "unknown task 'size'"),
        ("--config.model.image=B/33", "choose one of B/32"),
        ("--config.model.text=B/32", "do not share a width"),
        ("--config.data.image_size=50", "use 48 or 60"),
        ("--config.model.sequence_heads=3", "does not divide the width 64"),
        ("--config.train.freeze=('imag/.*',)", "matches no parameter"),
        ("--config.train.freeze=('image/(',)", "write (regex, value)"),
        ("--config.train.rates=('image/.*',0.1)", "write (regex, value)"),
        ("--config.model.sequence_layers=-1", "must be at least 0"),
        ("--config.eval.precisions=(0.9,95)", "shares, above 0 and up to 1"),
        ("--config.eval.top_k=(0,5)", "whole numbers, 1 or more"),
        ("--stpes=3", "unknown argument '--stpes=3'"),
    ],
)
def test_mistakes_end_in_one_line_with_the_fix(capsys, tmp_path, argument, says):
    small = "--config.data.shop.train_size=50"
    assert says in mistake(capsys, QUICKSTART, small, f"--workdir={tmp_path}/run", argument)


def test_mistakes_about_files(capsys, tmp_path):
    assert "add --config=FILE" in mistake(capsys, "train")
    says = mistake(capsys, "--config=configs/quikstart.py")
    assert "the configs of this project are configs/attributes.py, configs/clip_finetune.py" in says
    assert "unknown verb 'tarin'" in mistake(capsys, "tarin", QUICKSTART)
    (tmp_path / "file").write_text("")
    says = mistake(capsys, QUICKSTART, f"--workdir={tmp_path / 'file' / 'run'}")
    assert "cannot write to workdir" in says
    assert "--workdir" in says


@pytest.mark.parametrize("verb", [(QUICKSTART,), ("evaluate",), ("report",), ("doctor",)])
def test_a_workdir_in_a_bucket_is_to_be_mounted(capsys, verb):
    says = mistake(capsys, *verb, "--workdir=gs://bucket/runs/food")
    assert "a run's folder is a path, not gs://...; mount the bucket" in says


def test_a_workdir_belongs_to_one_config(capsys, tmp_path):
    other = base_config()
    other.seed = 5
    (tmp_path / "config.json").write_text(other.to_json_best_effort())
    (tmp_path / "checkpoints/20").mkdir(parents=True)
    says = mistake(capsys, QUICKSTART, f"--workdir={tmp_path}")
    assert "belongs to a different config: data.text_length is 0 there and 16 here" in says
    assert "name another with --workdir" in says


def test_a_run_that_never_began_claims_no_workdir(config, tmp_path):
    config.train.freeze = ("imag/.*",)
    with pytest.raises(UserError, match="matches no parameter"):
        train_and_evaluate(config, tmp_path)
    config.train.freeze = ()
    config.data.labels = ("colour",)
    assert list(train_and_evaluate(config, tmp_path)["tasks"]) == ["colour"]


def test_overrides_reach_the_config_and_keep_their_type():
    config = read_config([QUICKSTART, "--config.train.steps=7", "--config.data.labels=('colour',)"])
    assert config.train.steps == 7
    assert config.data.labels == ("colour",)


def test_every_field_has_a_comment():
    lines = (ROOT / "cmaclip_jax/config.py").read_text().splitlines()
    fields = [line for line in lines if re.match(r"    (config|\w+)\.\w+ = ", line)]
    assert len(fields) == len(field_paths(base_config()))
    for line in fields:
        assert "  # " in line or lines[lines.index(line) - 1].strip().startswith("#"), line


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.py")), ids=lambda f: f.stem)
def test_every_config_is_valid_and_tells_its_command(file):
    check_config(read_config([f"--config={file}"]))
    assert f"--config=configs/{file.name}" in file.read_text()


def test_a_run_leaves_everything_in_its_folder(config, tmp_path):
    config.data.labels = ("colour", "contents")
    config.eval.precisions, config.eval.top_k = (0.8,), (2,)
    figures = train_and_evaluate(config, tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names >= {"config.json", "tasks.json", "tokenizer.json", "checkpoints", "metrics.jsonl"}
    written = json.loads((tmp_path / "run/evaluation/test.json").read_text())
    assert written == figures
    assert (written["split"], written["step"]) == ("test", 8)
    task = written["tasks"]["colour"]
    assert task.keys() >= {
        *("examples", "accuracy", "macro_f1", "average_precision", "recall_at_precision"),
        "modality_weights",
    }
    assert list(task["recall_at_precision"]) == ["0.80"]
    assert list(task["top_k_accuracy"]) == ["2"]
    assert list(written["tasks"]) == ["colour", "contents"]
    assert train_and_evaluate(config, tmp_path / "run") == figures  # again: nothing left to train
    config.train.steps = 9
    with pytest.raises(UserError, match=r"train\.steps is 8 there and 9 here"):
        train_and_evaluate(config, tmp_path / "run")


@pytest.mark.slow(longest=True)
def test_the_quickstart_keeps_its_promise(tmp_path):
    command = [sys.executable, "-m", "cmaclip_jax.main", QUICKSTART, f"--workdir={tmp_path}"]
    command += ["--config.eval.every=0", "--config.checkpoint.every=4800"]  # they change no figure
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "XLA_FLAGS": ""}, timeout=1200)
    tasks = json.loads((tmp_path / "evaluation/test.json").read_text())["tasks"]
    promised = {
        "colour": 0.95,
        "pattern": 0.9,
        "category": 0.98,
        "material": 0.98,
        "backdrop": 0.98,
    }
    for task, accuracy in promised.items():
        assert tasks[task]["accuracy"] >= accuracy, task
    weight = {name: task["modality_weights"]["image"] for name, task in tasks.items()}
    assert weight["material"] < 0.5 < weight["backdrop"]  # each looks where its answer is


def test_help_comes_at_once_and_without_the_heavy_imports():
    code = "import sys; from cmaclip_jax.main import VERBS, main\ntry: main(['--help'])\n" + (
        "except SystemExit: pass\nassert not {'jax', 'tensorflow'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "--config=FILE" in done.stdout


def test_a_run_starts_from_clip_weights_and_goes_on_without_them(
    config, tmp_path, clip_folder, capsys
):
    source = tmp_path / "clip"
    shutil.copytree(clip_folder, source)
    config.model.pretrained = str(source)
    config.data.text_length = 0
    config.data.labels, config.model.sequence_layers = ("colour",), 0  # compiles sooner
    config.train.steps, config.eval.every = 2, 0
    train_and_evaluate(config, tmp_path / "run")
    said = capsys.readouterr().err
    assert "taken: image" in said
    assert "image positions resized from 2x2 to 6x6 patches (bicubic)" in said
    assert "left aside: nothing" in said
    assert "of the texts are longer than 16 tokens" in said
    shutil.rmtree(source)
    figures = train_and_evaluate(config, tmp_path / "run")
    assert figures["step"] == 2

    back = tmp_path / "back"
    command = ["convert", f"--source={tmp_path / 'run'}", f"--output={back}", "--to=huggingface"]
    assert main(command) == 0
    ours, theirs = cma.load_clip(tmp_path / "run"), cma.load_clip(back)
    assert ours.model == theirs.model
    assert ours.model.image.image_size == 48
    texts = ["a photo of a red x", "blue"]
    np.testing.assert_array_equal(ours.embed_texts(texts), theirs.embed_texts(texts))
    before = cma.load_clip(clip_folder).embed_texts(texts)
    assert np.abs(ours.embed_texts(texts) - before).max() > 1e-4


@pytest.mark.slow
def test_clip_is_fine_tuned_and_judged_by_its_sentences(config, tmp_path):
    config.train.objective = "contrastive"
    config.data.text_length = 32
    figures = train_and_evaluate(config, tmp_path / "run")
    assert figures["tasks"]["colour"]["examples"] > 0
    textual = figures["slices"]["without_image"]["tasks"]["colour"]
    assert textual["modality_weights"] == {"image": 0.0, "text": 1.0}


def assert_retrieval_by_hand(run, catalogue):
    """The figures of the test split, from the run's embeddings of its files and titles."""
    rows = [row for row in csv.DictReader(catalogue.open()) if row["split"] == "test"]
    rows = [row for row in rows if row["picture"] and row["title"]]
    clip, titles = cma.load_clip(run), np.array([row["title"] for row in rows])
    images = clip.embed_images([catalogue.parent / row["picture"] for row in rows])
    similar = images @ clip.embed_texts(list(titles)).T
    figures = json.loads((run / "evaluation/test.json").read_text())["retrieval"]
    assert figures["pairs"] == len(rows)
    for what, table in {"text": similar, "image": similar.T}.items():
        found = [
            titles[np.argsort(-line)] == title for line, title in zip(table, titles, strict=True)
        ]
        ranks = np.argmax(found, axis=1) + 1
        assert figures[what]["median_rank"] == np.median(ranks)
        shares = {str(most): np.mean(ranks <= most) for most in (1, 5, 10)}
        assert figures[what]["recall_at"] == pytest.approx(shares)


def test_pairs_without_labels_make_a_clip(catalogue, tmp_path, capsys):
    """The columns of labels are not read, and the run starts another run as any CLIP does."""
    small = ["--config.model.image=test/8", "--config.model.text=test/8", "--config.train.steps=2"]
    small += ["--config.data.image_size=48", "--config.train.batch_size=8"]
    small += ["--config.eval.every=1", "--workdir"]
    pretrain = [f"--config={ROOT}/configs/pretrain.py", f"--config.data.path={catalogue}"]
    assert main([*pretrain, *small, str(tmp_path / "clip")]) == 0
    assert json.loads((tmp_path / "clip/tasks.json").read_text()) == {"tasks": []}
    said = capsys.readouterr().err
    assert "tasks none" in said
    assert re.search(r"val recall at 1, 5, 10 among \d+ pairs: text \d", said)
    assert_retrieval_by_hand(tmp_path / "clip", catalogue)
    again = ["evaluate", "--zero-shot", f"--source={tmp_path / 'clip'}", *pretrain, small[3]]
    assert main([*again, f"--workdir={tmp_path / 'again'}"]) == 0
    files = [tmp_path / run / "evaluation/test.json" for run in ("clip", "again")]
    first, second = (json.loads(file.read_text())["retrieval"] for file in files)
    assert first == second
    config = read_config([*pretrain[1:], f"--config={ROOT}/configs/attributes.py", *small[:-1]])
    config.data.labels, config.model.pretrained = ("colour",), str(tmp_path / "clip")
    config.model.sequence_layers, config.eval.every = 0, 0
    figures = train_and_evaluate(config, tmp_path / "run")
    assert figures["tasks"]["colour"]["examples"] > 0
    ours = json.loads((tmp_path / "run/tokenizer.json").read_text())
    assert ours == json.loads((tmp_path / "clip/tokenizer.json").read_text())
    says = mistake(capsys, *pretrain, "--config.train.objective=classification")
    assert "this data has no task to learn" in says


def test_zero_shot_evaluates_any_clip(tmp_path, clip_folder, capsys):
    arguments = ["--config.data.shop.test_size=20", "--config.eval.batch_size=8"]
    arguments += ["--config.data.shop.train_size=20", f"--workdir={tmp_path / 'run'}"]
    command = ["evaluate", "--zero-shot", f"--source={clip_folder}", QUICKSTART, *arguments]
    assert main([*command, "--config.model.inputs=image"]) == 0
    figures = json.loads((tmp_path / "run/evaluation/test.json").read_text())
    assert figures["slices"]["all"]["examples"] == 20
    assert figures["tasks"]["colour"]["modality_weights"] == {"image": 1.0, "text": 0.0}
    clip = cma.load_clip(clip_folder)  # the same by hand
    config = read_config([QUICKSTART, *arguments[:3:2], "--config.data.image_size=16"])
    shop = open_sources(config.data, BadRecords())["test"]
    task = next(task for task in shop.tasks if task.name == "category")
    records = [r for r in map(shop.__getitem__, range(20)) if r.image is not None and r.text]
    records = [record for record in records if record.labels["category"]]
    classes = clip.embed_texts([f"a photo of a {name}." for name in task.classes])
    best = np.argmax(clip.embed_images([r.image for r in records]) @ classes.T, axis=1)
    right = [task.classes[i] == r.labels["category"] for i, r in zip(best, records, strict=True)]
    assert figures["tasks"]["category"]["accuracy"] == pytest.approx(np.mean(right))
    assert "sentences describe the classes of 6 tasks" in capsys.readouterr().err
    (tmp_path / "run/checkpoints").mkdir()
    assert "is a run with figures of its own" in mistake(capsys, *command)
    assert "or --zero-shot --source=CLIP" in mistake(capsys, "evaluate", QUICKSTART)
    long = f"--config.eval.prompts=('{'a b ' * 20}{{}}',)"
    assert "is longer than data.text_length=16" in mistake(
        capsys, *command[:-1], f"--workdir={tmp_path / 'long'}", long
    )
    assert "every sentence needs {}" in mistake(capsys, QUICKSTART, "--config.eval.prompts=('x',)")
    assert "no checkpoint at" in mistake(
        capsys, QUICKSTART, f"--workdir={tmp_path / 'w'}", "--config.model.pretrained=nowhere"
    )


def test_zero_shot_takes_a_split_and_chooses_thresholds(tmp_path, clip_folder, capsys):
    run = tmp_path / "run"
    small = [f"--config.data.shop.{name}_size=20" for name in ("train", "val", "test")]
    command = ["evaluate", "--zero-shot", f"--source={clip_folder}", QUICKSTART, *small]
    command += ["--config.eval.batch_size=8", "--config.data.labels=('category',)"]
    command += [f"--workdir={run}"]
    thresholds = ["--precision=0.1", "--confidence=0.5", "--per-class", "--calibrate=train"]
    assert main([*command, "--split=val", *thresholds]) == 0
    assert {path.name for path in (run / "evaluation").iterdir()} == {"val.json", "val.npz"}
    said = capsys.readouterr().err
    assert "val at step 0" in said
    assert "right 0.1 of the time in 50% of such choices; chosen on train, reached on val" in said
    chosen = read_thresholds(run / "thresholds.json")["category"]
    assert (chosen.split, chosen.step, chosen.target, chosen.level) == ("train", 0, 0.1, 0.5)
    assert list(chosen.classes) == list(chosen.task.classes)
    judged = read_outcome(run, "val")
    probabilities, labels = (judged[x]["category"] for x in ("probabilities", "labels"))
    assert f"{reached(chosen, probabilities, labels)['accepted_share']:.3f}" in said
    assert "add --precision=0.95" in mistake(capsys, *command, "--per-class")
    assert "add --precision=0.95" in mistake(capsys, *command, "--calibrate=train")
    assert "has no split 'tset'" in mistake(capsys, *command, "--split=tset")
    assert "drop --checkpoint" in mistake(capsys, *command, "--checkpoint=best")


@pytest.mark.parametrize(
    ("command", "would"),
    [
        (["train"], "continues"),
        (["predict"], "continues"),
        (["prepare"], "continues"),
        (["ablate"], "continues"),
        (["robustness"], "continues"),
        (["landmarks", "study"], "continues"),
        (["landmarks", "stability"], "begins again"),
        (["evaluate"], "begins again"),
        (["bench"], "begins again"),
    ],
)
def test_ctrl_c_says_what_the_same_command_would_do(capsys, monkeypatch, command, would):
    def run(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module(f"cmaclip_jax.commands.{command[0]}"), "run", run)
    assert main(command) == 130
    assert capsys.readouterr().err == f"cmaclip: interrupted; the same command {would}\n"


def test_help_names_every_verb_and_every_verb_has_its_own(capsys):
    assert main(["--help"]) == 0
    overview = capsys.readouterr().out
    for verb in VERBS:
        assert verb in overview
        with pytest.raises(SystemExit) as end:
            main([verb, "--help"])
        assert end.value.code == 0
        assert f"cmaclip {verb}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["predict", "--workdir=x"], "predict --help"),
        (["predict", "--workdir=x"], "the following arguments are required: --input, --output"),
        (["explain", "--workdir=x", "--input=y"], "arguments are required: --rows"),
        (["ablate", QUICKSTART, "--seeds=few"], "argument --seeds: invalid int value: 'few'"),
        (["robustness", "--workdir=x", "--protocol=whole"], "invalid choice: 'whole'"),
        (["convert", "--nonsense"], "arguments are required: --source"),
    ],
)
def test_wrong_arguments_end_in_one_line(capsys, command, says):
    assert says in mistake(capsys, *command)


@pytest.mark.slow
def test_what_was_compiled_once_is_read_by_the_next_run(tmp_path):
    """Three commands, as a user gives them, with nothing kept but the cache.

    The third has another seed, which changes no program.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment |= {"XDG_CACHE_HOME": str(tmp_path), "XLA_FLAGS": ""}
    told, losses = [], []
    small = [*small_arguments(), "--config.train.steps=2", "--config.train.contrastive=0.0"]
    for run, seed in (("first", 0), ("second", 0), ("third", 1)):
        workdir = tmp_path / run
        command = [sys.executable, "-m", "cmaclip_jax.main", *small]
        command += [f"--config.seed={seed}", f"--workdir={workdir}"]
        said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        pattern = r"after (\d+) s; (\d+) programs read from (\S+), (\d+) added"
        told.append(re.search(pattern, said.stderr))
        figures = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[0])
        losses.append(figures["train/loss"])
    assert {line[3] for line in told} == {str(tmp_path / "cmaclip_jax" / "compiled")}
    assert int(told[0][2]) == 0 < int(told[1][2]) == int(told[2][2])
    assert int(told[0][4]) > 0 == int(told[1][4]) == int(told[2][4])
    assert max(int(told[1][1]), int(told[2][1])) < int(told[0][1])
    assert losses[0] == losses[1] != losses[2]
