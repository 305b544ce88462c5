"""A run exported to ONNX: ONNX Runtime gives the run's own numbers, for any number of pairs."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image
from support.commands import mistake
from support.exports import BLOCKED, ask, variant

import cmaclip_jax as cma
from cmaclip_jax.evaluation import temperature
from cmaclip_jax.evaluation.threshold_choice import calibrate
from cmaclip_jax.evaluation.thresholds import write_thresholds
from cmaclip_jax.main import main
from cmaclip_jax.runs.trained import open_trained
from cmaclip_jax.serving import export_formats
from cmaclip_jax.serving.export import random_pairs, write_export
from cmaclip_jax.serving.export_check import largest_difference, open_model
from cmaclip_jax.serving.export_formats import INPUTS, Onnx
from cmaclip_jax.tasks import read_tasks
from cmaclip_jax.training.workdir import saved_config

pytest.importorskip("jax2onnx", reason="pip install 'cmaclip_jax[onnx]'")
NOT_NEEDED = ("jax", "jaxlib", "scipy", "tokenizers", "safetensors")


@pytest.fixture(scope="module")
def exported(finished_run, tmp_path_factory):
    """The finished run, exported by the command."""
    folder = tmp_path_factory.mktemp("exports") / "onnx"
    flags = [f"--workdir={finished_run}", f"--output={folder}", "--format=onnx"]
    assert main(["export", *flags]) == 0
    return folder


def test_the_numbers_are_the_runs_own(exported, finished_run):
    trained = open_trained(finished_run, saved_config(finished_run), devices=jax.devices()[:1])
    answer = open_model("onnx", exported)
    for rows in (1, 3, 5, 17):
        batch = random_pairs(trained.encode, rows)
        answers = answer({name: batch[name] for name in INPUTS})
        own = jax.device_get(trained.predict_step(trained.params, batch))
        assert {kind: set(own[kind]) for kind in answers} == {k: set(v) for k, v in answers.items()}
        assert largest_difference(answers, {kind: own[kind] for kind in answers}) < 1e-5


def test_the_example_needs_neither_jax_nor_scipy(exported, finished_run, tmp_path):
    picture, words = tmp_path / "photo.png", "a red mug's handle"
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    Image.fromarray(pixels).save(picture)
    said = ask(exported, picture, words, blocked=(*BLOCKED, *NOT_NEEDED))
    for name, answer in cma.load(finished_run).predict([str(picture)], [words])[0].items():
        many = isinstance(answer.label, tuple)
        labels = answer.label if many else (answer.label,)
        assert said[name].startswith(labels[0] if labels else "none")
    folder = shutil.copytree(exported, tmp_path / "with-thresholds")
    task = next(task for task in read_tasks(folder / "tasks.json") if task.name == "colour")
    sure = np.eye(len(task.classes), dtype=np.float32)
    chosen = calibrate(task, sure, np.arange(len(sure)), 0.9)
    write_thresholds(folder / "thresholds.json", [chosen])
    shutil.copy(temperature.__file__, folder)
    said = ask(folder, picture, words, blocked=(*BLOCKED, *NOT_NEEDED))
    assert "held back" in said["colour"] or "accepted" in said["colour"]


def test_an_export_in_onnx_is_checked(exported, capsys):
    about = json.loads((exported / "export.json").read_text())
    assert (about["format"], about["compute_dtype"]) == ("onnx", "float32")
    assert "promised_until" not in about
    capsys.readouterr()
    assert main(["export", f"--check={exported}"]) == 0
    assert "from the answers of the run" in capsys.readouterr().out


def test_a_model_that_is_too_large_for_one_file_has_its_constants_beside_it(
    finished_run, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(export_formats, "ONE_FILE", 0)
    write_export(variant(finished_run), tmp_path / "out", Onnx())
    assert (tmp_path / "out/model.onnx.data").stat().st_size > 1e5
    (tmp_path / "out/model.onnx.data").unlink()
    assert "cannot be opened" in mistake(capsys, "export", f"--check={tmp_path / 'out'}")
    flags = [f"--workdir={finished_run}", f"--output={tmp_path / 'in'}", "--format=onnx"]
    assert "computes in float32" in mistake(
        capsys, "export", *flags, "--config.model.dtype=bfloat16"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"model.inputs": "image", "model.remat": "full"},
        {"model.inputs": "text", "model.modality": "concat"},
        {"model.modality": "gated", "model.sequence_layers": 0},
        {"train.objective": "contrastive"},
        {"train.objective": "sigmoid", "model.inputs": "image"},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_every_kind_of_run_is_exported(finished_run, tmp_path, changes):
    about = write_export(variant(finished_run, **changes), tmp_path / "out", Onnx())
    assert about["parity"]["largest_difference"] <= 1e-5
