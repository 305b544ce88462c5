"""Prepared files say what their source said, however often the work was interrupted."""

import io
import json
import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from support.commands import QUICKSTART, ROOT

from cmaclip_jax.config import base_config
from cmaclip_jax.data.bad_records import BadRecords
from cmaclip_jax.data.images import open_image
from cmaclip_jax.data.prepare.deferred_faults import DeferredFaults
from cmaclip_jax.data.prepare.preparing import summary
from cmaclip_jax.data.prepare.shards import Preparation, StorageFormat, finish_all
from cmaclip_jax.data.prepare.specification import Specification, write_with_beam
from cmaclip_jax.data.prepare.stored import shrink
from cmaclip_jax.data.records import Record, RecordError
from cmaclip_jax.data.sources.shop import Shop
from cmaclip_jax.data.sources.tfds import open_splits
from cmaclip_jax.errors import UserError
from cmaclip_jax.main import main
from cmaclip_jax.tasks import Task

TASKS = (
    Task("colour", ("red", "dark green")),
    Task("image", ("a", "b", "c"), many=True),  # a name that a feature has too
)


def encoded(width, height, kind="JPEG", mode="RGB", **how):
    noise = np.random.default_rng(width).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    picture = Image.fromarray(noise).resize((width, height)).convert(mode)
    buffer = io.BytesIO()
    picture.save(buffer, kind, **how)
    return buffer.getvalue()


def rotated(width, height):
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(width, height, exif=exif)


class Pairs:
    """Records from memory; of those that are None there is nothing to be had."""

    tasks = TASKS

    def __init__(self, records):
        self.records = records

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        if self.records[index] is None:
            raise RecordError("half a row: line 7")
        return self.records[index]


RECORDS = [
    Record("small", encoded(30, 20), "a title", {"colour": "red", "image": ("c", "a")}),
    Record("large", encoded(90, 60, "PNG"), "título 🧢", {"colour": None, "image": ()}),
    Record("no picture", None, "words", {"colour": "dark green", "image": None}),
    Record("no words", encoded(30, 50, mode="L"), None, {"colour": "red", "image": ("b",)}),
    Record("broken", encoded(90, 60)[:200], "broken", {"colour": "red", "image": ("b",)}),
    Record("lost", "/nowhere/picture.jpg", "lost", {"colour": "red", "image": ("b",)}),
    None,
    Record("pixels", np.full((40, 80, 3), 7, np.uint8), "half \ud83e", {"colour": "red"}),
]


def prepare(output, sources, policy="skip", tick=lambda: None, max_bad=1.0, **form):
    form = StorageFormat(**{"shards": 3, "size": 32, **form})
    preparation = Preparation(
        sources, TASKS, output, form, DeferredFaults(policy), {"from": "memory"}
    )

    def write(split, shard):
        return preparation.write(split, shard, tick)

    return preparation, *finish_all(preparation, max_bad, write)


def reopen(output):
    data = base_config().data
    data.path = str(output)
    return open_splits(data, BadRecords())


def contents(folder):
    """Every file and what is in it."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_records_come_back_as_they_were(tmp_path, file_format):
    sources = {"train": Pairs(RECORDS), "val": Pairs(RECORDS[:2]), "test": Pairs([])}
    preparation, counts, bad = prepare(tmp_path / "out", sources, format=file_format)
    splits = reopen(tmp_path / "out")
    assert list(splits) == ["train", "val"]
    assert {task.name: task for task in splits["train"].tasks} == {t.name: t for t in TASKS}
    records = {splits["train"][i].id: splits["train"][i] for i in range(len(splits["train"]))}
    assert list(records) == ["small", "large", "no picture", "no words", "pixels"]
    for record in filter(None, RECORDS):
        if record.id in records:
            back = records[record.id]
            assert back.labels == {"colour": None, "image": None, **record.labels}
            assert (back.image is None) == (record.image is None)
            assert back.text == (record.text and record.text.replace("\ud83e", "?"))
    assert records["small"].image == RECORDS[0].image
    assert open_image(records["large"].image).size == (48, 32)
    assert open_image(records["no words"].image).size == (30, 50)
    assert np.abs(np.asarray(open_image(records["pixels"].image)).astype(int) - 7).max() <= 2

    assert bad.reasons == {"unreadable picture": 1, "missing picture": 1, "half a row": 1}
    lines = (tmp_path / "out/bad_records.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["broken", "lost", "train-6"]
    said = "\n".join(f"{name:12} {value}" for name, value in summary(preparation, counts, bad))
    assert "train        5 pairs, 1 without a picture, 1 without words; 3 shards" in said
    assert "2 classes: red 4, dark green 1; 2 unknown" in said
    assert "3 classes, several at once: c 2, a 2, b 1; 2 unknown" in said
    assert "1 unreadable picture" in said
    assert f"--config.data.source=tfds --config.data.path={tmp_path / 'out'}" in said


def test_tfds_reads_them_by_itself(tmp_path):
    prepare(tmp_path / "a", {"train": Pairs(RECORDS)}, format="tfrecord")
    builder = tfds.builder_from_directory(tmp_path / "a")
    config = tfds.ReadConfig(interleave_cycle_length=1)
    examples = list(tfds.as_numpy(builder.as_dataset(split="train", read_config=config)))
    assert [e["labels"]["colour"] for e in examples] == [0, -1, 1, 0, 0]
    assert [list(e["labels"]["image"]) for e in examples] == [[2, 0], [], [-1], [1], [-1]]
    assert [bool(e["has_image"]) for e in examples] == [True, True, False, True, True]
    assert examples[1]["image"].shape == (32, 48, 3)
    prepare(tmp_path / "b", {"train": Pairs(RECORDS)}, format="array_record")
    source = tfds.builder_from_directory(tmp_path / "b").as_data_source(split="train")
    assert [e["text"].decode() for e in source] == [e["text"].decode() for e in examples]


def test_what_cannot_be_read_follows_the_policy(tmp_path):
    sources = {"train": Pairs(RECORDS), "val": Pairs(RECORDS[:1])}
    prepare(tmp_path / "a", sources, policy="no_image")
    train = reopen(tmp_path / "a")["train"]
    records = {train[i].id: train[i] for i in range(len(train))}
    assert len(records) == 7
    assert (records["broken"].image, records["broken"].text) == (None, "broken")
    with pytest.raises(UserError, match=r"record 'broken' of train: unreadable picture \("):
        prepare(tmp_path / "b", sources, policy="fail")
    with pytest.raises(UserError, match=r"cannot be used .* more than data\.max_bad=0\.1"):
        prepare(tmp_path / "c", sources, max_bad=0.1)


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_the_catalogue_comes_back(tmp_path, file_format):
    shop = Shop("train", 40, image_size=48, missing_labels=0.3, missing_images=0.2)
    preparation = Preparation(
        {"train": shop},
        shop.tasks,
        tmp_path,
        StorageFormat(3, 48, 95, file_format),
        DeferredFaults(),
        {},
    )
    finish_all(preparation, 0, preparation.write)
    splits = reopen(tmp_path)
    records = [splits[s][i] for s in ("train", "val") for i in range(len(splits[s]))]
    assert len(records) == 40  # without a validation split the end of train serves
    for index, back in enumerate(records):
        record = shop[index]
        assert (back.id, back.text, back.labels) == (record.id, record.text, record.labels)
        assert (back.image is None) == (record.image is None)
        if record.image is not None:
            error = np.asarray(open_image(back.image)) - record.image.astype(float)
            assert np.abs(error).mean() < 12
    for task in shop.tasks:
        labels = [label for s in ("train", "val") for label in splits[s].labels(task.name)]
        assert labels == [record.labels[task.name] for record in records]


@pytest.mark.parametrize("picture", [rotated(20, 30), encoded(20, 30, mode="CMYK")])
def test_only_upright_rgb_jpegs_are_kept(picture):
    shrunk = shrink(picture, 64, 92)
    assert shrunk != picture
    image = Image.open(io.BytesIO(shrunk))
    assert (image.mode, image.format) == ("RGB", "JPEG")
    assert image.size == open_image(picture).size  # never enlarged


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_an_interrupted_run_ends_with_the_same_bytes(tmp_path, file_format):
    sources = {"train": Pairs(RECORDS * 5), "val": Pairs(RECORDS)}
    how = {"format": file_format, "shards": 4}
    prepare(tmp_path / "whole", sources, **how)
    expected = contents(tmp_path / "whole")
    assert not [name for name in expected if name.endswith(".part")]
    for most in (12, 17):
        ticks = iter(range(most))
        with pytest.raises(StopIteration):
            prepare(tmp_path / "parts", sources, tick=lambda ticks=ticks: next(ticks), **how)
        assert contents(tmp_path / "parts").keys() != expected.keys()
    read = []
    prepare(tmp_path / "parts", sources, tick=lambda: read.append(1), **how)
    assert contents(tmp_path / "parts") == expected
    assert len(read) < 48  # what was finished was not done again
    (tmp_path / "parts" / f"cmaclip-val.{file_format}-00000-of-00001").write_bytes(b"cut")
    prepare(tmp_path / "parts", sources, **how)
    assert contents(tmp_path / "parts") == expected


def command(output, *more):
    shop = {"train_size": 1500, "val_size": 30, "test_size": 30}
    config = [QUICKSTART]
    config += [f"--config.data.shop.{name}={value}" for name, value in shop.items()]
    return ["prepare", *config, f"--output={output}", "--shards=10", "--size=40", *more]


def test_a_killed_command_continues(tmp_path, capsys):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    run = [sys.executable, "-m", "cmaclip_jax.main"]
    process = subprocess.Popen(
        [*run, *command(killed)], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    deadline = time.monotonic() + 60
    while len(list(killed.glob("finished/*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "dataset_info.json").exists()
    assert main(command(killed)) == 0
    assert "of 12 shards are there already" in capsys.readouterr().err
    subprocess.run([*run, *command(whole)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    assert contents(killed) == contents(whole)


def test_a_folder_has_one_origin_and_form(tmp_path, capsys):
    small = "--config.data.shop.train_size=20"
    assert main(command(tmp_path / "out", small)) == 0
    for argument, says in (
        ("--quality=80", "form.quality is 92 there and 80 here"),
        ("--config.data.shop.seed=4", "was begun differently: data.shop"),
        ("--config.data.labels=('colour',)", "was begun differently: data.labels"),
        ("--size=0", "--size=0 must lie between 1 and 65500"),
    ):
        assert main(command(tmp_path / "out", small, argument)) == 2
        assert says in capsys.readouterr().err
    assert main(command(tmp_path / "out", small, "--config.data.max_bad=0.5")) == 0
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_text("mine")
    capsys.readouterr()
    assert main(command(tmp_path / "other")) == 2
    assert "is not empty; name another --output" in capsys.readouterr().err


def test_beam_writes_the_same(tmp_path, config):
    pytest.importorskip("apache_beam")
    jobs = [
        Specification.of(config.data, str(tmp_path / name), StorageFormat(3, 40))
        for name in ("here", "beam")
    ]
    write_with_beam(jobs[1], jobs[1].open().pieces(), ["--runner=DirectRunner"])
    for job in jobs:
        preparation = job.open()
        finish_all(preparation, 0.1, preparation.write)
    assert contents(tmp_path / "here") == contents(tmp_path / "beam")


def test_a_job_travels(tmp_path, config):
    config.data.labels = ("contents", "colour")
    job = pickle.loads(
        pickle.dumps(Specification.of(config.data, str(tmp_path), StorageFormat(3, 40)))
    )
    preparation = job.open()
    assert [task.name for task in preparation.tasks] == ["contents", "colour"]
    assert preparation.write("train", 1).records == 21


def test_names_that_tfds_would_change_are_refused(tmp_path):
    task = Task("size", ("small", "very\nlarge"))
    with pytest.raises(UserError, match=r"class 'very\\nlarge' of 'size' must be one line"):
        Preparation(
            {"train": Pairs(RECORDS)}, [task], tmp_path, StorageFormat(1), DeferredFaults(), {}
        )
