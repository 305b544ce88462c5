"""Pictures and texts as notebooks hold them: the same answers, or one line on what is wanted."""

import numpy as np
import pytest
from PIL import Image

import cmaclip_jax as cma
from cmaclip_jax.data.python_inputs import list_pictures, list_texts

NAN = float("nan")
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 20, 24, 3)).astype(np.uint8)
TEXTS = ["a red mug", None, "a blue hat", "a bag"]


class Series:
    """Stands in for a column of pandas: iterable, and neither true nor false."""

    def __init__(self, values):
        self.values, self.shape = list(values), (len(values),)

    def __iter__(self):
        return iter(self.values)

    def __len__(self):
        return len(self.values)

    def __getitem__(self, label):
        raise KeyError(label)

    def __bool__(self):
        raise ValueError("The truth value of a Series is ambiguous")


class NAType:
    """Stands in for pandas.NA: no comparison with it is true or false."""

    def __eq__(self, other):
        return self

    def __bool__(self):
        raise TypeError("boolean value of NA is ambiguous")

    __hash__ = object.__hash__


@pytest.fixture(scope="module")
def model(finished_run):
    return cma.load(finished_run)


@pytest.fixture(scope="module")
def expected(model):
    return model.predict(list(PIXELS), TEXTS)


@pytest.mark.parametrize(
    ("images", "texts"),
    [
        (PIXELS, np.array(TEXTS, object)),
        (Series(PIXELS), Series(["a red mug", NAN, "a blue hat", "a bag"])),
        (tuple(map(Image.fromarray, PIXELS)), ("a red mug", NAType(), "a blue hat", "a bag")),
        (PIXELS.astype(np.float32), ["a red mug", np.float32("nan"), "a blue hat", "a bag"]),
        (PIXELS / 255, iter(TEXTS)),
        (PIXELS.astype(np.int64), np.array(["a red mug", "", "a blue hat", "a bag"])),
        (map(bytes, []), []),
    ],
    ids=["arrays", "series", "tuples", "floats", "shares", "integers", "nothing"],
)
def test_what_notebooks_hold_is_answered_alike(model, expected, images, texts):
    assert model.predict(images, texts) in (expected, [])


def test_pandas_itself_is_taken(model, expected):
    pandas = pytest.importorskip("pandas", reason="only a notebook needs it")
    frame = pandas.DataFrame({"image": list(PIXELS), "text": TEXTS}, index=[7, 5, 3, 1])
    assert model.predict(frame["image"], frame["text"]) == expected
    frame["text"] = frame["text"].astype("string")
    assert model.predict(frame["image"], frame["text"]) == expected
    with pytest.raises(cma.UserError, match="one column"):
        model.predict(texts=frame)


def test_absent_pictures_are_answered_by_the_words(model):
    gaps = [NAN, None, "", NAType()]
    alone = model.predict(texts=["a red mug"] * 4)
    assert model.predict(gaps, ["a red mug"] * 4) == alone


def test_pixels_become_bytes():
    (shares, greys, clear) = list_pictures(
        [PIXELS[0] / 255, PIXELS[0, ..., :1], np.dstack([PIXELS[0], PIXELS[0, ..., :1]])]
    )
    np.testing.assert_array_equal(shares, PIXELS[0])
    np.testing.assert_array_equal(greys, PIXELS[0, ..., 0])
    assert clear.shape == (20, 24, 4)
    assert list_pictures(np.zeros((2, 5, 6)))[1].shape == (5, 6)
    assert not list_pictures([np.zeros((4, 4, 3), bool).astype(float)])[0].any()


@pytest.mark.parametrize(
    ("pictures", "wanted"),
    [
        (Image.fromarray(PIXELS[0]), r"one picture; give a list"),
        (PIXELS[0], r"one picture; give a list"),
        ("a.jpg", "give a list, also of one"),
        ({"a": "a.jpg"}, "give a list, not a dict"),
        (3, "give a list, not a int"),
        (np.zeros((4, 4)), "give a list of pictures"),
        ([None, 3], "picture number 1 is a int; a picture is a path"),
        ([PIXELS[0].transpose(2, 0, 1)], r"picture number 0.*\[H,W,3\], the colours last"),
        ([PIXELS[0] / 127.5 - 1], "numbers from -1 to 1 is no picture"),
        ([np.full((4, 4, 3), NAN)], "is no picture"),
        ([PIXELS[0].astype("U3")], "is no picture"),
    ],
)
def test_what_is_no_list_of_pictures_ends_in_one_line(pictures, wanted):
    with pytest.raises(cma.UserError, match=wanted) as told:
        list_pictures(pictures)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        ("a mug", "give a list, also of one"),
        (b"a mug", "give a list, also of one"),
        (["a mug", 3], "text number 1 is a int; a text is a str"),
        (np.array([["a", "b"]]), "give one column"),
        ({"a mug"}, "give a list, not a set"),
    ],
)
def test_what_is_no_list_of_texts_ends_in_one_line(texts, wanted):
    with pytest.raises(cma.UserError, match=wanted):
        list_texts(texts)


def test_embeddings_take_the_same(clip_folder):
    clip = cma.load_clip(clip_folder)
    images, texts = clip.embed_images(list(PIXELS)), clip.embed_texts(["red", "blue"])
    np.testing.assert_allclose(clip.embed_images(Series(PIXELS / 255)), images, atol=1e-6)
    np.testing.assert_allclose(clip.embed_images(PIXELS), images, atol=1e-6)
    np.testing.assert_allclose(clip.embed_texts(Series(["red", "blue"])), texts, atol=1e-6)
    with pytest.raises(cma.UserError, match="text number 1 is absent; leave it out"):
        clip.embed_texts(["red", NAN])
    with pytest.raises(cma.UserError, match="give a list of pictures"):
        clip.embed_images(None)
    with pytest.raises(cma.UserError, match="one picture; give a list"):
        clip.embed_images(PIXELS[0])


def test_the_public_names_are_shown():
    names = {"load", "load_clip", "Answer", "Classifier", "ClipEmbedder", "UserError"}
    assert names == set(dir(cma)) == set(cma.__all__)
    assert all(getattr(cma, name).__name__ == name for name in names)
