"""Annotators whose noise is known: the command that fits it, and training under what it found."""

import json

import numpy as np
import pytest
from test_main import mistake

from cmaclip_jax.landmarks import annotation_noise
from cmaclip_jax.landmarks.contour import out_of_frame, tangents
from cmaclip_jax.landmarks.faces import Faces as Drawn
from cmaclip_jax.landmarks.layouts import IBUG_68, LAYOUTS
from cmaclip_jax.landmarks.metrics import face_sizes
from cmaclip_jax.landmarks.noise_summary import parts_of
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
    truth = 200 * drawn_faces(Drawn(3, 32), 0, FACES).points
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
