"""Annotators whose noise is known: the command that fits it, and training under what it found."""

import json

import numpy as np
import pytest
from support.commands import mistake
from support.landmarks import CONFIG, arguments

from cmaclip_jax.config_arguments import read_config
from cmaclip_jax.landmarks import annotating, annotation_noise, study
from cmaclip_jax.landmarks.config import landmark_config
from cmaclip_jax.landmarks.contour import into_frame, out_of_frame, tangents
from cmaclip_jax.landmarks.face_generator import FaceGenerator
from cmaclip_jax.landmarks.layouts import IBUG_68, LAYOUTS
from cmaclip_jax.landmarks.metrics import face_sizes
from cmaclip_jax.landmarks.noise_report import parts_of
from cmaclip_jax.landmarks.pictures import drawn_faces
from cmaclip_jax.main import main

FACES = 80
# Deviations along and across the contour, as shares of the eye distance.
SPREADS = {
    "jaw": (0.012, 0.006),
    "brows": (0.010, 0.005),
    "nose": (0.005, 0.004),
    "eyes": (0.003, 0.002),
    "lips": (0.006, 0.003),
}
BIASES = ((0.004, 0.0), (-0.001, 0.003), (-0.003, -0.003))  # of three, their mean is zero


def deviations():
    """Of every point: [68,2]."""
    found = np.zeros((68, 2))
    for name, points in parts_of(IBUG_68, 68).items():
        found[list(points)] = SPREADS[name]
    return found


def annotated(seed=0):
    """What the three make of the same faces, in pixels: [3,N,68,2]."""
    truth = 200 * drawn_faces(FaceGenerator(3, 32), 0, FACES).points
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 1, (3, *truth.shape)) * deviations()
    noise += np.array(BIASES)[:, None, None]
    size = face_sizes(truth, IBUG_68)[:, None, None]
    return truth + out_of_frame(noise, tangents(truth, IBUG_68)) * size


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file an annotator."""
    folder = tmp_path_factory.mktemp("annotators")
    paths = [folder / f"{name}.npz" for name in ("ann", "ben", "cem")]
    for path, points in zip(paths, annotated(), strict=True):
        np.savez(path, points=points)
    return paths


def command(paths, **options):
    named = [f"--{name}={value}" for name, value in options.items()]
    return ["landmarks", "noise", *(f"--annotations={path}" for path in paths), *named]


def test_every_point_belongs_to_one_part():
    for layout in LAYOUTS:
        points = [point for part in parts_of(layout, layout.count).values() for point in part]
        assert sorted(points) == list(range(layout.count))
        for part in parts_of(layout, layout.count).values():
            assert {layout.mirrored[point] for point in part} == set(part)
    assert list(parts_of(None, 5)["all"]) == [0, 1, 2, 3, 4]


def test_the_command_recovers_what_annotators_do(files, tmp_path, capsys):
    wanted = command(files, output=tmp_path / "found.json")
    assert main([*wanted, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["faces"], found["points"], found["family"]) == (FACES, 68, "gaussian")
    assert found["gain"] < 2 * found["gain_error"]
    assert [row["part"] for row in found["parts"]] == list(SPREADS)
    inside = 0
    for row in found["parts"]:
        for axis, true in zip(("along", "across"), SPREADS[row["part"]], strict=True):
            assert row[axis]["deviation"] == pytest.approx(true, rel=0.1)
            assert row[axis]["high"] < 1.3 * row[axis]["low"]
            inside += row[axis]["low"] < true < row[axis]["high"]
        assert row["normality_rejected"] < 0.35
    assert inside >= 8  # of 10
    for row, path, bias in zip(found["annotators"], files, BIASES, strict=True):
        assert row["annotations"] == str(path)
        assert (row["along"], row["across"]) == pytest.approx(bias, abs=4e-4)
        assert row["length"] == pytest.approx(np.hypot(*bias), rel=0.15)
    model = annotation_noise.load(tmp_path / "found.json")
    np.testing.assert_allclose(model.deviations, deviations(), rtol=0.3)
    assert main(wanted) == 0
    shown = capsys.readouterr().out
    jaw = found["parts"][0]["along"]
    cell = "{:.2f} ({:.2f} to {:.2f})".format(*(100 * value for value in jaw.values()))
    assert cell in next(line for line in shown.splitlines() if line.startswith("jaw"))
    assert f"{found['gain']:.2f} ± {found['gain_error']:.2f}" in shown
    assert "+0.40" in shown


def test_annotators_who_did_not_mark_the_same_are_refused(files, tmp_path, capsys):
    points = np.load(files[0])["points"]
    fewer, other = tmp_path / "fewer.npz", tmp_path / "other.npz"
    np.savez(fewer, points=points[1:])
    np.savez(other, points=points[:, :29])
    output = tmp_path / "found.json"
    for paths, said in (
        (files[:1], "with a second --annotations=FILE"),
        ((files[0], fewer), f"have 80 frames and those of {fewer} 79; give the same frames"),
        ((files[0], other), f"have 68 points and those of {other} 29; give both in one layout"),
        ((files[0], files[0]), "give every annotator's own points"),
        ((files[0], tmp_path / "none.npz"), "none.npz is not there"),
    ):
        assert said in mistake(capsys, *command(paths, output=output))
    lost = tmp_path / "none/found.json"
    assert "in a folder that is there" in mistake(capsys, *command(files, output=lost))
    assert not output.exists()


@pytest.fixture(scope="module")
def fitted(files, tmp_path_factory):
    """The file of their noise."""
    path = tmp_path_factory.mktemp("fitted") / "noise.json"
    assert main(command(files, output=path)) == 0
    return path


def config_of(path, **fields):
    config = landmark_config()
    config.landmarks.update({"noise": "fitted", "noise_model": str(path), **fields})
    return config


def framed(marks, truth):
    """Displacements as (along, across), shares of the eye distance: [N,68,2]."""
    size = face_sizes(truth, IBUG_68)[:, None, None]
    return into_frame((marks - truth) / size, tangents(truth, IBUG_68))


def test_simulated_annotators_err_as_the_real_ones_do(fitted):
    truth = drawn_faces(FaceGenerator(4, 32), 0, 300).points
    model = annotation_noise.load(fitted)
    marks = annotating.fitted_marks(truth, model, 5, seed=1)
    away = np.stack([framed(own, truth) for own in marks])  # [5,N,68,2]
    spread = np.sqrt(np.stack([own.var(0) for own in away]).mean(0))
    np.testing.assert_allclose(spread, model.deviations, rtol=0.12)
    np.testing.assert_allclose(away.mean(1).mean(1)[[0, 3]], [BIASES[0]] * 2, atol=5e-4)
    np.testing.assert_allclose(away.mean(1).mean(1)[[1, 4]], [BIASES[1]] * 2, atol=5e-4)
    alike = np.corrcoef(away[0].ravel(), away[3].ravel())[0, 1]  # the same biases, other draws
    assert alike < 0.4
    np.testing.assert_array_equal(marks[:2], annotating.fitted_marks(truth, model, 2, seed=1))
    assert not np.allclose(marks, annotating.fitted_marks(truth, model, 5, seed=2))


def test_training_is_told_the_points_under_the_fitted_noise(fitted):
    train = drawn_faces(FaceGenerator(4, 32), 0, 60)
    marks = annotating.fitted_marks(train.points, annotation_noise.load(fitted), 3, seed=0)
    told = study.annotated_points(config_of(fitted), train)
    who = [(own == told).all((1, 2)) for own in marks]  # [3,N]
    assert np.sum(who, axis=0).tolist() == [1] * 60  # a face is marked by one of them
    assert min(own.sum() for own in who) > 5
    mean = study.annotated_points(config_of(fitted, relabel="averaged"), train)
    np.testing.assert_allclose(mean, marks.mean(0))
    unseen = train.points.copy()
    unseen[0, 36] = np.nan  # an eye corner: the size is that of the other faces
    told = study.annotated_points(config_of(fitted), train.with_points(unseen))
    np.testing.assert_array_equal(np.isnan(told), np.isnan(unseen))


def small_study(path, **changes):
    """Arguments of a study that has the fitted noise."""
    fields = {"noises": "('bias','fitted')", "remedies": "('averaged:fitted',)"} | changes
    fields = {f"landmarks__study__{name}": value for name, value in fields.items()}
    return arguments(**fields, landmarks__noise_model=path)


def test_a_study_has_the_fitted_noise_once_and_as_strong_as_it_is(fitted, tmp_path):
    config = read_config(small_study(fitted, strengths="(0.1,0.2)"))
    runs = study.runs_of(config, tmp_path)
    names = [run.arm.name for run in runs if run.arm.noise == "fitted" and run.seed == 0]
    assert names == ["fitted-plain-8", "fitted-averaged-8", "fitted-plain-12"]
    for run in runs:  # what has nothing to do with it does not change with it
        assert ("noise_model" in run.config.landmarks) == (run.arm.noise == "fitted")
    own = next(run for run in runs if run.arm.noise == "fitted").config.landmarks
    assert (own.noise, own.noise_model) == ("fitted", str(fitted))


@pytest.mark.slow
def test_a_study_trains_under_the_fitted_noise(fitted, tmp_path, capsys):
    small = small_study(fitted, noises="('fitted',)", more_faces="()", seeds=1)
    assert main(["landmarks", "study", *small, f"--workdir={tmp_path}"]) == 0
    rows = {row["noise"]: row for row in json.loads((tmp_path / "study.json").read_text())}
    assert rows["fitted"]["nme"]["mean"] > 0
    assert "| fitted | 8 | averaged |" in (tmp_path / "study.md").read_text()
    said = capsys.readouterr().err
    assert "what fitted adds to the error" in said


def test_a_study_without_its_noise_trains_nothing(fitted, tmp_path, capsys):
    fields = json.loads(fitted.read_text())
    short = tmp_path / "short.json"
    names = ("deviations", "intervals", "correlation", "freedom", "biases", "normality")
    short.write_text(json.dumps(fields | {name: fields[name][:29] for name in names}))
    for path, said in (
        ("", "the noise 'fitted' needs --config.landmarks.noise_model=FILE.json"),
        (tmp_path / "none.json", "none.json; give --config.landmarks.noise_model"),
        (short, "the noise is of 29 points and the faces have 68"),
        (CONFIG.partition("=")[2], "is no saved model of annotation noise"),
    ):
        wanted = [*small_study(path), f"--workdir={tmp_path / 'study'}"]
        assert said in mistake(capsys, "landmarks", "study", *wanted)
        assert not (tmp_path / "study").exists()
