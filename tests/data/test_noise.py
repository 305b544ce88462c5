"""Noise on purpose: its strengths are ordered, its shares are kept, and it repeats itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmaclip_jax.config import LIMITED_FIELDS
from cmaclip_jax.data.noise import (
    GREY,
    IMAGE_NOISES,
    PROTOCOLS,
    STRENGTHS,
    TEXT_NOISES,
    Noise,
    corrupt_image,
    corrupt_text,
    leave_out_words,
    swap_index,
)
from cmaclip_jax.data.sources.shop import Shop
from cmaclip_jax.errors import UserError

IMAGE_KINDS = ("gaussian", "blur", "jpeg", "occlusion")
TEXT_KINDS = ("drop", "typos")
TEXT = "a hand made leather bag with a long strap and two pockets for every day of the week"


@pytest.fixture(scope="module")
def images():
    shop = Shop("val", 12, missing_images=0, missing_texts=0)
    return [shop[i].image for i in range(12)]


def edit_distance(a: str, b: str) -> int:
    """Levenshtein's."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
    return row[-1]


def damage_to_images(images, kind, severity):
    pairs = [
        (image, corrupt_image(image, kind, severity, np.random.default_rng(i)))
        for i, image in enumerate(images)
    ]
    return np.mean([np.square(worse - image.astype(float)).mean() for image, worse in pairs])


def test_the_configs_choices_are_the_kinds_there_are():
    assert LIMITED_FIELDS["data.noise.image"].choices == ("", *IMAGE_NOISES)
    assert LIMITED_FIELDS["data.noise.text"].choices == ("", *TEXT_NOISES)
    assert set(STRENGTHS) == {*IMAGE_KINDS, *TEXT_KINDS}


@pytest.mark.parametrize("kind", IMAGE_KINDS)
def test_a_higher_severity_leaves_less_of_a_picture(images, kind):
    damages = [damage_to_images(images, kind, severity) for severity in STRENGTHS[kind]]
    assert damages[0] > 1
    assert np.all(np.diff(damages) > 0.05 * damages[0])


@pytest.mark.parametrize("kind", TEXT_KINDS)
def test_a_higher_severity_leaves_less_of_a_text(kind):
    rngs = [np.random.default_rng(i) for i in range(30)]
    damages = [
        np.mean([edit_distance(TEXT, corrupt_text(TEXT, kind, s, rng)) for rng in rngs])
        for s in range(1, 6)
    ]
    assert damages[0] > 0.5
    assert np.all(np.diff(damages) > 0)


@pytest.mark.parametrize("kind", [*IMAGE_KINDS, "blank"])
@pytest.mark.parametrize("size", [1, 7, 48])
def test_a_worse_picture_repeats_itself_and_leaves_its_original_alone(kind, size):
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    image.flags.writeable = False
    first, again = (corrupt_image(image, kind, 3, np.random.default_rng(1)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert (first.shape, first.dtype, first.flags.writeable) == (image.shape, np.uint8, True)


def test_gaussian_noise_has_the_deviation_that_it_says_and_stays_within_bytes():
    image = np.full((100, 100, 3), GREY, np.uint8)
    for severity, deviation in ((1, 10), (3, 30)):
        noisy = corrupt_image(image, "gaussian", severity, np.random.default_rng(0))
        assert noisy.std() == pytest.approx(deviation, rel=0.03)
        assert noisy.mean() == pytest.approx(GREY, abs=0.5)
    white = corrupt_image(np.full_like(image, 255), "gaussian", 10, np.random.default_rng(0))
    assert np.median(white) > 200  # cut off, and not wrapped around to black


def test_an_occlusion_is_one_square_of_its_share_anywhere():
    image = np.zeros((60, 60, 3), np.uint8)
    corners = set()
    for seed in range(20):
        hidden = corrupt_image(image, "occlusion", 4, np.random.default_rng(seed))[..., 0] == GREY
        rows, columns = np.flatnonzero(hidden.any(1)), np.flatnonzero(hidden.any(0))
        assert hidden[np.ix_(rows, columns)].all()
        assert len(rows) == len(columns)
        assert hidden.mean() == pytest.approx(0.4, abs=0.02)
        corners.add((int(rows[0]), int(columns[0])))
    assert len(corners) > 10


def test_blanks_are_grey_and_empty():
    rng = np.random.default_rng(0)
    blank = corrupt_image(np.zeros((8, 8, 3), np.uint8), "blank", 5, rng)
    assert np.all(blank == 128)
    assert corrupt_text(TEXT, "blank", 10, rng) == ""


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_the_asked_for_share_is_struck(share):
    rng = np.random.default_rng(0)
    struck = [Noise("blur", share=share).strikes(rng) for _ in range(2000)]
    assert np.mean(struck) == pytest.approx(share, abs=0.03 if 0 < share < 1 else 0)


def test_words_go_at_their_rate_in_their_order_and_one_stays():
    words = [str(i) for i in range(2000)]
    for share in (0.1, 0.7):
        kept = leave_out_words(" ".join(words), share, np.random.default_rng(0)).split()
        assert len(kept) / len(words) == pytest.approx(1 - share, abs=0.03)
        assert kept == sorted(kept, key=int)
    lasts = {leave_out_words("a b c", 1.0, np.random.default_rng(i)) for i in range(30)}
    assert lasts == {"a", "b", "c"}


def test_typos_come_at_their_rate():
    text = "abcdefghij" * 40
    worse = corrupt_text(text, "typos", 3, np.random.default_rng(0))
    # A swap of neighbours counts twice, a letter replaced by itself not at all.
    assert 0.08 < edit_distance(text, worse) / len(text) < 0.16


@settings(deadline=None)
@given(
    st.text(st.characters()),
    st.sampled_from(TEXT_KINDS),
    st.integers(1, 5),
    st.integers(0, 2**32),
)
def test_any_text_is_taken_and_only_an_empty_one_becomes_empty(text, kind, severity, seed):
    first, again = (
        corrupt_text(text, kind, severity, np.random.default_rng(seed)) for _ in range(2)
    )
    assert first == again
    assert bool(first.strip()) == bool(text.strip())
    if kind == "drop":
        rest = iter(text.split())
        assert all(word in rest for word in first.split())  # a subsequence


@pytest.mark.parametrize("text", ["", " ", "帽子 红色", "🧢👨‍👩‍👧 naïve", "x"])
def test_every_script_survives(text):
    for kind in (*TEXT_KINDS, "blank"):
        for seed in range(20):
            worse = corrupt_text(text, kind, 5, np.random.default_rng(seed))
            assert worse.encode().decode() == worse  # no character cut in half
            assert bool(worse.strip()) == (kind != "blank" and bool(text.strip()))


@given(st.integers(1, 50), st.data())
def test_a_swap_is_with_another_record(size, data):
    index = data.draw(st.integers(0, size - 1))
    other = swap_index(index, size, np.random.default_rng(data.draw(st.integers(0, 999))))
    assert 0 <= other < size
    assert (other == index) == (size == 1)


def test_a_swap_reaches_all_others_alike():
    rng = np.random.default_rng(0)
    counts = np.bincount([swap_index(2, 5, rng) for _ in range(4000)], minlength=5)
    assert counts[2] == 0
    np.testing.assert_allclose(counts[[0, 1, 3, 4]], 1000, atol=120)


def test_the_published_protocols():
    for strength, name in ((5, "acml-5"), (10, "acml-10")):
        assert PROTOCOLS[name] == Noise("gaussian", "blank", strength, 0.5)


@pytest.mark.parametrize(
    ("fields", "advice"),
    [
        ({"image": "fog"}, "'gaussian', 'blur'"),
        ({"text": "jpeg"}, "'drop', 'typos'"),
        ({"image": "blur", "severity": 10}, r"\(1, 2, 3, 4, 5\)"),
        ({"image": "gaussian", "severity": 7}, r"\(1, 2, 3, 4, 5, 10\)"),
        ({"image": "gaussian", "text": "drop", "severity": 10}, "'drop' has no severity 10"),
        ({"image": "blur", "share": 1.5}, "between 0 and 1"),
    ],
)
def test_what_no_noise_could_mean_is_refused(fields, advice):
    with pytest.raises(UserError, match=advice):
        Noise(**fields)


@pytest.mark.parametrize("corrupt", [corrupt_image, corrupt_text])
def test_swap_is_left_to_whoever_has_the_records(corrupt):
    with pytest.raises(ValueError, match="not 'swap'"):
        corrupt(np.zeros((4, 4, 3), np.uint8), "swap", 3, np.random.default_rng(0))
