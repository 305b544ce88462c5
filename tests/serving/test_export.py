"""A run exported: without flax and without this project, the same numbers."""

import csv
import dataclasses
import datetime
import json
import shutil
import sys

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file
from support.commands import mistake
from support.exports import BLOCKED, alone, ask, variant

import cmaclip_jax as cma
from cmaclip_jax.commands.export import PLATFORMS
from cmaclip_jax.data.images import LONG, clip_image
from cmaclip_jax.data.text import Tokenizer
from cmaclip_jax.errors import UserError
from cmaclip_jax.evaluation.threshold_choice import calibrate
from cmaclip_jax.evaluation.thresholds import read_thresholds, write_thresholds
from cmaclip_jax.main import main
from cmaclip_jax.parallel.mesh import batch_sharding, to_device
from cmaclip_jax.runs.trained import open_trained
from cmaclip_jax.serving import example, export_formats
from cmaclip_jax.serving import export as exporting
from cmaclip_jax.serving.export_formats import StableHLO
from cmaclip_jax.tasks import Task
from cmaclip_jax.training.workdir import saved_config

CALL = """
import numpy as np, jax
from jax import export
from safetensors.numpy import load_file
module = export.deserialize(bytearray(open("model.stablehlo", "rb").read()))
parameters = load_file("parameters.safetensors")
batches = np.load("batches.npz")
answers = {}
for rows in ROWS:
    batch = {name.split("/")[1]: x for name, x in batches.items() if name.startswith(f"{rows}/")}
    for kind, tasks in jax.jit(module.call)(parameters, batch).items():
        answers |= {f"{rows}/{kind}/{task}": np.asarray(x) for task, x in tasks.items()}
np.savez("answers.npz", **answers)
print(*module.platforms, module.in_avals[-1].shape[0])
"""
ROWS = (1, 3, 5, 17)


@pytest.fixture(scope="module")
def exported(finished_run, tmp_path_factory):
    """The finished run, exported by the command."""
    folder = tmp_path_factory.mktemp("exports") / "new" / "exported"
    assert main(["export", f"--workdir={finished_run}", f"--output={folder}"]) == 0
    return folder


@pytest.fixture(scope="module")
def trained(finished_run):
    return open_trained(finished_run, saved_config(finished_run), devices=jax.devices()[:1])


def test_without_this_project_the_numbers_are_the_runs_own(exported, trained):
    own, batches = {}, {}
    for rows in ROWS:
        batch = exporting.random_pairs(trained.encode, rows)
        batches |= {f"{rows}/{name}": batch[name] for name in exporting.INPUTS}
        sharded = to_device(batch, batch_sharding(trained.mesh))
        outcome = trained.predict_step(trained.params, sharded)
        for kind in ("probabilities", "modality_weights"):
            own |= {f"{rows}/{kind}/{task}": x for task, x in outcome[kind].items()}
    assert not batches["17/has_image"].all()
    assert not batches["17/has_text"].all()
    np.savez(exported / "batches.npz", **batches)
    assert alone(f"ROWS = {ROWS}" + CALL, exported).split() == [*PLATFORMS, "b"]
    with np.load(exported / "answers.npz") as answers:
        assert answers.keys() == own.keys()
        for name, told in answers.items():
            assert told.dtype == np.float32
            np.testing.assert_allclose(told, own[name], rtol=0, atol=1e-6, err_msg=name)
    for name in ("batches.npz", "answers.npz"):
        (exported / name).unlink()


def test_the_folder_says_what_it_is(exported, trained, finished_run):
    about = json.loads((exported / "export.json").read_text())
    assert about["inputs"]["image"] == {"shape": ["b", 48, 48, 3], "dtype": "uint8"}
    assert about["inputs"]["tokens"] == {"shape": ["b", 16], "dtype": "int32"}
    assert about["inputs"].keys() == set(exporting.INPUTS)
    contents = about["outputs"]["probabilities"]["contents"]
    classes = next(task.classes for task in trained.tasks if task.name == "contents")
    assert contents == {"shape": ["b", len(classes)], "dtype": "float32"}
    assert about["outputs"]["modality_weights"]["colour"]["shape"] == ["b", 2]
    assert about["step"] == trained.step == 12
    assert about["platforms"] == list(PLATFORMS)
    assert about["compute_dtype"] == "float32"
    assert 0 <= about["parity"]["largest_difference"] <= 1e-6
    for name in ("tasks.json", "tokenizer.json"):
        assert (exported / name).read_bytes() == (finished_run / name).read_bytes()
    assert not (exported / "thresholds.json").exists()  # this run has none


def test_the_example_answers_as_the_run_does(exported, finished_run, tmp_path):
    picture, words = (
        tmp_path / "photo.jpg",
        "a  red mug &amp; two “caf\N{COMBINING ACUTE ACCENT}és”",
    )
    noise = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(noise).resize((131, 97)).save(picture, exif=turned)
    model = cma.load(finished_run)
    with_ftfy = tuple(name for name in BLOCKED if name != "ftfy")
    for image, text, blocked in [(picture, "a red mug", BLOCKED), (picture, words, with_ftfy)]:
        said = ask(exported, image, text, blocked=blocked)
        for name, answer in model.predict([str(image)], [text])[0].items():
            many = isinstance(answer.label, tuple)
            labels = answer.label if many else (answer.label,)
            numbers = answer.probability if many else (answer.probability,)
            told = ", ".join(f"{c} {p:.6f}" for c, p in zip(labels, numbers, strict=True))
            label, _, rest = said[name].partition(" (picture ")
            assert float(rest.rstrip(")")) == pytest.approx(answer.weights["image"], abs=0.006)
            assert close(label, told or "none"), (said[name], told)
    assert set(ask(exported, "", " ").values()) == {""}  # nothing to look at, no answer


def close(one: str, other: str, most: float = 2e-6) -> bool:
    """Whether two lines have the same words, and numbers at most so far apart."""
    for x, y in zip(one.replace(",", "").split(), other.replace(",", "").split(), strict=True):
        if x != y and not abs(float(x) - float(y)) <= most:
            return False
    return True


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("per_class", [False, True])
def test_the_example_accepts_what_the_run_accepts(many, per_class, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(exporting.SCALING.parent)
    task, random = Task("some", tuple("abcdefghi"), many), np.random.default_rng(many)
    said = random.dirichlet(np.full(9, 0.2), 5_000).astype(np.float32)
    said[:9], said[9:18] = np.eye(9), 1 - np.eye(9)
    right = random.random(said.shape) < (said if many else said.max(axis=1, keepdims=True))
    labels = right.astype(int) if many else np.where(right[:, 0], said.argmax(axis=1), 0)
    write_thresholds(
        tmp_path / "thresholds.json", [calibrate(task, said, labels, 0.8, per_class=per_class)]
    )
    own = read_thresholds(tmp_path / "thresholds.json")["some"]
    (row,) = json.loads((tmp_path / "thresholds.json").read_text())["thresholds"]
    scaled, accepted = own.scaled(said), own.accepts(said)
    assert scaled.dtype == np.float32
    assert 0 < accepted.sum() < accepted.size
    for number, one in enumerate(said):
        told, stands = example.judge(one, row)
        np.testing.assert_array_equal(told, scaled[number])
        stands = stands if many else stands[one.argmax()]
        np.testing.assert_array_equal(stands, accepted[number])


def test_an_export_with_thresholds_accepts_what_predict_accepts(
    exported, finished_run, catalogue, tmp_path, monkeypatch, capsys
):
    run, folder = tmp_path / "run", tmp_path / "exported"
    shutil.copytree(finished_run, run)
    shutil.copytree(exported, folder)
    assert main(["evaluate", f"--workdir={run}", "--precision=0.3"]) == 0
    shutil.copyfile(run / "thresholds.json", folder / "thresholds.json")
    with catalogue.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["picture"] and row["title"]][:6]
    images = [str(catalogue.parent / row["picture"]) for row in rows]
    titles = [row["title"] for row in rows]
    shutil.copy(exporting.SCALING, folder)
    monkeypatch.setattr(example, "FOLDER", folder)
    monkeypatch.syspath_prepend(folder)
    for image, title, answers in zip(
        images, titles, cma.load(run).predict(images, titles), strict=True
    ):
        capsys.readouterr()
        example.main(image, title)
        said = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
        for name, answer in answers.items():
            told, many = said[name].rpartition(" (")[0], isinstance(answer.label, tuple)
            labels = answer.label if many else [answer.label]
            stands = answer.accepted if many else [answer.accepted]
            numbers = answer.probability if many else [answer.probability]
            expected = [
                f"{label} {number:.6f} {'accepted' if stand else 'held back'}"
                for label, number, stand in zip(labels, numbers, stands, strict=True)
            ]
            assert close(told, ", ".join(expected) or "none", 2e-5)


@pytest.mark.parametrize("shape", [(97, 131), (48, 48), (64, 48), (1000, 90), (20, 31)])
def test_the_example_sees_pictures_as_the_run_does(shape, tmp_path):
    for name, kind, most in [("a.png", np.uint8, 256), ("grey.png", np.uint16, 65536)]:
        random = np.random.default_rng(1)
        pixels = random.integers(0, most, (*shape, 3) if most == 256 else shape)
        Image.fromarray(pixels.astype(kind)).save(tmp_path / name)
        path = str(tmp_path / name)
        told, expected = (x.astype(int) for x in (example.prepare(path, 48), clip_image(path, 48)))
        # So long a picture the run never resizes whole, which is the same but for rounding.
        assert np.abs(told - expected).max() <= (max(shape) > LONG * min(shape))


def test_the_example_reads_words_as_the_run_does(exported, monkeypatch):
    monkeypatch.setattr(example, "FOLDER", exported)
    monkeypatch.syspath_prepend(exported)
    about = json.loads((exported / "export.json").read_text())
    tokenizer = Tokenizer.load(exported / "tokenizer.json")
    for words in ("a red mug", "", "  RED\tmug\n", "many words " * 20, "caf&amp;eacute; “née”"):
        expected = tokenizer([words], about["text_length"])[0]
        np.testing.assert_array_equal(example.tokenize(words, about), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"model.inputs": "image", "model.remat": "full"},
        {"model.inputs": "text", "model.modality": "concat"},
        {"train.objective": "contrastive"},
        {"train.objective": "sigmoid", "model.inputs": "image"},
        {"model.dtype": "bfloat16", "model.sequence_layers": 0},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_every_kind_of_run_is_exported(finished_run, tmp_path, changes):
    trained = variant(finished_run, **changes)
    about = exporting.write_export(trained, tmp_path / "out", StableHLO(PLATFORMS))
    assert about["platforms"] == list(PLATFORMS)
    assert about["compute_dtype"] == changes.get("model.dtype", "float32")
    farthest = StableHLO.allowed["bfloat16"] if "model.dtype" in changes else 1e-6
    assert about["parity"]["largest_difference"] <= farthest


@pytest.mark.slow
def test_what_answers_differently_is_not_left(trained, tmp_path, monkeypatch):
    save = export_formats.save_tensors

    def save_worse(file, tensors):
        name = "head_colour/logits/bias"
        save(
            file, {**tensors, name: tensors[name] + np.eye(len(tensors[name]), dtype=np.float32)[0]}
        )

    monkeypatch.setattr(export_formats, "save_tensors", save_worse)
    with pytest.raises(UserError, match=r"would differ from the run's by 0\.\d+, more than 1e-05"):
        exporting.write_export(trained, tmp_path / "out", StableHLO(["cpu"]))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_with_thresholds_takes_them_along(trained, tmp_path, finished_run):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("tasks.json", "tokenizer.json"):
        (run / name).write_bytes((finished_run / name).read_bytes())
    task, said = trained.tasks[0], np.eye(len(trained.tasks[0].classes), dtype=np.float32)
    chosen = calibrate(task, said, np.arange(len(said)), 0.5)
    (tmp_path / "out").mkdir()  # an empty folder may be there
    moved = dataclasses.replace(trained, workdir=run)
    write_thresholds(run / "thresholds.json", [dataclasses.replace(chosen, step=11)])
    with pytest.raises(UserError, match=r"of step 11, and this is step 12; choose anew"):
        exporting.write_export(moved, tmp_path / "out", StableHLO(["cpu"]))
    write_thresholds(run / "thresholds.json", [dataclasses.replace(chosen, step=12)])
    about = exporting.write_export(moved, tmp_path / "out", StableHLO(["cpu"]))
    assert about["platforms"] == ["cpu"]
    written = (tmp_path / "out" / "thresholds.json").read_text()
    assert written == (run / "thresholds.json").read_text()


def test_mistakes_end_in_one_line(finished_run, exported, tmp_path, capsys, monkeypatch):
    command = ["export", f"--workdir={finished_run}", f"--output={tmp_path}/out"]
    assert "unknown platform 'gpu'; --platforms takes cpu, cuda, tpu" in mistake(
        capsys, *command, "--platforms=cpu,gpu"
    )
    assert "unknown platform ''" in mistake(capsys, *command, "--platforms=")
    assert "unknown format 'tflite'; --format takes stablehlo or onnx" in mistake(
        capsys, *command, "--format=tflite"
    )
    in_onnx = (*command, "--format=onnx")
    assert "is for StableHLO" in mistake(capsys, *in_onnx, "--platforms=cpu")
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    assert "pip install 'cmaclip_jax[onnx]'" in mistake(capsys, *in_onnx)
    assert "add cpu to --platforms" in mistake(capsys, *command, "--platforms=tpu")
    assert "is there already" in mistake(capsys, *command, f"--output={exported}")
    assert "is no run" in mistake(capsys, *command, f"--workdir={tmp_path}")
    assert "did you mean --config.model.dtype?" in mistake(
        capsys, *command, "--config.model.dtpe=float32"
    )
    assert not list(tmp_path.iterdir())


@pytest.fixture
def copied(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "copy")


def test_an_export_is_checked_long_after(copied, capsys):
    capsys.readouterr()
    assert main(["export", f"--check={copied}"]) == 0
    said = capsys.readouterr().out
    about = json.loads((copied / "export.json").read_text())
    days = [datetime.date.fromisoformat(about[name]) for name in ("written", "promised_until")]
    assert days[1] - days[0] == datetime.timedelta(days=180)
    assert f"by JAX {jax.__version__}" in said
    assert f"until {days[1]}" in said


def test_a_check_finds_what_is_missing_damaged_or_different(copied, capsys):
    def said(*changes):
        for name, content in changes:
            (copied / name).write_bytes(content)
        return mistake(capsys, "export", f"--check={copied}")

    kept = {path.name: path.read_bytes() for path in copied.iterdir()}
    program = kept["model.stablehlo"]
    assert "cannot be opened" in said(("model.stablehlo", program[:100]))
    (copied / "model.stablehlo").unlink()
    assert "has no model.stablehlo" in said()
    assert "export.json cannot be read" in said(("model.stablehlo", program), ("export.json", b"{"))
    parameters = load_file(copied / "parameters.safetensors")
    name = next(name for name in parameters if "head_colour/logits/bias" in name)
    save_file(
        parameters | {name: parameters[name] + 1e-2 * np.arange(8, dtype=np.float32)},
        copied / "parameters.safetensors",
    )
    assert "answers otherwise" in said(("export.json", kept["export.json"]))
    del parameters[name]
    save_file(parameters, copied / "parameters.safetensors")
    assert "does not run" in said()
    assert "--check" in mistake(capsys, "export")
