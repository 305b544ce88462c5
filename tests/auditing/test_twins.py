"""Twins that were planted among different articles are found, and what follows from them."""

import csv
import dataclasses
import io

import numpy as np
import pytest
from PIL import Image, ImageOps
from support.small import small_config

from cmaclip_jax.auditing.twin_table import write_twin_table
from cmaclip_jax.auditing.twins import (
    EVIDENCE,
    LINKS,
    Twins,
    conflicts,
    find_twins,
    leaks,
    twin_groups,
)
from cmaclip_jax.auditing.wording import shared_words, words_of
from cmaclip_jax.data.bad_records import BadRecords
from cmaclip_jax.data.records import Record
from cmaclip_jax.data.sources import open_sources

BICUBIC = Image.Resampling.BICUBIC
NAMES = ("red", "large", "new", "round", "small", "fine", "old")


@dataclasses.dataclass
class Rows:
    """Pictures and texts as a source."""

    pairs: list

    tasks = ()

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        return Record(str(index), *self.pairs[index], {})

    def text(self, index):
        return self.pairs[index][1]


def drawn(seed):
    """An article on a white background: a silhouette with soft colours."""
    random = np.random.default_rng(seed)
    small, smaller = random.integers(0, 200, (5, 5, 3)), random.integers(0, 256, (4, 4))
    colours = Image.fromarray(small.astype(np.uint8)).resize((96, 96), BICUBIC)
    shape = Image.fromarray(smaller.astype(np.uint8)).resize((72, 72), BICUBIC)
    mask = Image.new("L", (96, 96))
    mask.paste(shape.point(lambda value: 255 * (value > 100)), (12, 12))
    return np.asarray(Image.composite(colours, Image.new("RGB", (96, 96), "white"), mask))


def catalogue(count=40):
    """Different articles that all have a picture and a title."""
    return [(drawn(row), f"{NAMES[row % 7]} article, number {row}") for row in range(count)]


def jpeg(image, quality=90):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def recompressed(picture):
    return jpeg(Image.fromarray(picture), 40)


def cropped(picture):
    return jpeg(Image.fromarray(picture).crop((4, 0, 96, 92)))


def mirrored(picture):
    return jpeg(ImageOps.mirror(Image.fromarray(picture)))


def pairs_of(twins):
    return set(zip(twins.first.tolist(), twins.second.tolist(), strict=True))


def found(first, second, similarity=None):
    size = len(first)
    return Twins(
        np.array(first, np.int32),
        np.array(second, np.int32),
        np.ones(size, np.float32) if similarity is None else np.array(similarity, np.float32),
        np.tile([True, False, False], (size, 1)),
    )


@pytest.mark.parametrize("change", [recompressed, cropped, mirrored])
def test_changed_pictures_are_found_and_no_other_article_is(change):
    pairs = catalogue()
    copies = [(change(picture), text) for picture, text in pairs[:15]]
    twins = find_twins(Rows(pairs + copies))
    planted = {(row, len(pairs) + row) for row in range(15)}
    assert pairs_of(twins) == planted
    assert (twins.similarity > 0.9).all()
    assert twins.evidence[:, EVIDENCE.index("text")].all()


def test_a_picture_that_is_cropped_and_a_title_that_is_reworded():
    pairs = catalogue()
    copies = []
    for picture, text in pairs[:10]:
        kind, article, _, row = text.upper().split()
        copies.append((cropped(picture), f"{row}: {article} {kind}"))
    assert pairs_of(find_twins(Rows(pairs + copies))) == {(row, 40 + row) for row in range(10)}


def test_articles_on_the_same_backdrop_are_no_twins():
    source = open_sources(small_config().data, BadRecords())["train"]
    assert not len(find_twins(Rows([(source[row].image, None) for row in range(len(source))])))


def test_equal_pictures_need_no_text():
    (picture, text), *others = catalogue(10)
    twins = find_twins(Rows([(picture, text), (jpeg(Image.fromarray(picture)), None), *others]))
    assert pairs_of(twins) == {(0, 1)}
    assert twins.evidence.tolist() == [[True, False, False]]


def test_equal_titles_of_different_pictures_are_no_twins():
    pairs = [(picture, "the same title for all") for picture, _ in catalogue(20)]
    assert not len(find_twins(Rows(pairs)))


def test_without_pictures_only_equal_words_count():
    texts = ["Red mug, steel", "steel RED mug", "blue mug, steel", None, "", None]
    twins = find_twins(Rows([(None, text) for text in texts]))
    assert pairs_of(twins) == {(0, 1)}
    assert twins.evidence.tolist() == [[False, False, True]]
    assert twins.similarity.tolist() == [1.0]


def test_unreadable_and_blank_pictures_are_no_evidence():
    white = np.full((48, 48, 3), 255, np.uint8)
    pictures = [b"no picture", b"no picture", "missing.jpg", "missing.jpg", white, white]
    texts = ["one", "two", "three", "four", "five", "six"]
    assert not len(find_twins(Rows(list(zip(pictures, texts, strict=True)))))
    assert pairs_of(find_twins(Rows([(b"no picture", "red mug"), (None, "mug red")]))) == {(0, 1)}


def test_many_rows_with_one_placeholder_are_a_group_with_few_links():
    others = catalogue(5)
    rows = [(others[0][0], f"article {row}") for row in range(300)] + others[1:]
    twins = find_twins(Rows(rows))
    groups = twin_groups(twins, len(rows))
    assert len(set(groups[:300])) == 1
    assert len(set(groups)) == 5
    assert len(twins) <= 300 * (LINKS + 1)


def test_almost_equal_embeddings_speak_for_pictures_that_agree():
    pairs = [(picture, None) for picture, _ in catalogue(12)]
    copies = [(cropped(picture), None) for picture, _ in pairs[:6]]
    embeddings = np.eye(12, dtype=np.float32)
    source, same = Rows(pairs + copies), np.concatenate([embeddings, embeddings[:6]])
    twins = find_twins(source, same)
    assert pairs_of(twins) == {(row, 12 + row) for row in range(6)}
    assert twins.evidence[:, EVIDENCE.index("embedding")].all()
    different = np.concatenate([embeddings, embeddings[6:]])  # equal, of different pictures
    assert not {(row + 6, row + 12) for row in range(6)} & pairs_of(find_twins(source, different))


def test_no_rows_and_one_row():
    assert not len(find_twins(Rows([])))
    assert not len(find_twins(Rows(catalogue(1))))


def test_words():
    def shared(first, second):
        return shared_words(words_of(first), words_of(second))

    assert shared("Blue, round mug", "mug ROUND blue") == 1
    assert shared("blue round steel mug", "steel mug blue") == 0.75
    assert shared("blue round steel mug", "red round steel mug") == 0
    assert shared("mug", "blue mug") == 0
    assert shared(None, None) == shared("", "a") == 0


def test_groups_are_connected_pairs():
    groups = twin_groups(found([0, 2, 1], [2, 5, 4]), 7)
    assert groups.dtype == np.int32
    assert groups[0] == groups[2] == groups[5]
    assert groups[1] == groups[4]
    assert len(set(groups.tolist())) == 4
    assert twin_groups(found([], []), 3).tolist() == [0, 1, 2]


def test_leaks_are_rows_outside_train_with_a_twin_in_train():
    splits = ["train", "val", "test", "train", "test", "val"]
    twins = found([0, 0, 2, 1], [1, 3, 3, 4])
    assert leaks(twins, splits).tolist() == [False, True, True, False, False, False]


def test_conflicts_are_different_known_labels():
    labels = {
        "colour": ["red", "blue", None, "red"],
        "contents": [("mug", "hat"), ("hat", "mug"), ("mug",), ()],
    }
    twins = found([0, 0, 0], [1, 2, 3])
    assert [tuple(conflict) for conflict in conflicts(twins, labels)] == [
        (0, "colour", "red", "blue"),
        (1, "contents", ("mug", "hat"), ("mug",)),
        (2, "contents", ("mug", "hat"), ()),
    ]


def test_the_table_of_twins(tmp_path):
    twins = found([0, 1], [1, 2], [0.95, 1.0])
    labels = {"colour": ["red", "blue", None], "contents": [("a", "b"), ("a",), None]}
    write_twin_table(tmp_path / "twins.csv", twins, "xyz", ["train", "val", "val"], labels)
    with (tmp_path / "twins.csv").open() as file:
        first, second = csv.DictReader(file)
    assert (first["id"], first["twin"], first["leak"], first["conflicts"]) == (
        "y",
        "z",
        "false",
        "",
    )
    assert second == {
        "id": "x",
        "split": "train",
        "twin": "y",
        "twin_split": "val",
        "similarity": "0.950",
        "evidence": "pixels",
        "leak": "true",
        "conflicts": "colour: red / blue; contents: a|b / a",
    }


def test_sure_twins_agree_by_pixels_or_have_no_pictures():
    evidence = np.array([[True, False, False], [False, False, True], [False, False, True]])
    twins = Twins(np.arange(3), np.arange(3) + 1, np.array([0.98, 0.95, 1.0]), evidence)
    assert twins.sure.first.tolist() == [0, 2]
