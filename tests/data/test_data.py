"""The procedural catalogue, the tokenizer, and the order in which examples come."""

import collections
import itertools
import subprocess
import sys

import numpy as np
import pytest

from cmaclip_jax.data.bad_records import BadRecords
from cmaclip_jax.data.batches import BatchEncoder
from cmaclip_jax.data.loading import Loader
from cmaclip_jax.data.order import Order, class_weights
from cmaclip_jax.data.pipeline import eval_batches, train_batches
from cmaclip_jax.data.sources.shop import ARTICLES, MATERIALS, TASKS, Shop, draw_things
from cmaclip_jax.data.text import Tokenizer, train_tokenizer


@pytest.fixture(scope="module")
def shop():
    return Shop("train", 50, missing_images=0.2, missing_texts=0.2)


@pytest.fixture(scope="module")
def encode(shop):
    texts = [shop[i].text for i in range(50)]
    return BatchEncoder(TASKS, train_tokenizer(filter(None, texts), 320), 48, 16)


@pytest.fixture(scope="module")
def load(shop, encode):
    return Loader(shop, "train", encode, BadRecords())


def take(batches, count):
    """The first batches of a stream, which is then closed."""
    return list(itertools.islice(batches, count))


def assert_same(a, b):
    for left, right in zip(a, b, strict=True):
        for name in left:
            np.testing.assert_equal(left[name], right[name])


def test_a_pair_is_a_function_of_split_and_index():
    a, b = Shop("train", 100)[7], Shop("train", 9)[7]
    np.testing.assert_array_equal(a.image, b.image)
    assert (a.text, a.labels) == (b.text, b.labels)
    others = Shop("test", 100)[7], Shop("train", 100, seed=1)[7]
    assert all(not np.array_equal(other.image, a.image) for other in others)


def test_neither_modality_alone_answers_everything():
    """Colours and patterns of the two articles differ; the title names one of them only."""
    shop = Shop("train", 200, missing_labels=0, missing_images=0, missing_texts=0)
    for record in map(shop.__getitem__, range(200)):
        words = record.text.lower()
        named = [a for a in ARTICLES if any(w in words.split() for w in ARTICLES[a])]
        assert named == [record.labels["category"]]
        assert any(word in words for word in MATERIALS[record.labels["material"]])
        assert record.labels["colour"] not in words
        assert record.labels["category"] in record.labels["contents"]
        assert len(record.labels["contents"]) == 2
    things = draw_things(np.random.default_rng(0), 2)
    assert all(len({getattr(t, field) for t in things}) == 2 for field in ("colour", "pattern"))


def test_the_asked_for_shares_are_missing_and_never_both_modalities():
    shop = Shop("val", 2000, missing_labels=0.1, missing_images=0.1, missing_texts=0.2)
    records = [shop[i] for i in range(2000)]
    shares = {
        0.1: [r.image is None for r in records],
        0.2: [r.text is None for r in records],
    }
    for expected, gone in shares.items():
        assert np.mean(gone) == pytest.approx(expected, abs=0.02)
    unknown = [label is None for r in records for label in r.labels.values()]
    assert np.mean(unknown) == pytest.approx(0.1, abs=0.01)
    assert not any(r.image is None and r.text is None for r in records)


@pytest.mark.parametrize("articles", [1, 2, 4, 6])
def test_any_number_of_articles_fits_the_picture(articles):
    record = Shop("train", 10, image_size=72, articles=articles, missing_images=0)[3]
    assert record.image.shape == (72, 72, 3)
    assert record.image.std() > 5


def test_tokens_have_clips_frame(encode):
    tokenizer = encode.tokenizer
    rows = tokenizer(["a red hat", None, "hat " * 50], 16)
    assert rows.shape == (3, 16)
    assert rows.dtype == np.int32
    assert np.all(rows[:, 0] == tokenizer.before[0])
    assert np.all(rows[:, -1] == tokenizer.end)
    assert tokenizer.end == rows.max() == tokenizer.vocabulary - 1
    assert list(rows[1]) == [tokenizer.before[0]] + [tokenizer.end] * 15
    assert np.sum(rows[2] == tokenizer.end) == 1  # cut, with its end kept
    np.testing.assert_array_equal(tokenizer(["A Red HAT"], 16), rows[:1])


def test_tokenizer_survives_its_file_and_reads_any_script(encode, tmp_path):
    encode.tokenizer.save(tmp_path / "tokenizer.json")
    texts = ["brand new mug", "naïve 帽子 🧢", ""]
    np.testing.assert_array_equal(
        Tokenizer.load(tmp_path / "tokenizer.json")(texts, 16), encode.tokenizer(texts, 16)
    )
    assert (
        encode.tokenizer.backend.decode(encode.tokenizer.backend.encode("帽子").ids).strip()
        == "帽子"
    )


def test_encoded_labels_are_the_records(shop, encode):
    records = [shop[i] for i in range(50)]
    batch = encode([*records, None, None], [*(record.text for record in records), None, None])
    assert batch["weight"].sum() == 50
    for row, record in enumerate(records):
        assert batch["has_text"][row] == (record.text is not None)
        for task in TASKS:
            label, value = record.labels[task.name], batch["labels"][task.name][row]
            if label is None:
                assert np.all(value == -1)
            elif task.many:
                assert {c for c, on in zip(task.classes, value, strict=True) if on} == set(label)
            else:
                assert task.classes[value] == label


def test_a_stream_restarts_at_any_step(load):
    whole = take(train_batches(load, Order(50, 3), batch_size=8), 12)
    assert_same(take(train_batches(load, Order(50, 3), batch_size=8, start=9), 3), whole[9:])
    other = take(train_batches(load, Order(50, 4), batch_size=8), 1)
    assert not np.array_equal(other[0]["tokens"], whole[0]["tokens"])


def test_every_epoch_shows_every_record_once_in_a_new_order():
    order = Order(50).indices(range(150))
    epochs = [order[i : i + 50] for i in (0, 50, 100)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_chunks_are_read_one_after_the_other_and_yet_shuffled():
    chunks = np.repeat(np.arange(500), 8)
    order = Order(4_000, chunks=chunks).epoch(0)
    assert sorted(order) == list(range(4_000))
    assert max(len(set(chunks[order[i : i + 1_024]])) for i in range(0, 4_000, 1_024)) <= 129
    assert np.mean(np.diff(chunks[order]) == 0) < 0.02
    assert not np.array_equal(order, Order(4_000, chunks=chunks).epoch(1))


def test_balanced_order_draws_every_class_alike():
    labels = ["common"] * 900 + ["rare"] * 90 + [None] * 10
    even, root = (class_weights(labels, power) for power in (1.0, 0.5))
    drawn = np.array(labels, object)[Order(1_000, weights=even).indices(range(20_000))]
    counts = collections.Counter(drawn.tolist())
    assert counts["common"] / counts["rare"] == pytest.approx(1, abs=0.1)
    assert root[0] / root[950] == pytest.approx((90 / 900) ** 0.5)
    many = class_weights([("a", "b"), ("a",), ("a",), ()], 1.0)
    assert list(many) == pytest.approx([1, 1 / 3, 1 / 3, 5 / 9])


def test_hosts_share_a_batch_between_them(load):
    kwargs = {"batch_size": 12, "start": 5}
    whole = take(train_batches(load, Order(50), **kwargs), 2)
    for hosts in (2, 3):
        parts = [
            take(train_batches(load, Order(50), rows=rows, **kwargs), 2)
            for rows in np.split(np.arange(12), hosts)
        ]
        for step in range(2):
            joined = np.concatenate([part[step]["image"] for part in parts])
            np.testing.assert_array_equal(joined, whole[step]["image"])


@pytest.mark.parametrize(("rows", "hosts"), [(50, 1), (7, 1), (16, 2), (12, 3), (64, 4)])
def test_evaluation_sees_every_record_once(shop, encode, load, rows, hosts):
    streams = [
        list(eval_batches(load, batch_size=rows * hosts, rows=share))
        for share in np.arange(rows * hosts).reshape(rows, hosts).T  # interleaved, as any
    ]
    assert len({len(stream) for stream in streams}) == 1  # no host waits for another
    seen = collections.Counter(
        row.tobytes()
        for stream in streams
        for batch in stream
        for row, weight in zip(batch["tokens"], batch["weight"], strict=True)
        if weight
    )
    records = [shop[i] for i in range(50)]
    batch = encode(records, [record.text for record in records])
    assert seen == collections.Counter(row.tobytes() for row in batch["tokens"])


def test_an_open_stream_does_not_hold_up_the_interpreters_end():
    code = """
from cmaclip_jax.data.bad_records import BadRecords
from cmaclip_jax.data.batches import BatchEncoder
from cmaclip_jax.data.loading import Loader
from cmaclip_jax.data.order import Order
from cmaclip_jax.data.pipeline import train_batches
from cmaclip_jax.data.sources.shop import TASKS, Shop
from cmaclip_jax.data.text import train_tokenizer
encode = BatchEncoder(TASKS, train_tokenizer(["a"], 300), 48, 16)
load = Loader(Shop("train", 99), "train", encode, BadRecords())
stream = train_batches(load, Order(99), batch_size=64)
next(stream)
print("end")
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=90, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "end\n")
