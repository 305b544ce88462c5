"""Landmarks in files of every kind, and the command that measures their stability."""

import json
import subprocess
import sys

import h5py
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from support.landmarks import pts

from cmaclip_jax import main
from cmaclip_jax.errors import UserError
from cmaclip_jax.landmarks import metrics
from cmaclip_jax.landmarks.layouts import COFW_29, IBUG_68
from cmaclip_jax.landmarks.stability import judge
from cmaclip_jax.landmarks.tracks import Track, read_points


def points_of(frames, count, seed=0):
    return np.random.default_rng(seed).uniform(1, 200, (frames, count, 2)).round(3)


def wide(points, names, head):
    """A table with a row a frame."""
    rows = [[str(name), *map(str, face.ravel())] for name, face in zip(names, points, strict=True)]
    return "\n".join(",".join(row) for row in [["frame", *head], *rows]) + "\n"


def heads(count, pattern="{axis}{point}"):
    return [pattern.format(axis=axis, point=point) for point in range(count) for axis in "xy"]


def test_a_folder_of_pts_files_is_a_track_in_natural_order(tmp_path):
    points = points_of(3, 68)
    for name, face in zip(("frame10", "frame2", "frame1"), points, strict=True):
        (tmp_path / f"{name}.pts").write_text(pts(face))
    (tmp_path / "frame1.jpg").write_bytes(b"")
    track = read_points(tmp_path)
    assert track.names == ("frame1", "frame2", "frame10")
    np.testing.assert_array_equal(track.points, points[::-1])
    assert (track.missing_frames, track.missing_points) == (0, 0)
    assert track.layout is IBUG_68
    alone = read_points(tmp_path / "frame2.pts")
    np.testing.assert_array_equal(alone.points, points[1:2])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("n_points:  5", "n_points:  6"), "says 6, but 5 points follow"),
        (lambda text: text.replace("}", ""), "between one { and one }"),
        (lambda text: text.replace("n_points:  5", "n_points: five"), "line 2: n_points"),
        (lambda text: text.replace("{\n", "{\n1 2 3\n"), "line 4: '1 2 3' should be two numbers"),
        (lambda text: text.replace("{\n", "{\n\n1 x\n"), "line 5: '1 x' should be two numbers"),
    ],
)
def test_a_malformed_pts_file_is_named_with_its_line(tmp_path, change, said):
    path = tmp_path / "face.pts"
    path.write_text(change(pts(points_of(1, 5)[0])))
    with pytest.raises(UserError) as error:
        read_points(path)
    assert said in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("pattern", ["{axis}{point}", "{axis}_{point}", "P{point}{axis}"])
def test_a_wide_table_has_a_row_a_frame_and_zero_is_missing(tmp_path, pattern):
    points = points_of(11, 12)
    points[3, 4], points[5] = 0, 0  # as in MUCT: not to be seen
    points[6, 1, 0] = 0  # on the picture's edge, and there
    path = tmp_path / "track.csv"
    path.write_text(wide(points, range(11), heads(12, pattern)), encoding="utf-8-sig")
    track = read_points(path)
    assert track.names == tuple(map(str, range(11)))  # 10 comes last
    expected = points.copy()
    expected[3, 4], expected[5] = np.nan, np.nan
    np.testing.assert_array_equal(track.points, expected)
    np.testing.assert_array_equal(track.valid, np.arange(11) != 5)
    assert (track.missing_frames, track.missing_points) == (1, 1)


def test_a_table_as_of_openface_keeps_x_before_y_and_more_beside(tmp_path):
    points = points_of(2, 68)
    columns = [f" x_{point}" for point in range(68)] + [f" y_{point}" for point in range(68)]
    head = ["frame", " face_id", " confidence", " X_0", *columns]
    rows = [
        [str(number), "0", "0.98", "-7", *map(str, face[:, 0]), *map(str, face[:, 1])]
        for number, face in enumerate(points)
    ]
    path = tmp_path / "openface.csv"
    path.write_text("\n".join(", ".join(row) for row in [head, *rows]))
    np.testing.assert_array_equal(read_points(path).points, points)


def test_a_long_table_has_a_row_a_point(tmp_path):
    points = points_of(3, 11)
    rows = [
        f"{frame}\t{point + 1}\t{x}\t{y}"
        for frame, face in zip(("b10", "b9", "a"), points, strict=True)
        for point, (x, y) in enumerate(face)
        if (frame, point) != ("b9", 7)
    ]
    path = tmp_path / "track.tsv"
    path.write_text("\n".join(["frame\tpoint\tx\ty", *rows[::-1]]))
    track = read_points(path)
    assert track.names == ("a", "b9", "b10")
    expected = points[::-1].copy()
    expected[1, 7] = np.nan
    np.testing.assert_array_equal(track.points, expected)
    assert track.missing_points == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("frame,x0,y0\n1,2\n", "line 2: it has 2 cells and the first line 3"),
        ("frame,x0,y0\n1,2,b\n", "line 2: 'b' should be a number"),
        ("frame,x0,y0,x1\n1,2,3,4\n", "point 1 has no column x or no column y"),
        ("1,2,3\n4,5,6\n", "its first line names no points"),
        ("frame,x0,y0\n1,2,3\n1,2,3\n", "line 3: frame 1 occurs twice"),
        ("frame,point,x,y\n1,0,2,3\n1,0,2,3\n", "line 3: frame 1 has point 0 already"),
        ("frame,x0,y0\n", "holds no frames"),
    ],
)
def test_a_table_that_cannot_be_meant_says_why(tmp_path, text, said):
    path = tmp_path / "track.csv"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_points(path)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_arrays_of_numpy(tmp_path):
    points = points_of(4, 98)
    points[1, 2] = np.nan
    np.savez(tmp_path / "a.npz", points=points, other=points, valid=np.array([1, 1, 0, 1]))
    track = read_points(tmp_path / "a.npz")
    np.testing.assert_array_equal(track.points[[0, 1, 3]], points[[0, 1, 3]])
    np.testing.assert_array_equal(track.valid, [True, True, False, True])
    assert (track.missing_frames, track.missing_points) == (1, 1)
    np.savez(tmp_path / "b.npz", landmarks=points, names=np.arange(4))
    np.testing.assert_array_equal(read_points(tmp_path / "b.npz").points, points)


def test_arrays_that_are_not_points_are_refused_and_nothing_is_unpickled(tmp_path):
    path = tmp_path / "a.npz"
    for arrays, said in (
        ({"points": np.array([{"a": 1}], object)}, "plain arrays"),
        ({"points": np.zeros((3, 68, 3))}, r"should be numbers of shape"),
        ({"a": np.zeros((3, 68, 2)), "b": np.zeros((3, 68, 2))}, "it has a, b"),
        ({"points": np.zeros((3, 68, 2)), "valid": np.ones(2)}, "one value a frame, 3 in all"),
    ):
        np.savez(path, **arrays)
        with pytest.raises(UserError, match=said):
            read_points(path)
    path.write_bytes(b"no archive")
    with pytest.raises(UserError, match="plain arrays"):
        read_points(path)


def test_a_folder_of_300w_lp(tmp_path):
    points = points_of(3, 68)
    for name, face in zip(("a_2", "a_10", "a_1"), points, strict=True):
        savemat(tmp_path / f"{name}.mat", {"pt2d": face.T, "Pose_Para": np.zeros((1, 7))})
    track = read_points(tmp_path)
    assert track.names == ("a_1", "a_2", "a_10")
    np.testing.assert_array_equal(track.points, points[[2, 0, 1]])


def save_matlab(path, version, **arrays):
    """A .mat file of that version, as MATLAB writes it."""
    if version == "5":
        savemat(path, arrays)
        return
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            if isinstance(array, str):  # MATLAB stores its characters as numbers
                array = np.array([list(map(ord, array))], np.uint16)
                file[name] = array.T
                file[name].attrs["MATLAB_class"] = np.bytes_("char")
            else:
                file[name] = array.T  # columns first


VERSIONS = pytest.mark.parametrize("version", ["5", "7.3"])


@pytest.mark.parametrize("name", ["phisTr", "phisT", "phis"])
@VERSIONS
def test_cofw(tmp_path, name, version):
    points = points_of(12, 29)
    hidden = np.zeros((12, 29))
    hidden[0, 3] = 1
    matrix = np.concatenate([points[..., 0], points[..., 1], hidden], axis=1)  # [faces, 87]
    path = tmp_path / "COFW.mat"
    save_matlab(path, version, **{name: matrix, "points": points_of(3, 5)})
    track = read_points(path)
    np.testing.assert_array_equal(track.points, points)
    assert track.layout is COFW_29
    assert not track.named


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 1, 0), (1, 2, 0)], ids=["FP2", "2PF", "P2F"])
@pytest.mark.parametrize("name", ["anything", "pt2d", "phis"])
@VERSIONS
def test_matlab_points_in_any_usual_order_under_any_name(tmp_path, version, name, axes):
    path, beside = (
        tmp_path / "track.mat",
        {"fps": np.array([[25.0]]), "code": "ab", "points": np.array([[68.0]])},
    )
    beside["size"] = np.array([[640.0, 480.0]])
    for frames, count in ((7, 68), (3, 5), (70, 68), (1, 68)):
        points = points_of(frames, count)
        save_matlab(path, version, **{name: points.transpose(axes)}, **beside)
        np.testing.assert_array_equal(read_points(path).points, points)
    # MATLAB drops a last axis of one: this is [2, points, 1] there, or [points, 2, 1].
    if axes[-1] == 0:
        save_matlab(path, version, **{name: points.transpose(axes)[..., 0]}, **beside)
        if name == "phis":
            return  # rows of all x, all y and all flags
        track = read_points(path)
        np.testing.assert_array_equal(track.points, points)
        assert track.names == ("track",)


@pytest.mark.parametrize("shape", [(2, 68, 2), (68, 2, 2), (2, 2, 9), (300, 2, 68), (68, 300, 2)])
def test_a_matlab_array_that_could_be_two_things_is_never_guessed(tmp_path, shape):
    path = tmp_path / "track.mat"
    savemat(path, {"points": np.ones(shape)})
    with pytest.raises(UserError, match=r"could be meant in several ways; write .* a \.npz"):
        read_points(path)


def test_a_matlab_file_with_several_arrays_of_points(tmp_path):
    path, points = tmp_path / "track.mat", points_of(4, 68)
    savemat(path, {"left": points, "right": points + 1})
    with pytest.raises(UserError, match=r"left, right.*call the one that counts 'points'"):
        read_points(path)
    savemat(path, {"left": points + 1, "points": points})
    np.testing.assert_array_equal(read_points(path).points, points)


def test_matlab_files_that_hold_something_else(tmp_path):
    path = tmp_path / "a.mat"
    savemat(path, {"faces": np.zeros((3, 3)), "name": "ab", "flags": np.ones((3, 2), bool)})
    with pytest.raises(UserError, match=r"no points.*faces \[3, 3\].*\[2, points, frames\]"):
        read_points(path)
    savemat(path, {"phis": np.zeros((3, 88))})
    with pytest.raises(UserError, match="it has 88 numbers"):
        read_points(path)
    savemat(path, {"pt2d": np.zeros((3, 68))})
    with pytest.raises(UserError, match="of shape"):
        read_points(path)
    savemat(path, {"track": np.ones((3, 68, 2)) * 1j})
    with pytest.raises(UserError, match="complex"):
        read_points(path)
    path.write_bytes(b"no such thing" * 100)
    with pytest.raises(UserError, match="get it again"):
        read_points(path)


def test_what_is_no_track_says_what_would_be(tmp_path):
    with pytest.raises(UserError, match=r"no \.pts or \.mat files"):
        read_points(tmp_path)
    with pytest.raises(UserError, match=r"is not there; name a \.csv"):
        read_points(tmp_path / "absent.csv")
    (tmp_path / "track.json").write_text("[]")
    with pytest.raises(UserError, match=r"not read from \.json files"):
        read_points(tmp_path / "track.json")
    (tmp_path / "a1.pts").write_text(pts(points_of(1, 68)[0]))
    (tmp_path / "a2.pts").write_text(pts(points_of(1, 5)[0]))
    with pytest.raises(UserError, match=r"a2\.pts has 5 points and a1\.pts 68"):
        read_points(tmp_path)
    savemat(tmp_path / "a2.mat", {"pt2d": np.zeros((2, 68))})
    with pytest.raises(UserError, match="keep those of one kind"):
        read_points(tmp_path)


def written(path, points):
    np.savez(path, points=points)
    return f"{path}"


def video(tmp_path):
    """A truth of 20 frames, predictions with jitter, one frame and two points missing."""
    truth = points_of(1, 68) + np.cumsum(np.random.default_rng(1).normal(size=(20, 1, 2)), axis=0)
    points = truth + np.random.default_rng(2).normal(0, 1.5, truth.shape)
    points[4], points[9, 3], points[9, 5] = np.nan, np.nan, np.nan
    return written(tmp_path / "p.npz", points), written(tmp_path / "t.npz", truth), points, truth


def test_the_command_says_in_json_what_the_metrics_say(tmp_path, capsys):
    predictions, true, points, truth = video(tmp_path)
    own = [f"--predictions={predictions}", "--json"]
    assert main.main(["landmarks", "stability", *own, f"--truth={true}"]) == 0
    found = json.loads(capsys.readouterr().out)
    errors = metrics.normalised_errors(points, truth, IBUG_68)
    assert found["nme"] == pytest.approx(float(metrics.nme(errors)))
    assert found["auc_at_0.10"] == pytest.approx(float(metrics.auc(errors)))
    assert found["motion_error"] == pytest.approx(metrics.motion_error(points, truth, IBUG_68))
    assert found["midpoint_jitter"] == pytest.approx(metrics.midpoint_jitter(points, IBUG_68))
    assert (found["frames"], found["points"]) == (20, 68)
    assert found["missing"] == {"frames": 1, "points": 2, "truth_frames": 0, "truth_points": 0}
    assert main.main(["landmarks", "stability", *own]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert alone["midpoint_jitter"] == found["midpoint_jitter"]
    assert alone["nme"] is None
    assert alone["normalised_by"] == "eyes"
    assert alone["lost_frames"] == 1 / 20
    assert main.main(["landmarks", "stability", *own, "--normalise=box"]) == 0
    boxed = json.loads(capsys.readouterr().out)
    expected = metrics.midpoint_jitter(points, IBUG_68, by="box")
    assert boxed["midpoint_jitter"] == pytest.approx(expected)
    assert boxed["normalised_by"] == "box"


def test_the_command_prints_a_table_and_draws(tmp_path, capsys):
    predictions, true, *_ = video(tmp_path)
    plot = tmp_path / "stability.png"
    own = [f"--predictions={predictions}", f"--plot={plot}"]
    assert main.main(["landmarks", "stability", *own, f"--truth={true}"]) == 0
    out = capsys.readouterr().out
    for words in ("mean error", "wrong motion", "jitter", "1 frame, and 2 points of the others"):
        assert words in out
    for words in ("median over frames", "frames lost", "--normalise=eyes", "outer eye corners"):
        assert words in out
    with Image.open(plot) as picture:
        assert picture.width > 1000
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 50
    assert main.main(["landmarks", "stability", *own]) == 0
    assert "mean error" not in capsys.readouterr().out


def test_short_and_unusual_tracks_are_judged_as_far_as_they_go(tmp_path, capsys):
    for points in (points_of(1, 68), points_of(2, 7), np.full((3, 5, 2), np.nan)):
        path, plot = written(tmp_path / "p.npz", points), tmp_path / "p.png"
        options = [f"--predictions={path}", f"--truth={path}", f"--plot={plot}"]
        assert main.main(["landmarks", "stability", *options]) == 0
        assert plot.exists()
    assert "without known eyes" in capsys.readouterr().out


def test_the_command_refuses_what_cannot_be_compared(tmp_path, capsys):
    first = written(tmp_path / "a.npz", points_of(5, 68))
    for other, said in (
        (written(tmp_path / "b.npz", points_of(5, 29)), "68 points and the truth 29"),
        (written(tmp_path / "c.npz", points_of(4, 68)), "5 frames and the truth 4"),
    ):
        assert (
            main.main(["landmarks", "stability", f"--predictions={first}", f"--truth={other}"]) == 2
        )
        assert said in capsys.readouterr().err
    options = [f"--predictions={first}", f"--plot={tmp_path}/no/p.png"]
    assert main.main(["landmarks", "stability", *options]) == 2
    assert "its folder is not there" in capsys.readouterr().err
    assert main.main(["landmarks", "stabilty"]) == 2
    assert "there is stability" in capsys.readouterr().err
    assert main.main(["landmarks"]) == 2
    assert "say what to do" in capsys.readouterr().err


def test_frames_are_compared_by_name_where_both_have_names():
    points, every = points_of(2, 68), np.ones(2, bool)
    truth = Track(points, every, ("0001", "0002"))
    judge(Track(points, every, ("1.jpg", "2.jpg")), truth)
    judge(Track(points, every, ("0", "1"), named=False), truth)
    with pytest.raises(UserError, match=r"a frame '3\.jpg' and the truth '0002' in its place"):
        judge(Track(points, every, ("1.jpg", "3.jpg")), truth)


@pytest.mark.parametrize("arguments", [["--help"], ["stability", "--help"]])
def test_help_needs_neither_jax_nor_tensorflow(arguments):
    code = (
        "import sys; from cmaclip_jax import main\n"
        f"try: main.main(['landmarks', *{arguments}])\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'jax', 'tensorflow', 'scipy', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "cmaclip landmarks" in done.stdout
