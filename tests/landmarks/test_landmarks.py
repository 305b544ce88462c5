"""Landmarks: metrics against closed forms, the contour's frame."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.spatial.transform import Rotation
from scipy.stats import chi2

from cmaclip_jax.landmarks import metrics
from cmaclip_jax.landmarks.contour import into_frame, neighbours, normals, out_of_frame, tangents
from cmaclip_jax.landmarks.layouts import COFW_29, IBUG_68, LAYOUTS, layout_of
from cmaclip_jax.landmarks.stability import judge
from cmaclip_jax.landmarks.tracks import Track

SIZE = 80.0  # between the outer corners of the eyes


def face(layout, seed=0):
    """Any points, the outer eye corners SIZE apart: [P,2]."""
    points = np.random.default_rng(seed).uniform(-SIZE, SIZE, (layout.count, 2))
    points[list(layout.eyes)] = [[-SIZE / 2, 3], [SIZE / 2, 3]]
    return points


def video(frames=6, layout=IBUG_68, seed=0):
    """A face that walks through the picture: [F,P,2]."""
    path = np.cumsum(np.random.default_rng(seed).normal(0, 4, (frames, 1, 2)), axis=0)
    return face(layout) + path


def jittered(points, deviation, seed=1):
    return points + np.random.default_rng(seed).normal(0, deviation, points.shape)


def every_metric(points, truth, layout, valid, known):
    """All of them, each over frames and points."""
    errors = metrics.normalised_errors(points, truth, layout, valid, known)
    return {
        "nme": metrics.nme(errors, valid),
        "failure_rate": metrics.failure_rate(errors, valid, 0.02),
        "auc": metrics.auc(errors, valid),
        "motion_error": metrics.motion_error(points, truth, layout, valid, known),
        "midpoint_jitter": metrics.midpoint_jitter(points, layout, valid, known),
        "boxed_jitter": metrics.midpoint_jitter(points, layout, valid, known, by="box"),
        "still_jitter": metrics.still_jitter(points, layout, valid, known),
        "typical_size": metrics.typical_size(points, layout, valid),
    }


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_a_layout_mirrors_onto_itself(layout):
    mirrored = np.array(layout.mirrored)
    np.testing.assert_array_equal(mirrored[mirrored], np.arange(layout.count))
    assert {mirrored[eye] for eye in layout.eyes} == set(layout.eyes)

    def edges(points, closed):
        pairs = zip(points, points[1:] + points[: 1 if closed else 0], strict=False)
        return frozenset(frozenset(pair) for pair in pairs)

    contours = {edges(*contour) for contour in layout.contours}
    twins = {edges(tuple(mirrored[list(points)]), closed) for points, closed in layout.contours}
    assert contours == twins
    assert layout_of(layout.count) is layout


def test_a_constant_bias_costs_accuracy_exactly_and_no_stability():
    truth = video()
    points = truth + np.array([3.0, 4.0])
    errors = metrics.normalised_errors(points, truth, IBUG_68)
    np.testing.assert_allclose(errors, 5 / SIZE)
    assert metrics.nme(errors) == pytest.approx(5 / SIZE)
    assert metrics.motion_error(points, truth, IBUG_68) == pytest.approx(0, abs=1e-12)


def test_white_jitter_gives_the_closed_forms():
    deviation, truth = 2.0, np.repeat(face(IBUG_68)[None], 1500, axis=0)
    eyes = list(IBUG_68.eyes)
    points = jittered(truth, deviation)
    points[:, eyes] = truth[:, eyes]  # so that the size is known exactly
    points[:, eyes] += jittered(np.zeros((1500, 2, 2)), 1e-9)
    share, rest = deviation / SIZE, [p for p in range(68) if p not in eyes]
    # 99,000 vectors: the relative sampling error of each is below 0.4 %.
    found = metrics.motion_error(points, truth, IBUG_68, axis=0)[rest].mean()
    assert found == pytest.approx(share * np.sqrt(np.pi), rel=0.012)
    found = metrics.midpoint_jitter(points, IBUG_68, axis=0)[rest]
    assert np.sqrt(np.mean(found**2)) == pytest.approx(share * np.sqrt(3), rel=0.012)
    found = metrics.still_jitter(points, IBUG_68, axis=0)[rest]
    assert np.sqrt(np.mean(found**2)) == pytest.approx(share * np.sqrt(2), rel=0.012)


def judged(points, by="eyes"):
    """What is said of a video without a truth."""
    valid = np.isfinite(points).all(-1).any(-1)
    names = tuple(map(str, range(len(points))))
    return judge(Track(points, valid, names, named=False), by=by).figures


def test_white_jitter_has_the_same_median_and_rms():
    points = jittered(np.repeat(face(IBUG_68)[None], 1500, axis=0), deviation := 0.8)
    figures, share = judged(points), deviation / SIZE
    assert figures["midpoint_jitter"] == pytest.approx(share * np.sqrt(3), rel=0.01)
    # Of a frame, 68 points of two coordinates of variance 1.5 s^2 each.
    median = share * np.sqrt(1.5 * chi2.median(2 * 68) / 68)
    assert figures["median_jitter"] == pytest.approx(median, rel=0.01)
    assert figures["lost_frames"] == 0


def test_a_frame_thrown_far_away_moves_the_rms_and_not_the_median():
    frames, away, deviation = 100, 200.0, 0.8
    points = jittered(np.repeat(face(IBUG_68)[None], frames, axis=0), deviation)
    before = judged(points)
    points[40] += (away, 0)
    after = judged(points)
    # It stands off by `away`, and each of its neighbours by half of that.
    squares = 3 * deviation**2 + away**2 * (1 + 1 / 4 + 1 / 4) / (frames - 2)
    assert after["midpoint_jitter"] == pytest.approx(np.sqrt(squares) / SIZE, rel=0.01)
    assert after["midpoint_jitter"] > 10 * before["midpoint_jitter"]
    assert after["median_jitter"] == pytest.approx(before["median_jitter"], rel=0.02)
    assert before["lost_frames"] == 0
    assert after["lost_frames"] == 1 / frames


def test_frames_are_lost_where_nothing_is_found_and_where_points_jump_and_not_where_they_move():
    steps = np.arange(60.0)[:, None, None] * [0.3 * SIZE, 0.0]  # fast, and steady
    points = face(IBUG_68) + steps
    assert judged(points)["lost_frames"] == 0
    points[10] += SIZE
    points[[20, 21]] -= 5 * SIZE  # two in a row
    points[30:33] = np.nan
    points[40, 5] = np.nan  # one point is no frame
    points[50] += 0.09 * SIZE / np.sqrt(2)  # within a tenth
    assert judged(points)["lost_frames"] == 6 / 60
    assert judged(points[30:33])["lost_frames"] == 1


def test_shares_of_the_box_are_shares_of_the_root_of_its_area():
    points = face(IBUG_68)
    points[0], points[1] = (-3 * SIZE, -2 * SIZE), (3 * SIZE, 2 * SIZE)
    assert metrics.face_sizes(points, IBUG_68, by="box") == pytest.approx(SIZE * np.sqrt(24))
    assert metrics.face_sizes(points, None, by="box") == pytest.approx(SIZE * np.sqrt(24))
    points[2] = np.nan
    assert metrics.face_sizes(points, IBUG_68, by="box") == pytest.approx(SIZE * np.sqrt(24))
    still = jittered(np.repeat(points[None], 50, axis=0), 0.5)
    by_eyes, by_box = judged(still), judged(still, by="box")
    for name in ("midpoint_jitter", "median_jitter"):
        assert by_eyes[name] / by_box[name] == pytest.approx(np.sqrt(24), rel=0.02)
    truth, moved = np.repeat(points[None], 3, axis=0), np.repeat(points[None], 3, axis=0) + (3, 4)
    errors = metrics.normalised_errors(moved, truth, IBUG_68, by="box")
    np.testing.assert_allclose(errors, 5 / (SIZE * np.sqrt(24)))


def test_steady_motion_is_no_jitter():
    steps = np.arange(9.0)[:, None, None] * [3.0, -1.0]
    assert metrics.midpoint_jitter(face(IBUG_68) + steps, IBUG_68) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("layout", [IBUG_68, None], ids=["eyes", "no layout"])
def test_metrics_do_not_change_with_the_place_the_turn_and_the_scale_of_the_face(layout):
    truth = video()
    points = jittered(truth, 0.6 * np.arange(6.0)[:, None, None])  # some frames fail, some not
    turn = Rotation.from_euler("z", 33, degrees=True).as_matrix()[:2, :2]
    moved = [2.5 * x @ turn.T + [40.0, -7.0] for x in (points, truth)]
    before = every_metric(points, truth, layout, None, None)
    after = every_metric(*moved, layout, None, None)
    for name in before.keys() - {"typical_size", "boxed_jitter"}:  # a box does not turn
        assert after[name] == pytest.approx(before[name], rel=1e-9), name
        assert before[name] != 0, name
    assert after["typical_size"] == pytest.approx(2.5 * before["typical_size"])


@pytest.mark.parametrize("layout", [IBUG_68, None], ids=["eyes", "no layout"])
def test_jit_equals_numpy_and_nan_frames_change_nothing(layout):
    truth = video(9)
    points = jittered(truth, 1.0)
    whole = every_metric(points[:7], truth[:7], layout, None, None)
    valid = np.arange(9) < 7
    points[7:], truth[8] = np.nan, np.nan
    masked = every_metric(points, truth, layout, valid, None)
    unsaid = every_metric(points, truth, layout, None, None)  # NaN itself does not count
    with jax.enable_x64(True):
        inside = jax.jit(every_metric, static_argnums=2)(points, truth, layout, valid, None)
    for name, value in whole.items():
        assert masked[name] == pytest.approx(value, rel=1e-12), name
        assert unsaid[name] == pytest.approx(value, rel=1e-12), name
        assert float(inside[name]) == pytest.approx(value, rel=1e-9), name


def test_unknown_points_do_not_count():
    truth, known = video(), np.ones((6, 68), bool)
    known[:, 5] = known[2, 60] = False
    points = jittered(truth, 1.0)
    far = points.copy()
    far[:, 5], far[2, 60] = 1e6, np.nan
    for name, value in every_metric(points, truth, IBUG_68, None, known).items():
        if name in ("typical_size", "boxed_jitter"):  # the size of all that is there
            continue
        assert every_metric(far, truth, IBUG_68, None, known)[name] == pytest.approx(value), name
    assert np.isnan(metrics.motion_error(far, truth, IBUG_68, known=known, axis=0)[5])


def test_a_pair_of_frames_across_a_gap_is_no_pair():
    truth = video(5)
    points = truth.copy()
    points[3:] += 50  # a jump where frame 2 is missing
    valid = np.array([1, 1, 0, 1, 1], bool)
    assert metrics.motion_error(points, truth, IBUG_68, valid) == pytest.approx(0, abs=1e-12)
    assert metrics.motion_error(points, truth, IBUG_68) > 0.1


@pytest.mark.parametrize("layout", [IBUG_68, None], ids=["eyes", "no layout"])
def test_gradients_are_finite_where_nothing_moves_and_where_frames_are_missing(layout):
    truth = np.repeat(face(IBUG_68)[None], 5, axis=0)
    truth[4] = np.nan

    def total(points):
        found = every_metric(points, jnp.asarray(truth), layout, None, None)
        return sum(found.values())

    assert np.isfinite(jax.grad(total)(jnp.asarray(truth))).all()


def test_failures_and_the_area_are_those_of_the_cumulative_curve():
    errors = np.array([0.01, 0.03, 0.03, 0.07, 0.2, np.nan, 0.05])
    valid = np.array([1, 1, 1, 1, 1, 1, 0], bool)
    counted = errors[:5]
    assert metrics.failure_rate(errors, valid) == pytest.approx(1 / 5)
    assert metrics.nme(errors, valid) == pytest.approx(0.34 / 5)
    area, _ = quad(lambda limit: np.mean(counted <= limit), 0, 0.1, points=list(counted[:4]))
    assert metrics.auc(errors, valid) == pytest.approx(area / 0.1, abs=1e-9)
    # By hand: 1/5 from 0.01, 3/5 from 0.03, 4/5 from 0.07 to 0.1.
    by_hand = (0.02 * 1 / 5 + 0.04 * 3 / 5 + 0.03 * 4 / 5) / 0.1
    assert metrics.auc(errors, valid) == pytest.approx(by_hand)
    assert metrics.auc(np.array([np.inf, 0.0])) == 0.5
    assert metrics.failure_rate(np.array([np.inf, 0.0])) == 0.5
    assert np.isnan(metrics.nme(np.full(3, np.nan)))


def test_figures_over_nothing_are_nan():
    empty = np.full((4, 68, 2), np.nan)
    found = every_metric(empty, empty, IBUG_68, None, None)
    assert all(np.isnan(value) for value in found.values()), found


def circle(count):
    angles = 2 * np.pi * np.arange(count) / count
    return np.stack([np.cos(angles), np.sin(angles)], -1)


def test_tangents_follow_the_contour():
    points = face(IBUG_68)
    points[36:42] = [300, 0] + circle(6)
    points[0:17] = np.stack([np.arange(17.0), 2 * np.arange(17.0)], -1)
    found = tangents(points, IBUG_68)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1)
    np.testing.assert_allclose(found[0:17], np.tile([1, 2] / np.sqrt(5), (17, 1)), atol=1e-12)
    turned = np.stack([-circle(6)[:, 1], circle(6)[:, 0]], -1)
    np.testing.assert_allclose(found[36:42], turned, atol=1e-12)
    np.testing.assert_allclose((found * normals(found)).sum(-1), 0, atol=1e-12)


def test_points_on_no_contour_take_the_axis_of_the_eyes():
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    points = face(COFW_29) @ turn.T
    lonely = np.flatnonzero(neighbours(COFW_29)[0] == neighbours(COFW_29)[1])
    np.testing.assert_array_equal(lonely, [16, 17, 20, 28])  # pupils, tip of the nose, chin
    np.testing.assert_allclose(tangents(points, COFW_29)[lonely], np.tile([0, 1], (4, 1)))
    np.testing.assert_allclose(tangents(points, None), np.tile([1, 0], (29, 1)))
    points[0] = np.nan  # a neighbour that is not known
    np.testing.assert_allclose(tangents(points, COFW_29)[4], [0, 1])


def test_the_frame_is_orthogonal_and_the_same_under_jit():
    points, vectors = video(), np.random.default_rng(0).normal(size=(6, 68, 2))
    tangent = tangents(points, IBUG_68)
    framed = into_frame(vectors, tangent)
    np.testing.assert_allclose(out_of_frame(framed, tangent), vectors)
    np.testing.assert_allclose(framed[..., 0], (vectors * tangent).sum(-1))
    np.testing.assert_allclose(np.linalg.norm(framed, axis=-1), np.linalg.norm(vectors, axis=-1))
    inside = jax.jit(lambda x: into_frame(jnp.asarray(vectors), tangents(x, IBUG_68)))(points)
    np.testing.assert_allclose(inside, framed, atol=1e-4)
