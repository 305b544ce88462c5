"""The noise of annotations: a fitted model against the one it was drawn from, and six kinds."""

import dataclasses
import json

import numpy as np
import pytest
from scipy.stats import binom

from cmaclip_jax.errors import UserError
from cmaclip_jax.landmarks import metrics
from cmaclip_jax.landmarks.annotation_noise import NoiseModel, fit, load
from cmaclip_jax.landmarks.contour import into_frame, tangents
from cmaclip_jax.landmarks.corruption import KINDS, MEMORY, OUTLIERS, corrupt
from cmaclip_jax.landmarks.layouts import COFW_29

POINTS, FREEDOM = 29, 6.0


def faces(count, seed=0, turned=True):
    """The same face in many places, turns and sizes: [N,P,2]."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-40, 40, (POINTS, 2))
    points[[8, 9]] = [[-40, 0], [40, 0]]
    angles = rng.normal(0, 0.4 * turned, count)
    turns = np.stack([np.cos(angles), -np.sin(angles), np.sin(angles), np.cos(angles)], -1)
    sizes = 1 + turned * rng.uniform(-0.3, 0.3, (count, 1, 1))
    return sizes * points @ turns.reshape(count, 2, 2) + rng.normal(0, 30, (count, 1, 2))


def noise(family, annotators=3):
    """A model with its parameters said, not fitted."""
    rng = np.random.default_rng(5)
    biases = rng.normal(0, 0.004, (POINTS, annotators, 2))
    return NoiseModel(
        layout=COFW_29.name,
        family=family,
        deviations=rng.uniform(0.002, 0.006, (POINTS, 2)),
        intervals=np.zeros((POINTS, 2, 2)),
        correlation=rng.uniform(-0.5, 0.5, POINTS),
        freedom=np.full(POINTS, FREEDOM),
        biases=biases - biases.mean(1, keepdims=True),
        normality=np.zeros((POINTS, 2)),
        gain=(0.0, 0.0),
        faces=0,
    )


def annotated(model, count=300, seed=100):
    """What its annotators would have made of some faces: [A,N,P,2]."""
    points = faces(count)
    return np.stack(
        [
            model.sample(np.random.default_rng(seed + one), points, np.full(count, one))
            for one in range(model.biases.shape[1])
        ]
    )


def covered(found, truth):
    """In how many of the intervals the true deviation lies."""
    low, high = np.moveaxis(found.intervals, -1, 0)
    return int(((low < truth.deviations) & (truth.deviations < high)).sum())


@pytest.mark.parametrize("annotators", [2, 3])
@pytest.mark.parametrize("family", ["gaussian", "student"])
def test_a_fit_recovers_the_noise_and_chooses_its_family(family, annotators):
    truth = noise(family, annotators)
    found = fit(annotated(truth), COFW_29)
    assert found.family == family
    # 58 intervals at 95 %: fewer than this hold the truth in one of 10,000 draws. Those of the
    # bootstrap are a little short where tails are heavy: taken as 90 %.
    level = 0.95 if family == "gaussian" else 0.9
    assert covered(found, truth) >= binom.ppf(1e-4, 2 * POINTS, level)
    assert np.mean(found.deviations / truth.deviations) == pytest.approx(1, abs=0.02)
    np.testing.assert_allclose(found.correlation, truth.correlation, atol=0.25)
    np.testing.assert_allclose(found.biases, truth.biases, atol=0.0015)
    if family == "student":
        assert np.median(found.freedom) == pytest.approx(FREEDOM, rel=0.25)
        assert (found.normality < 0.05).mean() > 0.4
    else:
        assert np.median(found.freedom) > 30
        assert (found.normality < 0.05).mean() < 0.2


def test_intervals_are_as_wide_as_their_level_says():
    truth = noise("gaussian")
    drawn = annotated(truth)
    half = fit(drawn, COFW_29, level=0.5)
    assert binom.ppf(1e-3, 58, 0.5) <= covered(half, truth) <= binom.ppf(0.999, 58, 0.5)


def test_noise_drawn_from_a_fit_and_fitted_again_is_the_same():
    first = fit(annotated(noise("student")), COFW_29)
    again = fit(annotated(first, seed=900), COFW_29)
    assert again.family == first.family == "student"
    assert covered(again, first) >= binom.ppf(1e-4, 2 * POINTS, 0.9)
    assert np.median(again.freedom) == pytest.approx(np.median(first.freedom), rel=0.3)


def test_missing_annotations_cost_precision_and_nothing_else():
    truth = noise("gaussian")
    drawn = annotated(truth)
    drawn[np.random.default_rng(0).random(drawn.shape[:3]) < 0.25] = np.nan
    found = fit(list(drawn), COFW_29)  # an array per annotator
    assert covered(found, truth) >= binom.ppf(1e-4, 2 * POINTS, 0.95)
    np.testing.assert_allclose(found.biases, truth.biases, atol=0.002)
    assert found.faces < len(drawn[0])  # no size where nobody marked an eye corner


def test_without_biases_an_offset_counts_as_noise():
    drawn = annotated(noise("gaussian"))
    assert (fit(drawn, COFW_29, biased=False).deviations.mean()) > 1.2 * (
        fit(drawn, COFW_29).deviations.mean()
    )


def test_a_model_comes_back_from_its_file_to_the_last_bit(tmp_path):
    truth = noise("student")
    few = fit(annotated(truth, count=12), COFW_29)  # too few faces to test for normality
    assert np.isnan(few.normality).all()
    for model in (truth, few):
        model.save(tmp_path / "noise.json")
        back = load(tmp_path / "noise.json")
        for name, value in dataclasses.asdict(model).items():
            np.testing.assert_array_equal(getattr(back, name), value, err_msg=name)
        points = faces(4)
        one, other = (x.sample(np.random.default_rng(1), points) for x in (model, back))
        np.testing.assert_array_equal(one, other)
    json.loads((tmp_path / "noise.json").read_text(), parse_constant=pytest.fail)
    (tmp_path / "noise.json").write_text("{}")
    with pytest.raises(UserError, match="save it again"):
        load(tmp_path / "noise.json")


def test_a_fit_needs_repeats():
    drawn = annotated(noise("gaussian"), count=20)
    with pytest.raises(UserError, match="at least two annotators"):
        fit(drawn[:1], COFW_29)
    with pytest.raises(UserError, match="give every annotator's own points"):
        fit(np.stack([drawn[0], drawn[0]]), COFW_29)
    drawn[1:, :, 7] = np.nan
    with pytest.raises(UserError, match="point 7 was annotated twice in too few faces"):
        fit(drawn, COFW_29)
    with pytest.raises(UserError, match="29 points and the faces have 68"):
        noise("gaussian").sample(np.random.default_rng(0), np.zeros((1, 68, 2)))


def displaced(kind, strength=0.03, count=1500, seed=3, who=None):
    """Displacements as shares of the face's size, and the faces."""
    points = faces(count)
    away = corrupt(points, kind, strength, seed, COFW_29, who) - points
    return away / metrics.face_sizes(points, COFW_29)[:, None, None], points


@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_are_equally_large(kind):
    away, _ = displaced(kind)
    exact = kind in ("bias", "annotators")
    size = np.sqrt((away**2).sum(-1).mean())
    # Drift repeats itself, outliers are few: fewer independent vectors than 43,500.
    assert size == pytest.approx(0.03, rel=1e-9 if exact else 0.05)
    twice, _ = displaced(kind, strength=0.06)
    np.testing.assert_allclose(twice, 2 * away, atol=1e-12)
    np.testing.assert_array_equal(displaced(kind)[0], away)
    assert not np.allclose(displaced(kind, seed=4)[0], away)


def test_noise_along_the_contour_leaves_it_nowhere():
    for kind, across in (("contour", 0), ("isotropic", 1)):
        away, points = displaced(kind)
        framed = into_frame(away, tangents(points, COFW_29))
        ratio = np.std(framed[..., 1]) / np.std(framed[..., 0])
        assert ratio == pytest.approx(across, abs=0.02)


def test_biases_cost_no_stability_and_jitter_does():
    video = faces(50, turned=False)
    costs = {
        kind: metrics.motion_error(corrupt(video, kind, 0.03, 1, COFW_29), video, COFW_29)
        for kind in KINDS
    }
    assert costs["bias"] == pytest.approx(0, abs=1e-12)
    # Its strength is the length of a vector: a deviation of 0.03 / sqrt(2) a coordinate.
    assert costs["isotropic"] == pytest.approx(0.03 * np.sqrt(np.pi / 2), rel=0.03)
    still = np.sqrt(2 * (1 - MEMORY)) / np.sqrt(2)  # of AR(1), against white noise
    assert costs["drift"] == pytest.approx(costs["isotropic"] * still, rel=0.1)


def test_an_annotator_is_the_same_in_all_faces():
    who = np.array([7, 2, 7, 2, 2, 9])
    away, _ = displaced("annotators", count=6, who=who)
    for one in (7, 2):
        own = away[who == one]
        np.testing.assert_allclose(own, np.broadcast_to(own[0], own.shape), atol=1e-12)
    assert not np.allclose(away[0], away[1])
    alone, _ = displaced("annotators", count=1, who=[9])
    np.testing.assert_allclose(alone[0], away[5], atol=1e-12)  # whoever else is there
    with pytest.raises(UserError, match="name one a face"):
        displaced("annotators", count=6, who=[1, 2])


def test_outliers_are_rare_and_large():
    away, _ = displaced("outliers")
    struck = (away**2).sum(-1) > 0
    assert struck.mean() == pytest.approx(OUTLIERS, rel=0.1)
    size = np.sqrt((away[struck] ** 2).sum(-1).mean())
    assert size == pytest.approx(0.03 / np.sqrt(OUTLIERS), rel=0.05)


def test_drift_remembers_the_frame_before():
    for kind, memory in (("drift", MEMORY), ("isotropic", 0)):
        away, _ = displaced(kind)
        found = np.corrcoef(away[1:].ravel(), away[:-1].ravel())[0, 1]
        assert found == pytest.approx(memory, abs=0.02)


def test_missing_points_stay_missing_and_the_argument_as_it_is():
    points = faces(5)
    points[2, 8] = points[3, 4] = np.nan  # an eye corner: the size is that of the other faces
    before = points.copy()
    for kind in KINDS:
        noisy = corrupt(points, kind, 0.03, 0, COFW_29)
        np.testing.assert_array_equal(np.isnan(noisy), np.isnan(before))
        np.testing.assert_array_equal(points, before)
    with pytest.raises(UserError, match="there is isotropic"):
        corrupt(points, "isotropc", 0.03, 0, COFW_29)
