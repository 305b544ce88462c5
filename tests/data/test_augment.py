"""Augmentation: windows that stay inside, colours that repeat themselves, words that remain."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from cmaclip_jax.data.augment import OPERATIONS, Augment
from cmaclip_jax.data.sources.shop import Shop
from cmaclip_jax.errors import UserError

SHAPES = [(1, 1), (1, 5000), (5000, 1), (2, 3), (48, 48), (300, 400), (4000, 30)]


@pytest.fixture(scope="module")
def image():
    return Shop("val", 1, missing_images=0)[0].image


def drawn_windows(crop, shape, rows=4000, seed=0):
    uniforms = np.random.default_rng(seed).random((rows, 4))
    return Augment(crop=crop).windows(np.tile(shape, (rows, 1)), uniforms)


def assert_inside(windows, sizes):
    assert windows.dtype == np.int32
    assert np.all(windows[:, :2] >= 0)
    assert np.all(windows[:, 2:] >= 1)
    assert np.all(windows[:, :2] + windows[:, 2:] <= sizes)


@given(
    st.tuples(st.integers(1, 6000), st.integers(1, 6000)) | st.sampled_from(SHAPES),
    st.floats(0, 1),
    st.tuples(*[st.floats(0, 1)] * 4),
)
@example((48, 48), 0.0, (0.5, 0.5, 1.0, 1.0))
@example((48, 48), 0.0, (0.0, 0.0, 0.0, 0.0))
@settings(deadline=None)
def test_a_window_lies_inside_whatever_the_picture_and_the_draw(shape, crop, uniforms):
    sizes = np.array([shape])
    assert_inside(Augment(crop=crop).windows(sizes, np.array([uniforms])), sizes)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_row_is_its_own_pictures_and_its_own_draws(shape):
    sizes = np.array([shape, *SHAPES])
    uniforms = np.random.default_rng(0).random((len(sizes), 4))
    together = Augment(crop=0.2).windows(sizes, uniforms)
    assert together.shape == (len(sizes), 4)
    alone = [Augment(crop=0.2).windows(sizes[[i]], uniforms[[i]])[0] for i in range(len(sizes))]
    np.testing.assert_array_equal(together, alone)
    assert Augment(crop=0.2).windows(sizes[:0], uniforms[:0]).shape == (0, 4)


@pytest.mark.parametrize("shape", [(600, 600), (600, 750), (800, 620)])
@pytest.mark.parametrize("crop", [0.08, 0.5])
def test_areas_are_uniform_and_aspects_within_bounds(shape, crop):
    windows = drawn_windows(crop, shape)
    areas = windows[:, 2] * windows[:, 3] / np.prod(shape)
    aspects = windows[:, 3] / windows[:, 2]
    assert areas.min() >= crop - 0.01
    assert areas.max() <= 1
    quantiles = np.quantile(areas, [0.25, 0.5, 0.75])
    np.testing.assert_allclose(
        quantiles, crop + (1 - crop) * np.array([0.25, 0.5, 0.75]), atol=0.03
    )
    assert areas.mean() == pytest.approx((1 + crop) / 2, abs=0.02)
    assert aspects.min() >= 3 / 4 - 0.02
    assert aspects.max() <= 4 / 3 + 0.02


def test_small_windows_are_as_often_wide_as_high_and_lie_anywhere():
    windows = drawn_windows(0.05, (1000, 1000))
    small = windows[windows[:, 2] * windows[:, 3] < 0.4e6]
    logs = np.log(small[:, 3] / small[:, 2])
    assert logs.mean() == pytest.approx(0, abs=0.02)
    assert logs.std() == pytest.approx(2 * np.log(4 / 3) / 12**0.5, rel=0.05)
    places = small[:, :2] / (1000 - small[:, 2:])
    np.testing.assert_allclose(places.mean(0), 0.5, atol=0.03)
    np.testing.assert_allclose(np.quantile(places, [0.1, 0.9], 0).T, [[0.1, 0.9]] * 2, atol=0.04)


def test_a_long_picture_keeps_the_windows_shape():
    windows = drawn_windows(0.5, (100, 1000))
    assert np.all(windows[:, 2] == 100)
    np.testing.assert_allclose(windows[:, 3], 133)
    assert windows[:, 1].min() < 20
    assert windows[:, 1].max() > 847


def test_no_random_crop_is_the_largest_square_in_the_middle():
    windows = Augment().windows(np.array(SHAPES), np.random.default_rng(0).random((7, 4)))
    assert windows.tolist() == [
        [0, 0, 1, 1],
        [0, 2499, 1, 1],
        [2499, 0, 1, 1],
        [0, 0, 2, 2],
        [0, 0, 48, 48],
        [0, 50, 300, 300],
        [1985, 0, 30, 30],
    ]


@pytest.mark.parametrize("augment", [Augment(jitter=0.4), Augment(randaugment=2, jitter=0.1)])
def test_colours_repeat_themselves_and_differ_between_draws(image, augment):
    before = image.copy()
    assert augment.alters_colour
    first, again, other = (augment.colour(image, np.random.default_rng(s)) for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(image, before)
    assert not np.array_equal(first, other)
    assert (first.shape, first.dtype) == (image.shape, np.uint8)


def test_nothing_is_altered_by_default(image):
    assert not Augment(crop=0.5, flip=True, word_drop=0.5).alters_colour
    np.testing.assert_array_equal(Augment().colour(image, np.random.default_rng(0)), image)
    assert Augment().drop_words(" two  words ", np.random.default_rng(0)) == " two  words "


def test_more_jitter_moves_colours_further_and_no_further_than_it_says(image):
    def distances(jitter):
        augment = Augment(jitter=jitter)
        rngs = map(np.random.default_rng, range(20))
        return np.mean([np.abs(augment.colour(image, rng) - image.astype(float)) for rng in rngs])

    assert 0 < distances(0.1) < distances(0.3) < distances(0.8)
    grey = np.full((8, 8, 3), 100, np.uint8)  # has neither contrast nor saturation
    levels = [
        Augment(jitter=0.3).colour(grey, np.random.default_rng(seed)).mean() for seed in range(200)
    ]
    assert 69 <= min(levels) < 75
    assert 125 < max(levels) <= 130


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
def test_every_operation_keeps_the_size_and_grows_with_its_strength(image, operation):
    def distance(strength):
        result = OPERATIONS[operation](Image.fromarray(image), strength)
        assert (result.size, result.mode) == (image.shape[1::-1], "RGB")
        return np.abs(np.asarray(result) - image.astype(float)).mean()

    distances = [max(distance(s), distance(-s)) for s in (0.0, 0.3, 1.0)]
    if operation == "identity":
        assert distances == [0, 0, 0]
    elif operation in ("autocontrast", "equalize"):  # know no strength
        assert distances[0] == distances[1] == distances[2]
    else:
        assert distances[0] == 0
        assert distances[0] < distances[1] < distances[2]


def test_a_moved_picture_is_filled_with_mid_grey():
    black = Image.new("RGB", (40, 40))
    for operation in ("rotate", "shear_x", "shear_y", "translate_x", "translate_y"):
        for strength in (-1.0, 1.0):
            moved = np.asarray(OPERATIONS[operation](black, strength))
            assert moved.max() == 128
            assert np.any(moved == 0)


def test_operations_come_from_all_of_them(image):
    augment = Augment(randaugment=1, magnitude=30)
    results = {augment.colour(image, np.random.default_rng(seed)).tobytes() for seed in range(300)}
    # Identity and the two without strength once, those without direction once, others twice;
    # 'autocontrast' may be the identity where a picture has black and white.
    assert 3 + 2 + 2 * 9 - 1 <= len(results) <= 3 + 2 + 2 * 9


@given(st.text(), st.floats(0, 1), st.integers(0, 2**32))
@settings(deadline=None)
def test_some_words_always_remain(text, share, seed):
    first, again = (
        Augment(word_drop=share).drop_words(text, np.random.default_rng(seed)) for _ in range(2)
    )
    assert first == again
    assert bool(first.split()) == bool(text.split())
    assert set(first.split()) <= set(text.split())


def test_words_are_left_out_at_their_rate():
    words = " ".join(map(str, range(3000)))
    kept = Augment(word_drop=0.2).drop_words(words, np.random.default_rng(0)).split()
    assert len(kept) / 3000 == pytest.approx(0.8, abs=0.03)


def test_a_magnitude_beyond_the_scale_is_refused():
    with pytest.raises(UserError, match="between 0 and 30"):
        Augment(magnitude=31)
