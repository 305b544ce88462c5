"""Any TFDS data set by random access: as TFDS itself reads it, and in any order."""

import io
import random
import re
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from support.tiny_pairs import COLOURS, SIZES, THINGS, TinyPairs

from cmaclip_jax.config import base_config
from cmaclip_jax.data import record_files, storage
from cmaclip_jax.data.bad_records import BadRecords
from cmaclip_jax.data.record_files import find_frames
from cmaclip_jax.data.sources.tfds import open_splits
from cmaclip_jax.errors import UserError


@pytest.fixture(scope="module", params=["tfrecord", "array_record"])
def folder(request, tmp_path_factory):
    """The data set in several shards."""
    builder = TinyPairs(data_dir=tmp_path_factory.mktemp(request.param), file_format=request.param)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=3))
    return builder.data_dir


def data_of(path, **fields):
    data = base_config().data
    data.path = str(path)
    for name, value in fields.items():
        (data.tfds if name in data.tfds else data)[name] = value
    return data


def open_folder(path, bad=None, **fields):
    return open_splits(data_of(path, **fields), bad or BadRecords())


def as_tfds_reads(folder, split):
    """TFDS's own way, which is another one for each of its formats."""
    builder = tfds.builder_from_directory(folder)
    if builder.info.file_format.value == "array_record":
        return [*builder.as_data_source(split=split)]
    config = tfds.ReadConfig(interleave_cycle_length=1)  # shard after shard
    return list(tfds.as_numpy(builder.as_dataset(split=split, read_config=config)))


def words(value):
    return value if isinstance(value, str) else value.decode()


def assert_same(source, examples):
    """Every record says what TFDS's own example says."""
    assert len(source) == len(examples)
    assert source.labels("colour") == [source[i].labels["colour"] for i in range(len(source))]
    for index, example in enumerate(examples):
        record = source[index]
        assert isinstance(record.image, bytes)
        np.testing.assert_array_equal(Image.open(io.BytesIO(record.image)), example["image"])
        assert record.text == (words(example["title"]) or None)
        colour = example["colour"]
        assert record.labels["colour"] == (None if colour < 0 else COLOURS[colour])
        things = tuple(THINGS[i] for i in example["more"]["things"])
        assert record.labels["things"] == (things or None)


def test_records_are_those_of_tfds(folder):
    splits = open_folder(folder, text="title")
    assert list(splits) == ["train", "val", "test"]
    for split, name in (("train", "train"), ("val", "validation"), ("test", "test")):
        assert_same(splits[split], as_tfds_reads(folder, name))
    assert splits["train"][3].id == "train-3"
    tasks = {task.name: (task.classes, task.many) for task in splits["train"].tasks}
    assert tasks == {"colour": (COLOURS, False), "things": (THINGS, True)}


@pytest.mark.parametrize("expression", ["train[10%:]", "train[5:29]", "validation+train[-3:]"])
def test_any_slice_is_a_split(folder, expression):
    splits = open_folder(folder, text="title", train=expression, val="train[:2]")
    assert_same(splits["train"], as_tfds_reads(folder, expression))
    assert_same(splits["val"], as_tfds_reads(folder, "train[:2]"))


def test_without_validation_the_end_of_train_serves(folder, monkeypatch):
    monkeypatch.setattr("cmaclip_jax.data.sources.tfds.VALIDATION", ())
    splits = open_folder(folder, text="title")
    assert (len(splits["train"]), len(splits["val"])) == (33, 4)
    assert_same(splits["train"], as_tfds_reads(folder, "train[:33]"))
    assert_same(splits["val"], as_tfds_reads(folder, "train[33:]"))


def test_threads_read_in_any_order(folder):
    source = open_folder(folder)["train"]
    expected = [source[index] for index in range(len(source))]
    order = [index for _ in range(20) for index in random.sample(range(len(source)), len(source))]
    fresh = open_folder(folder)["train"]
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(fresh.__getitem__, order)) == [expected[index] for index in order]


def test_what_is_read_can_be_chosen(folder):
    record = open_folder(folder)["train"][1]  # all words but the name of the file
    example = as_tfds_reads(folder, "train")[1]
    assert record.text == " ".join(
        text for text in (words(example["maker"]), words(example["title"])) if text
    )
    assert open_folder(folder, text="none")["train"][1].text is None
    record = open_folder(folder, image="pixels", text="title,maker", labels=("things",))["train"][1]
    np.testing.assert_array_equal(record.image, np.repeat(example["pixels"], 3, axis=2))
    assert list(record.labels) == ["things"]
    assert open_folder(folder, image="none")["train"][1].image is None


def test_words_become_the_classes_of_training(folder):
    bad = BadRecords()
    splits = open_folder(folder, bad, labels=("maker", "colour"))
    maker, colour = splits["test"].tasks
    assert (maker.name, maker.classes) == ("maker", ("Acme", "Bolt"))
    assert colour.classes == COLOURS
    examples = as_tfds_reads(folder, "test")
    expected = [words(e["maker"]) for e in examples]
    assert "Unheard" in expected
    known = [name if name in maker.classes else None for name in expected]
    assert splits["test"].labels("maker") == known
    assert bad.reasons == {"unknown class of maker": 1}
    assert not any("Acme" in (splits["test"][i].text or "") for i in range(8))


def test_a_named_builder_is_built_where_it_is_not(tmp_path, capsys):
    for _ in range(2):
        splits = open_folder(tmp_path, name="tiny_pairs")
        assert len(splits["train"]) == SIZES["train"]
    assert capsys.readouterr().err.count("building tiny_pairs in") == 1


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"path": ""}, "name a builder with data.tfds.name"),
        ({"path": "/nowhere"}, "must be the folder with dataset_info.json"),
        ({"name": "no_such_data"}, "cannot open the TFDS data set 'no_such_data'"),
        ({"train": "trian"}, "no TFDS split 'trian'; .*'train'"),
        ({"val": "train[30:]"}, "shares 7 records with data.tfds.train='train'; cut them apart"),
        ({"image": "picture"}, "no feature 'picture' for data.image; .*'image'"),
        ({"image": "title"}, "is no picture"),
        ({"text": "image"}, "is no Text"),
        ({"labels": ("price",)}, "holds no labels"),
        ({"labels": ("size",)}, "no feature 'size' for data.labels"),
        ({"image": "none", "text": "none"}, "neither a picture nor words"),
    ],
)
def test_mistakes_carry_their_fix(folder, fields, says):
    with pytest.raises(UserError, match=says):
        open_splits(data_of(**{"path": folder, **fields}), BadRecords())


def write_frames(path, payloads):
    frames = [struct.pack("<Q4x", len(p)) + p + b"\0\0\0\0" for p in payloads]
    path.write_bytes(b"".join(frames))


def test_a_cut_file_is_noticed(tmp_path):
    path = tmp_path / "file"
    payloads = [b"a", b"", b"b" * 300]
    write_frames(path, payloads)
    whole = path.read_bytes()
    frames = find_frames(str(path))
    assert [whole[start : start + length] for start, length in frames] == payloads
    for length in (len(whole) - 1, 20, 3):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=re.escape(f"{path} is no whole TFRecord file")):
            find_frames(str(path))


def test_many_files_and_files_elsewhere_are_read_alike(folder, monkeypatch):
    here = open_folder(folder)["train"]
    expected = [here[index] for index in range(len(here))]
    for module, name, value in (
        (record_files, "KEPT_OPEN", 1),
        (record_files, "is_local", lambda path: False),
        (storage, "is_local", lambda path: False),
    ):
        monkeypatch.setattr(module, name, value)
        there = open_folder(folder)["train"]
        assert [there[index] for index in range(len(there))] == expected
