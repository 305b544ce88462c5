"""What real folders hold: every kind of strange picture and text, through the real pipeline."""

import gc
import io
import itertools
import json
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from cmaclip_jax.data import jpeg
from cmaclip_jax.data.augment import Augment
from cmaclip_jax.data.bad_records import BadRecords
from cmaclip_jax.data.batches import BatchEncoder
from cmaclip_jax.data.images import clip_image
from cmaclip_jax.data.loading import Loader
from cmaclip_jax.data.noise import Noise
from cmaclip_jax.data.order import Order
from cmaclip_jax.data.pipeline import eval_batches, train_batches
from cmaclip_jax.data.records import Record
from cmaclip_jax.data.text import train_tokenizer
from cmaclip_jax.data.view import View
from cmaclip_jax.errors import UserError
from cmaclip_jax.runs.training import train_and_evaluate
from cmaclip_jax.tasks import Task

SIZE = 16
RED, BLUE = (220, 30, 20), (20, 40, 200)
VIEWS = {"exact": View(), "cropped": View(Augment(crop=0.9))}


def halves(width=60, height=40) -> Image.Image:
    """Red above, blue below."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (0, height // 2, width, height))
    return image


def saved(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turned() -> bytes:
    """The picture lying on its side, with Exif that says so."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees, clockwise
    return saved(halves().rotate(90, expand=True), quality=95, exif=exif)


def with_upright_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 1
    return saved(halves(), quality=95, exif=exif)


GREYS = (np.linspace(0, 65535, 40)[:, None] * np.ones(60)).astype(np.uint16)
READABLE = {
    "plain.jpg": saved(halves(), quality=95),
    "progressive.jpg": saved(halves(), quality=95, progressive=True),
    "a png named.jpg": saved(halves(), "PNG"),
    "cmyk.jpg": saved(halves().convert("CMYK"), quality=95),
    "alpha.png": saved(halves().convert("RGBA"), "PNG"),
    "palette.gif": saved(halves(), "GIF"),
    "animated.gif": saved(
        halves(), "GIF", save_all=True, append_images=[Image.new("RGB", (60, 40))]
    ),
    "turned.jpg": turned(),
    "exif.jpg": with_upright_exif(),
    "webp.jpg": saved(halves(), "WEBP", lossless=True),
    "huge.jpg": saved(halves(10_000, 10_000)),
    "bytes after the end.jpg": saved(halves(), quality=95) + b"\0" * 40,
}
GREY = {
    "grey.jpg": saved(Image.fromarray((GREYS // 257).astype(np.uint8)), quality=95),
    "sixteen.png": saved(Image.fromarray(GREYS), "PNG"),
    "grey with alpha.png": saved(
        Image.fromarray((GREYS // 257).astype(np.uint8)).convert("LA"), "PNG"
    ),
}
WHOLE = READABLE["plain.jpg"]
BROKEN = {
    "no picture.jpg": b"this is no picture",
    "empty.jpg": b"",
    "cut.jpg": WHOLE[: len(WHOLE) // 2],
    "cut with an end.jpg": WHOLE[:200] + b"\xff\xd9",
    "header alone.jpg": WHOLE[:20],
    "cut.png": READABLE["a png named.jpg"][:80],
}


class Pairs:
    """Records as they stand in a list."""

    tasks = (Task("kind", ("a", "b")),)

    def __init__(self, records):
        self.records = list(records)

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        return self.records[index]

    def labels(self, task):
        return [record.labels[task] for record in self.records]


def pair(image, name="it", text="some words", kind="a") -> Record:
    return Record(name, image, text, {"kind": kind})


@pytest.fixture(scope="module")
def encode():
    return BatchEncoder(Pairs.tasks, train_tokenizer(["some words"], 300), SIZE, 12)


def loader(encode, records, view="exact", **ledger) -> Loader:
    return Loader(Pairs(records), "train", encode, BadRecords(**ledger), VIEWS.get(view, view))


def one_batch(load: Loader, rows: int | None = None):
    rows = rows or len(load.source)
    if load.view.crops:
        return next(train_batches(load, Order(len(load.source)), batch_size=rows))
    return next(eval_batches(load, batch_size=rows))


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", READABLE)
def test_strange_pictures_are_read_upright_and_in_colour(encode, tmp_path, view, name):
    (tmp_path / name).write_bytes(READABLE[name])
    for image in (str(tmp_path / name), READABLE[name]):
        load = loader(encode, [pair(image)], view)
        batch = one_batch(load)
        assert not load.bad.reasons
        assert batch["has_image"].all()
        picture = batch["image"][0].astype(int)
        np.testing.assert_allclose(picture[2].mean(axis=0), RED, atol=25)
        np.testing.assert_allclose(picture[-3].mean(axis=0), BLUE, atol=25)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", GREY)
def test_greys_of_any_depth_become_three_equal_channels(encode, view, name):
    picture = one_batch(loader(encode, [pair(GREY[name])], view))["image"][0].astype(int)
    assert np.ptp(picture, axis=-1).max() <= 2
    rows = picture.mean(axis=(1, 2))
    assert rows[0] < 30
    assert rows[-1] > 225
    assert abs(rows.mean() - 127) < 8


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("policy", ["skip", "no_image", "fail"])
@pytest.mark.parametrize("name", [*BROKEN, "missing", "a folder"])
def test_unreadable_pictures_follow_the_policy(encode, tmp_path, view, policy, name):
    if name in BROKEN:
        (tmp_path / "x.jpg").write_bytes(BROKEN[name])
    elif name == "a folder":
        (tmp_path / "x.jpg").mkdir()
    records = [pair(WHOLE, "good"), pair(str(tmp_path / "x.jpg"), "broken", kind="b")]
    ledger = {"path": tmp_path / "bad_records.jsonl", "policy": policy, "max_share": 1.0}
    load = loader(encode, records, view, **ledger)
    if policy == "fail":
        with pytest.raises(UserError, match=r"record 'broken' of train: .*; mend it, or let"):
            one_batch(load)
        return
    batch = one_batch(load)
    good = batch["labels"]["kind"] == 0
    assert batch["weight"][good].sum() == 1
    assert batch["has_image"][good].sum() == 1
    kept = batch["weight"][~good].sum()
    assert kept == (policy == "no_image")
    assert batch["has_text"].sum() == 1 + kept
    assert not batch["has_image"][~good].any()
    assert not batch["image"][~good].any()
    (line,) = map(json.loads, (tmp_path / "bad_records.jsonl").read_text().splitlines())
    assert line["id"] == "broken"
    assert line["reason"] == ("unreadable picture" if name in BROKEN else "missing picture")
    assert line["detail"]


def refused_by_tensorflow() -> bytes:
    """A JPEG that looks plain and whole, but in which TensorFlow's decoder stumbles."""
    whole = bytearray(saved(halves(), quality=95))
    start = whole.find(b"\xff\xda")  # the picture's own data
    whole[start + 2 : start + 14] = b"\0" * 12
    return bytes(whole)


def test_a_jpeg_that_only_looks_whole_takes_no_other_with_it(encode):
    """tf.data refuses the batch; made again with care, only the one row differs."""
    fake = refused_by_tensorflow()
    assert jpeg.plain_size(fake)
    with pytest.raises(tf.errors.InvalidArgumentError):
        tf.io.decode_jpeg(fake)
    good = [pair(saved(halves(50 + i, 40), quality=95), f"{i}") for i in range(15)]
    bad = [*good[:7], pair(fake, "fake"), *good[8:]]
    view = View(Augment(crop=0.5, flip=True))
    streams = [
        train_batches(loader(encode, records, view, max_share=1.0), Order(15), batch_size=5)
        for records in (good, bad)
    ]
    hit = 0
    for _ in range(9):
        whole, mended = (next(stream) for stream in streams)
        rows = mended["weight"] > 0
        hit += np.sum(~rows)
        np.testing.assert_array_equal(mended["image"][rows], whole["image"][rows])
        assert rows.sum() >= 4
    assert hit == 3  # once an epoch


def test_the_stream_goes_on_after_bad_batches_in_the_same_order(encode):
    fake = [pair(refused_by_tensorflow(), f"fake {i}") for i in range(4)]
    good = [pair(WHOLE, f"good {i}", text=f"words {i}") for i in range(28)]
    load = loader(encode, fake + good, "cropped", max_share=1.0)
    tokens = [
        b["tokens"] for b in itertools.islice(train_batches(load, Order(32), batch_size=4), 16)
    ]
    again = next(train_batches(load, Order(32), batch_size=4, start=11))
    np.testing.assert_array_equal(again["tokens"], tokens[11])
    assert load.bad.reasons == {"unreadable picture": 4}


def test_records_with_nothing_in_them_are_left_out_and_listed(encode):
    records = [pair(None, "nothing", text=""), pair(None, "words"), pair(WHOLE)]
    load = loader(encode, records, max_share=1.0)
    batch = one_batch(load)
    assert list(batch["weight"]) == [0, 1, 1]
    assert load.bad.reasons == {"neither picture nor words": 1}


@pytest.mark.parametrize(
    "text",
    ["x " * 5_000, "word" * 2_500, "🧢 帽子 naïve", "\udcff\udcfe odd", "\0\t\n ", "&amp;amp;"],
)
def test_texts_of_any_kind_become_tokens(encode, text):
    batch = one_batch(loader(encode, [pair(WHOLE, text=text)]))
    assert batch["tokens"].shape == (1, 12)
    assert batch["tokens"][0, 0] == encode.tokenizer.before[0]
    assert batch["tokens"][0, -1] == encode.tokenizer.end


def test_a_class_the_run_does_not_know_is_an_unknown_label(encode):
    assert one_batch(loader(encode, [pair(WHOLE, kind="c")]))["labels"]["kind"][0] == -1


def test_the_share_of_bad_records_ends_the_run_once_it_is_too_large(encode):
    records = [pair(b"no" if i % 10 == 0 else WHOLE, str(i)) for i in range(200)]
    for share, ends in ((0.2, False), (0.05, True)):
        load = loader(encode, records, max_share=share)
        if ends:
            with pytest.raises(UserError, match=r"20 of the first 200 records of train"):
                list(eval_batches(load, batch_size=8))
        else:
            assert sum(b["weight"].sum() for b in eval_batches(load, batch_size=8)) == 180


def test_bad_ones_among_those_seen_are_counted_once_and_by_record():
    bad = BadRecords(max_share=0.05)
    for number in range(300):  # known at once, met one after the other: no reason to stop
        bad.fault("train", "the same id", "unreadable picture", str(number))
    for _ in range(2):
        for first in range(0, 20_000, 100):
            bad.saw("train", range(first, first + 100), [first, first + 50], 20_000)
    for first in range(0, 900, 100):
        bad.saw("val", range(first, first + 100), range(first, first + 6), 20_000)
    with pytest.raises(UserError, match="60 of the first 1,000 records of val"):
        bad.saw("val", range(900, 1_000), range(900, 906), 20_000)


def test_the_list_survives_odd_names_and_a_kill(tmp_path):
    path = tmp_path / "bad_records.jsonl"
    names = ["two\u2028lines", "half \ud83e", "🧢"]
    for name in names:
        BadRecords(path).note("train", name, "unreadable picture")
    with path.open("a") as file:
        file.write('{"split": "tr')
    again = BadRecords(path)
    for name in names:
        again.note("train", name, "unreadable picture")
    assert again.reasons == {"unreadable picture": 3}


@pytest.mark.parametrize("path", ["a\0b.jpg", "half \ud83e.jpg", "x" * 5_000])
def test_names_that_no_file_can_have_are_missing_pictures(encode, path):
    load = loader(encode, [pair(path), pair(WHOLE, "good")], max_share=1.0)
    assert list(one_batch(load)["weight"]) == [0, 1]
    assert load.bad.reasons == {"missing picture": 1}


def test_exif_in_a_bomb_is_an_unreadable_picture(encode):
    bomb = bytearray(with_upright_exif())
    frame = bomb.find(b"\xff\xc0")
    bomb[frame + 5 : frame + 9] = struct.pack(">HH", 60_000, 60_000)
    load = loader(encode, [pair(bytes(bomb))], "cropped", max_share=1.0)
    assert list(one_batch(load)["weight"]) == [0]


def test_long_thin_pictures_cost_their_middle_alone(encode):
    ramp = np.tile(np.linspace(0, 255, 3_000).astype(np.uint8)[:, None, None], (1, 10, 3))
    expected = np.asarray(Image.fromarray(ramp).resize((SIZE, 4_800), Image.Resampling.BICUBIC))
    picture = clip_image(ramp, SIZE).astype(int)
    np.testing.assert_allclose(picture, expected[2_392:2_408], atol=1)
    assert clip_image(np.zeros((60_000, 1, 3), np.uint8), 224).shape == (224, 224, 3)


def table(tmp_path, broken=(), rows=48) -> str:
    """A real folder: a CSV and its pictures, some of them broken."""
    (tmp_path / "images").mkdir()
    lines = ["image,title,kind,split"]
    for number in range(rows):
        name = f"images/{number}.jpg"
        colour = (RED, BLUE)[number % 2]
        Image.new("RGB", (40, 30), colour).save(tmp_path / name)
        if number in broken:
            (tmp_path / name).write_bytes(b"broken")
        split = "val" if number % 4 == 3 or (number % 4 == 2 and number > 40) else "train"
        lines.append(f"{name},thing number {number % 5},{'ab'[number % 2]},{split}")
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    return str(tmp_path / "table.csv")


def table_config(config, tmp_path, **kwargs):
    config.data.source = "table"
    config.data.path = table(tmp_path, **kwargs)
    config.data.image_size = 16
    config.data.text_length = -1
    config.data.augment.crop = 0.6
    config.data.augment.flip = True
    config.data.augment.word_drop = 0.2
    config.model.image = config.model.text = "test/8"
    return config


def test_a_whole_run_outlives_bad_records_and_lists_them(config, tmp_path, capsys):
    config = table_config(config, tmp_path, broken=(5, 11))
    config.data.max_bad = 0.2
    config.model.sequence_layers = 0  # compiles sooner
    config.eval.every = 0
    figures = train_and_evaluate(config, tmp_path / "run")
    assert figures["split"] == "val"  # the table has no test
    lines = (tmp_path / "run/bad_records.jsonl").read_text().splitlines()
    assert {json.loads(line)["id"] for line in lines} == {"images/5.jpg", "images/11.jpg"}
    told = capsys.readouterr().err
    assert "not used as they were: 2 unreadable picture; listed in" in told
    assert "columns: picture image; words title" in told


def test_an_error_keeps_no_stream_alive(encode):
    """Else its threads wait for an interpreter that has ended, and the process never does."""

    def streams():
        gc.collect()
        return [x for x in gc.get_objects() if type(x).__name__ == "OwnedIterator"]

    before = len(streams())
    load = loader(encode, [pair(b"no picture")] * 64, "cropped", policy="fail")
    with pytest.raises(UserError) as kept:
        next(train_batches(load, Order(64), batch_size=4))
    assert len(streams()) == before, kept


def test_a_run_with_too_many_bad_records_ends_in_one_line(config, tmp_path):
    config = table_config(config, tmp_path, broken=range(0, 48, 3))
    with pytest.raises(UserError, match=r"records of (train|val) cannot be used .*mend the data"):
        train_and_evaluate(config, tmp_path / "run")


def test_cropped_pictures_look_like_the_windows_they_are(encode):
    """The fast decoder against Pillow: same window, same picture but for resampling."""
    ramp = np.linspace(0, 255, 200)
    across = np.tile(ramp, (200, 1))
    picture = np.stack([across.T, across, np.full_like(across, 99)], -1)
    content = saved(Image.fromarray(picture.astype(np.uint8)), quality=98)
    sizes = np.array([[200, 200]] * 64)
    windows = Augment(crop=0.004).windows(sizes, np.random.default_rng(0).random((64, 4)))
    numbers = jpeg.decoder_number(windows, SIZE)
    assert len(set(numbers)) == 5  # decoders of several scales are used
    decode = tf.function(jpeg.decode)
    for window, number in zip(windows, numbers, strict=True):
        ours = decode(content, window, number, SIZE).numpy().astype(int)
        top, left, height, width = window
        box = (left, top, left + width, top + height)
        image = Image.open(io.BytesIO(content))
        theirs = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=box)
        difference = np.abs(ours - np.asarray(theirs).astype(int))
        assert difference.mean() < 3
        assert difference.max() < 14


def test_hosts_and_restarts_see_the_very_same_pixels(encode):
    records = [pair(saved(halves(40 + i, 70 - i), quality=95), str(i)) for i in range(30)]
    view = View(Augment(crop=0.3, flip=True, jitter=0.2, randaugment=1, word_drop=0.3), seed=3)
    load = loader(encode, records, view)
    whole = list(itertools.islice(train_batches(load, Order(30, 3), batch_size=8), 9))
    again = next(train_batches(load, Order(30, 3), batch_size=8, start=8))
    for name in ("image", "tokens", "has_image"):
        np.testing.assert_array_equal(again[name], whole[8][name])
        parts = [
            list(itertools.islice(train_batches(load, Order(30, 3), batch_size=8, rows=rows), 9))
            for rows in np.split(np.arange(8), 4)
        ]
        for step in range(9):
            joined = np.concatenate([part[step][name] for part in parts])
            np.testing.assert_array_equal(joined, whole[step][name])
    first, later = whole[0]["image"], whole[5]["image"]
    assert not np.array_equal(first, later)


def noisy(**fields) -> View:
    return View(noise=Noise(**fields), seed=1)


def test_noise_falls_on_its_share_of_the_examples_and_is_the_same_every_time(encode):
    records = [pair(saved(halves(), quality=95), str(i), f"words {i}") for i in range(64)]
    plain = one_batch(loader(encode, records))
    view = noisy(image="gaussian", text="blank", severity=5, share=0.5)
    batch = one_batch(loader(encode, records, view))
    hit = np.any(batch["image"] != plain["image"], axis=(1, 2, 3))
    assert 20 < hit.sum() < 44
    np.testing.assert_array_equal(hit, ~batch["has_text"])  # both of an example, or neither
    assert batch["weight"].all()
    difference = batch["image"][hit].astype(float) - plain["image"][hit]
    assert 30 < np.std(difference) < 50  # 50 grey levels, cut off at black and white
    for rows in (16, 64):
        again = np.concatenate(
            [b["image"] for b in eval_batches(loader(encode, records, view), batch_size=rows)]
        )
        np.testing.assert_array_equal(again, batch["image"])


def test_swapped_pictures_and_titles_are_another_records(encode):
    colours = [(4 * i, 255 - 4 * i, 99) for i in range(60)]
    records = [
        pair(np.full((SIZE, SIZE, 3), colour, np.uint8), str(i), f"w{i}")
        for i, colour in enumerate(colours)
    ]
    plain = one_batch(loader(encode, records))
    batch = one_batch(loader(encode, records, noisy(image="swap")))
    assert {tuple(picture[0, 0]) for picture in batch["image"]} <= set(colours)
    assert not np.any(np.all(batch["image"] == plain["image"], axis=(1, 2, 3)))
    np.testing.assert_array_equal(batch["tokens"], plain["tokens"])
    batch = one_batch(loader(encode, records, noisy(text="swap")))
    titles = {row.tobytes() for row in plain["tokens"]}
    assert {row.tobytes() for row in batch["tokens"]} <= titles
    assert not np.any(np.all(batch["tokens"] == plain["tokens"], axis=1))
    np.testing.assert_array_equal(batch["image"], plain["image"])


def test_absent_pictures_stay_absent_under_noise(encode):
    batch = one_batch(loader(encode, [pair(None), pair(WHOLE)], noisy(image="blank")))
    assert list(batch["has_image"]) == [False, True]
    assert not batch["image"][0].any()
    assert np.all(batch["image"][1] == 128)


def test_noise_can_take_a_picture_away(encode):
    batch = one_batch(loader(encode, [pair(None), pair(WHOLE)], noisy(image="missing")))
    assert list(batch["has_image"]) == [False, False]
    assert list(batch["had_image"]) == [False, True]
    assert not batch["image"].any()


def test_evaluation_is_clips_own_transform(encode):
    records = [pair(saved(halves(33 + i, 61), quality=95), str(i)) for i in range(5)]
    batch = one_batch(loader(encode, records))
    for row, record in enumerate(records):
        np.testing.assert_array_equal(batch["image"][row], clip_image(record.image, SIZE))
