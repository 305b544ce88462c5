"""Fashion-Gen's HDF5 files: splits by product, texts, and pictures read by the chunk."""

import collections
import concurrent.futures
import json
import multiprocessing

import h5py
import numpy as np
import pytest
from support.fashion_gen import CATEGORIES, CHUNK, TRAIN, VALIDATION, write_file

from cmaclip_jax.config import base_config
from cmaclip_jax.data.bad_records import BadRecords
from cmaclip_jax.data.records import RecordError, hash_share
from cmaclip_jax.data.sources import open_sources
from cmaclip_jax.data.sources.fashion_gen import VAL_SHARE, ChunkedImages
from cmaclip_jax.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Both files, and the pictures that went in."""
    path = tmp_path_factory.mktemp("fashion_gen")
    train = write_file(path / TRAIN, range(60))
    return path, {"train": train, "test": write_file(path / VALIDATION, range(100, 110))}


def open_fashion(path, bad=None, **fields):
    config = base_config()
    config.data.source = "fashion_gen"
    config.data.path = str(path)
    config.data.update(fields)
    return open_sources(config.data, bad or BadRecords())


def records(source):
    return [source[index] for index in range(len(source))]


@pytest.fixture
def chunk_reads(monkeypatch):
    """Counts every chunk of pictures that h5py is asked for, by (file, chunk)."""
    counts = collections.Counter()
    read = h5py.Dataset.__getitem__

    def counting(dataset, selection, **options):
        if dataset.name == "/input_image":
            assert selection.start % CHUNK == 0
            assert selection.stop - selection.start == CHUNK
            counts[dataset.file.filename, selection.start // CHUNK] += 1
        return read(dataset, selection, **options)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", counting)
    return counts


def test_the_splits_are_the_files_rows_and_share_no_product(folder):
    splits = open_fashion(folder[0])
    assert list(splits) == ["train", "val", "test"]
    rows = {split: source.rows.tolist() for split, source in splits.items()}
    assert sorted(rows["train"] + rows["val"]) == list(range(240))
    assert rows["test"] == list(range(40))
    products = {split: set(source.products) for split, source in splits.items()}
    assert products["val"] == {str(i) for i in range(60) if (hash_share(str(i)) < VAL_SHARE)}
    assert 0 < len(products["val"]) < 10
    assert not products["val"] & products["train"]
    assert len({record.id for s in splits.values() for record in records(s)}) == 280


def test_validation_is_a_small_and_stable_share_of_the_products():
    held_out = [i for i in range(20_000) if hash_share(str(i)) < VAL_SHARE]
    assert len(held_out) / 20_000 == pytest.approx(0.05, abs=0.005)
    assert held_out[:3] == [29, 72, 90]  # of any run, anywhere


def test_records_are_what_was_written(folder):
    path, images = folder
    for split, source in open_fashion(path).items():
        written = images["test" if split == "test" else "train"]
        assert [task.name for task in source.tasks] == ["category", "subcategory"]
        assert source.tasks[0].classes == CATEGORIES
        assert source.tasks[1].classes == ("S0", "S1", "S2", "S3", "S4")
        for index, record in enumerate(records(source)):
            product = int(source.products[index])
            np.testing.assert_array_equal(record.image, written[source.rows[index]])
            assert record.text == (None if product in (1, 101) else f"all of {product}")
            empty = product in (0, 100)
            assert record.labels == {
                "category": CATEGORIES[product % 3],
                "subcategory": None if empty else f"S{product % 5}",
            }
            assert all(source.labels(t)[index] == label for t, label in record.labels.items())
        record.image[:] = 0  # what its caller does to a picture leaves the source alone
        np.testing.assert_array_equal(source[index].image, written[source.rows[index]])


def test_texts_come_from_the_columns_that_are_asked_for(folder, tmp_path):
    path = folder[0]
    assert open_fashion(path, text="name,description")["test"][4].text == "Café jacket née 101"
    assert open_fashion(path, text="name, msrpUSD")["test"][4].text == "Café jacket 101.5"
    assert open_fashion(path, text="none")["test"][4].text is None
    write_file(tmp_path / VALIDATION, range(9), leave_out=["concat_description"])
    assert open_fashion(tmp_path)["test"][4].text == "Café jacket née 1"


def test_one_file_may_stand_alone(tmp_path):
    write_file(tmp_path / TRAIN, range(60))
    assert list(open_fashion(tmp_path)) == ["train", "val"]
    (tmp_path / TRAIN).rename(tmp_path / VALIDATION)
    splits = open_fashion(tmp_path)
    assert list(splits) == ["test"]
    assert splits["test"].tasks[0].classes == CATEGORIES


def test_classes_that_training_lacks_are_unknown_and_listed(folder, tmp_path):
    write_file(tmp_path / TRAIN, range(60))
    hats = [b"HATS"] * 2 + [b"JEANS"] * 38
    write_file(tmp_path / VALIDATION, range(100, 110), category=hats)
    ledger = tmp_path / "bad_records.jsonl"
    bad = BadRecords(ledger)
    labels = open_fashion(tmp_path, bad)["test"].labels("category")
    assert labels == [None, None] + ["JEANS"] * 38
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert [line["id"] for line in lines] == ["test-0", "test-1"]
    assert {(line["reason"], line["detail"]) for line in lines} == {
        ("unknown class", "category HATS")
    }
    assert bad.reasons == {"unknown class": 2}


def test_labels_cost_no_picture_and_a_pass_in_order_reads_a_chunk_once(folder, chunk_reads):
    splits = open_fashion(folder[0])
    for source in splits.values():
        source.labels("category")
    assert not chunk_reads
    for split in ("train", "test"):
        records(splits[split])
    assert set(chunk_reads.values()) == {1}
    blocks = {split: set(s.chunks.tolist()) for split, s in splits.items()}
    assert len(chunk_reads) == len(blocks["train"]) + len(blocks["test"])
    assert splits["train"].block_size == CHUNK


def test_a_pass_in_shuffled_chunks_reads_each_once_with_two_kept(folder, chunk_reads):
    path, images = folder
    source = open_fashion(path)["train"]
    source.images.blocks = 2
    order = np.random.default_rng(0).permutation(40)
    by_chunk = collections.defaultdict(list)
    for index in range(len(source)):
        by_chunk[source.chunks[index]].append(index)
    for number in filter(by_chunk.__contains__, order.tolist()):
        for index in reversed(by_chunk[number]):
            np.testing.assert_array_equal(source[index].image, images["train"][source.rows[index]])
    assert set(chunk_reads.values()) == {1}
    source[by_chunk[order[0]][0]]  # long dropped
    assert max(chunk_reads.values()) == 2


def test_the_chunk_that_was_used_longest_ago_is_dropped(folder, chunk_reads):
    path = folder[0]
    pictures = ChunkedImages(str(path / TRAIN), "/input_image", CHUNK, 2)
    for number in (0, 1, 0, 2, 0, 1):
        pictures[number * CHUNK]
    assert list(chunk_reads.values()) == [1, 2, 1]


@pytest.mark.parametrize("blocks", [2, 100])
def test_eight_threads_read_what_one_reads(folder, chunk_reads, blocks):
    path, images = folder
    source = open_fashion(path)["train"]
    source.images.blocks = blocks

    def read(seed):
        order = np.random.default_rng(seed).permutation(len(source))
        return {int(index): source[int(index)].image for index in order}

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(read, range(8)))
    for pictures in found:
        for index in range(len(source)):
            np.testing.assert_array_equal(pictures[index], images["train"][source.rows[index]])
    if blocks == 100:
        assert set(chunk_reads.values()) == {1}  # however many wait for the same one


def read_into(images, queue):
    queue.put([images[row] for row in range(12)])


@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_a_fork_opens_the_file_anew(folder):
    """Even one that happened while another thread held the lock, which then never opens."""
    path, images = folder
    pictures = ChunkedImages(str(path / TRAIN), "input_image", CHUNK, 2)
    pictures[0]
    (reader,) = pictures._readers.values()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    with reader._cache._lock:
        child = context.Process(target=read_into, args=(pictures, queue), daemon=True)
        child.start()
    found = queue.get(timeout=30)
    child.join(30)
    np.testing.assert_array_equal(found, images["train"][:12])
    np.testing.assert_array_equal(pictures[200], images["train"][200])


def test_a_broken_chunk_costs_its_own_pictures_only(tmp_path):
    images = write_file(tmp_path / VALIDATION, range(10))
    with h5py.File(tmp_path / VALIDATION, "r") as file:
        place = file["input_image"].id.get_chunk_info(1).byte_offset
    content = bytearray((tmp_path / VALIDATION).read_bytes())
    content[place : place + 50] = bytes(50)
    (tmp_path / VALIDATION).write_bytes(content)
    source = open_fashion(tmp_path)["test"]
    with pytest.raises(RecordError, match="chunk 1 of"):
        source[CHUNK]
    np.testing.assert_array_equal(source[2 * CHUNK].image, images[2 * CHUNK])


def test_a_file_without_chunks_or_pictures_is_read_too(tmp_path):
    images = write_file(tmp_path / VALIDATION, range(10), chunk=0)
    source = open_fashion(tmp_path)["test"]
    np.testing.assert_array_equal([record.image for record in records(source)], images)
    assert open_fashion(tmp_path, image="none")["test"][3].image is None


def test_errors_name_the_key_or_the_file(tmp_path):
    with pytest.raises(UserError, match=f"no {TRAIN} or {VALIDATION} in"):
        open_fashion(tmp_path)
    for key in ("productID", "category", "subcategory", "image"):
        write_file(tmp_path / TRAIN, range(3), leave_out=[key])
        with pytest.raises(UserError, match=f"no key 'input_{key}'"):
            open_fashion(tmp_path)
    write_file(tmp_path / TRAIN, range(3))
    with pytest.raises(UserError, match=r"no key 'input_title'.*data\.text"):
        open_fashion(tmp_path, text="title")
    with pytest.raises(UserError, match=r"not uint8.*data\.image"):
        open_fashion(tmp_path, image="name")
    content = (tmp_path / TRAIN).read_bytes()
    (tmp_path / TRAIN).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="get the file again") as error:
        open_fashion(tmp_path)
    assert "\n" not in str(error.value)
