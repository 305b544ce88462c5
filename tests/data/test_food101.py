"""UPMC Food-101 as it is found on disks: five arrangements of files, and their dirt."""

import csv
import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from support.exports import ask
from support.food101 import (
    CLASSES,
    HELD_OUT,
    LAYOUTS,
    TEST,
    TRAIN,
    label_of,
    title_of,
    write,
    write_folders,
    write_images,
    write_jsonl,
    write_kaggle,
    write_split_file,
)

import cmaclip_jax as cma
from cmaclip_jax.config import base_config
from cmaclip_jax.data.bad_records import BadRecords
from cmaclip_jax.data.prepare.shards import StorageFormat
from cmaclip_jax.data.prepare.specification import Specification
from cmaclip_jax.data.records import hash_share
from cmaclip_jax.data.sources import cleaning_of, open_sources
from cmaclip_jax.data.sources.food101 import VAL_SHARE
from cmaclip_jax.data.titles import clean_title
from cmaclip_jax.errors import UserError
from cmaclip_jax.evaluation.result_files import read_outcome
from cmaclip_jax.main import main
from cmaclip_jax.runs.training import train_and_evaluate


def open_food(root, bad=None, **fields):
    config = base_config()
    config.data.source = "food101"
    config.data.path = str(root)
    config.data.update(fields)
    return open_sources(config.data, bad or BadRecords())


def records(source):
    return [source[index] for index in range(len(source))]


@pytest.fixture
def ledger(tmp_path):
    """A ledger, and what it lists as {(split, id): reason}."""
    path = tmp_path / "bad_records.jsonl"

    def listed():
        lines = map(json.loads, path.read_text().splitlines() if path.exists() else ())
        return {(line["split"], line["id"]): line["reason"] for line in lines}

    return BadRecords(path, max_share=1.0), listed


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_pairs(tmp_path, layout, ledger):
    write_layout, val = LAYOUTS[layout]
    root = tmp_path / "food"
    write_images(root)
    write_layout(root)
    splits = open_food(root, ledger[0])
    expected = {"train": [name for name in TRAIN if name not in val], "val": val, "test": TEST}
    assert list(splits) == list(expected)
    for split, names in expected.items():
        source = splits[split]
        found = {record.image.rpartition("/")[2]: record for record in records(source)}
        assert sorted(found) == sorted(names)
        assert [(task.name, task.classes) for task in source.tasks] == [("category", CLASSES)]
        assert source.labels("category") == [r.labels["category"] for r in records(source)]
        for name, record in found.items():
            assert record.text == title_of(name)
            assert record.labels == {"category": label_of(name)}
            assert isinstance(record.image, str)
            with Image.open(record.image) as image:
                assert image.size == (8, 8)
    assert not ledger[1]()


def test_validation_is_a_small_and_stable_share_of_training():
    names = [f"pho_{n}.jpg" for n in range(20_000)]
    held_out = [name for name in names if hash_share(name) < VAL_SHARE]
    assert len(held_out) / len(names) == pytest.approx(0.05, abs=0.005)
    assert held_out[:3] == ["pho_32.jpg", "pho_34.jpg", "pho_39.jpg"]  # of any run, anywhere


@pytest.mark.parametrize(
    ("title", "clean"),
    [
        ("Mac &amp; Cheese", "Mac & Cheese"),
        ("Mac &amp;amp; Cheese &#39;n&#39; more", "Mac & Cheese 'n' more"),
        (r"Cr\xc3\xa8me Br\xc3\xbbl\xc3\xa9e", "Crème Brûlée"),
        (r"Mom\xe2\x80\x99s \\xc3\\xa9clair", "Mom\N{RIGHT SINGLE QUOTATION MARK}s éclair"),
        (r"cut in half \xe2\x80", "cut in half"),
        ("[[Apple pie", "Apple pie"),
        ("Apple pie']", "Apple pie"),
        ("[['Apple pie&#39;]", "Apple pie"),
        ("[Recipe] Bob's pie [easy]", "[Recipe] Bob's pie [easy]"),
        (" two \n  lines ", "two lines"),
        ("crème 帽子", "crème 帽子"),
        (" [[ ", ""),
        ("", ""),
        (r"[\t]Apple pie", "Apple pie"),
        ("Apple [\t] pie", "Apple pie"),
        (r"\n\tApple pie\r\n", "Apple pie"),
        ("Pie Q&A; and M&M;'s", "Pie Q&A and M&M's"),
        ("Q&amp;A; pie", "Q&A pie"),
        ("the <em>best</em> pie<br />ever", "the best pie ever"),
        ("&lt;b&gt;Pie&lt;/b&gt;", "Pie"),
        ("Ap\u200bple pie\ufeff", "Apple pie"),
        (r"Apple\xe2\x80\x8b &#8203;pie", "Apple pie"),
    ],
)
def test_titles_lose_the_dirt_of_this_data_set(title, clean):
    assert clean_title(title) == clean
    assert clean_title(clean) == clean


@pytest.mark.parametrize(
    "title",
    ["size < 10 > 8", "I <heart> pie", "R&D, AT&T", r"AC\DC \table", "<3 pie", "[Recipe] [easy]"],
)
def test_ordinary_titles_stay_as_they_are(title):
    assert clean_title(title) == title


def test_malformed_rows_are_listed_and_left_out(tmp_path, ledger):
    bad, listed = ledger
    lines = [
        b'apple_pie_0.jpg,"two, words",apple_pie',
        b"apple_pie_1.jpg,three,columns,not",
        b"miso_soup_1.jpg,na\xefve \xff,miso_soup",
        b"miso_soup_2.jpg,,miso_soup",
        b",a title,miso_soup",
    ]
    root = tmp_path / "food"
    write(root, "texts/train_titles.csv", b"\n".join(lines))
    write(root, "texts/test_titles.csv", "apple_pie_9.jpg,x,apple_pie\nramen_1.jpg,y,ramen\n")
    splits = open_food(root, bad)
    assert [r.text for r in records(splits["train"])] == ["two, words", "na\ufffdve \ufffd", None]
    assert splits["test"].labels("category") == ["apple_pie", None]
    assert splits["test"][1].labels == {"category": None}
    assert listed() == {
        ("train", "line 2"): "wrong number of columns",
        ("train", "line 5"): "no file name or no class",
        ("test", "ramen_1.jpg"): "unknown class",
    }
    assert sum(bad.reasons.values()) == 3
    with pytest.raises(UserError, match=r"line 2.*wrong number"):
        open_food(root, BadRecords(policy="fail"))


def test_split_file_leaves_out_names_without_a_title(tmp_path, ledger):
    root = tmp_path / "food"
    write_split_file(root)
    titles = {name: title_of(name) for name in TRAIN + TEST if name != TRAIN[7]}
    write(root, "text.json", json.dumps(titles))
    splits = open_food(root, ledger[0])
    assert TRAIN[7] not in [record.id for record in records(splits["train"])]
    assert len(splits["train"]) == len(TRAIN) - 5
    assert ledger[1]() == {("train", TRAIN[7]): "not in text.json"}
    assert splits["val"][0].image == f"{root}/images/train/{label_of(TRAIN[0])}/{TRAIN[0]}"


def test_mmbt_leaves_out_what_has_no_text(tmp_path, ledger):
    root = tmp_path / "food"
    write_jsonl(root)
    silent = {"id": "a", "label": "apple_pie", "text": " ", "img": "images/train/apple_pie/a.jpg"}
    lines = ["{'not': json}", "[1]", '{"label": "apple_pie", "img": 3}', json.dumps(silent), ""]
    write(root, "dev.jsonl", "\n".join(lines) + (root / "dev.jsonl").read_text())
    assert len(open_food(root, ledger[0])["val"]) == 4
    reason = "not a JSON object with label and img"
    expected = {("val", f"line {n}"): reason for n in (1, 2, 3)} | {("val", "a"): "no text"}
    assert ledger[1]() == expected


def test_mmbt_folders_leave_out_what_has_no_text(tmp_path, ledger):
    root = tmp_path / "food"
    write_images(root)
    write_folders(root)
    write(root, "images/train/.DS_Store", b"")
    (root / "texts_txt/apple_pie/apple_pie_100.txt").unlink()
    write(root, "texts_txt/apple_pie/apple_pie_101.txt", "\n")
    assert len(open_food(root, ledger[0])["test"]) == len(TEST) - 2
    assert set(ledger[1]()) == {("test", "apple_pie_100.jpg"), ("test", "apple_pie_101.jpg")}


def test_training_alone_is_enough_and_modalities_can_be_left_out(tmp_path):
    write_kaggle(tmp_path)
    (tmp_path / "texts/test_titles.csv").unlink()
    splits = open_food(tmp_path, image="none")
    assert list(splits) == ["train", "val"]
    assert (splits["val"][0].image, splits["val"][0].text) == (None, title_of(HELD_OUT[0]))
    assert open_food(tmp_path, text="none")["val"][0].text is None
    with pytest.raises(UserError, match="leave it ''"):
        open_food(tmp_path, text="title")


def test_a_folder_may_be_in_a_bucket():
    """TensorFlow's in-memory file system is no more a local path than gs:// is."""
    root = "ram://food"
    for split, names in {"train": TRAIN, "test": TEST}.items():
        with tf.io.gfile.GFile(f"{root}/texts/{split}_titles.csv", "w") as file:
            file.write("".join(f"{name},x,{label_of(name)}\n" for name in names))
    splits = open_food(root)
    assert [len(splits[split]) for split in splits] == [
        len(TRAIN) - len(HELD_OUT),
        len(HELD_OUT),
        6,
    ]
    assert splits["test"][0].image == f"{root}/images/test/apple_pie/{TEST[0]}"


def test_errors_name_what_was_looked_for(tmp_path):
    with pytest.raises(UserError, match=r"split\.json.*train\.jsonl.*train\.csv.*train_titles"):
        open_food(tmp_path)
    write(tmp_path, "train.csv", "id,title,class\n1,2,3\n")
    with pytest.raises(UserError, match="no column 'text'"):
        open_food(tmp_path)
    write(tmp_path, "train.csv", "id,text,annotation,label\n")
    with pytest.raises(UserError, match="no training pair"):
        open_food(tmp_path)
    write(tmp_path, "split.json", json.dumps({"train": TRAIN}))
    write(tmp_path, "text.json", json.dumps({f"images/{name}": "a title" for name in TRAIN}))
    with pytest.raises(UserError, match=r"can be used \(120 not in text\.json\)"):
        open_food(tmp_path)
    write(tmp_path, "split.json", "{")
    write(tmp_path, "text.json", "{}")
    with pytest.raises(UserError, match=r"split\.json is not JSON"):
        open_food(tmp_path)


def write_dirty(root):
    """A small Food-101 as Kaggle has it, with titles as they stand in the real one."""
    for split, numbers in {"train": range(30), "test": range(100, 108)}.items():
        lines = []
        for label in CLASSES:
            for n in numbers:
                name, words = f"{label}_{n}.jpg", label.replace("_", " ")
                path = write(root, f"images/{split}/{label}/{name}", b"")
                Image.new("RGB", (8, 8), (n, 90, 10)).save(path)
                dirt = rf"[[{words} &amp;amp; caf\xc3\xa9 [\t]Q&A; no {n % 7} <em>fast</em>']"
                lines.append(f'{name},"{dirt}",{label}\n')
        write(root, f"texts/{split}_titles.csv", "".join(lines))


@pytest.fixture(scope="module")
def food_run(tmp_path_factory):
    """The folder of a run on dirty titles, and the raw test pairs as (id, picture, title)."""
    root = tmp_path_factory.mktemp("food")
    write_dirty(root)
    config = base_config()
    config.data.source, config.data.path = "food101", str(root)
    config.data.image_size, config.data.text_length = 16, 40
    config.model.image = config.model.text = "test/8"
    config.model.sequence_layers = 1
    config.train.steps, config.train.batch_size, config.train.learning_rate = 6, 8, 1e-2
    config.eval.every, config.eval.batch_size = 0, 16
    train_and_evaluate(config, root / "run")
    with (root / "texts/test_titles.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    pairs = [(name, f"images/test/{label}/{name}", title) for name, title, label in rows]
    return root, pairs


def test_raw_titles_are_answered_as_they_were_judged(food_run, tmp_path):
    root, pairs = food_run
    judged = read_outcome(root / "run", "test")["probabilities"]["category"]
    model = cma.load(root / "run")
    titles = [title for _, _, title in pairs]
    answers = model.predict([str(root / path) for _, path, _ in pairs], titles)
    told = [answer["category"].probability for answer in answers]
    np.testing.assert_allclose(told, judged.max(axis=1), atol=1e-6)
    places = model.trained.encode.tokenizer.places(titles[0], 40)
    assert " ".join(word for word, _ in places) == "apple pie & café Q&A no 2 fast"
    with (root / "ask.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("id", "picture", "title"), *pairs])
    command = ["predict", f"--workdir={root}/run", f"--input={root}/ask.csv"]
    assert main([*command, f"--output={tmp_path}/out.csv"]) == 0
    with (tmp_path / "out.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    told = [float(line["category_probability"]) for line in lines]
    np.testing.assert_allclose(told, judged.max(axis=1), atol=1e-6)
    assert model.predict(texts=["[[ "])[0]["category"].note == "neither picture nor words"


def test_an_export_cleans_titles_as_the_run_does(food_run, tmp_path):
    root, pairs = food_run
    judged = read_outcome(root / "run", "test")["probabilities"]["category"][0].max()
    assert main(["export", f"--workdir={root}/run", f"--output={tmp_path}/out"]) == 0
    said = ask(tmp_path / "out", root / pairs[0][1], pairs[0][2])["category"]
    assert float(said.split()[1]) == pytest.approx(judged, abs=1e-5)


def test_a_run_that_kept_no_cleaning_still_cleans(food_run):
    root, pairs = food_run
    (root / "run/words.json").rename(root / "words.json")
    try:
        tokenizer = cma.load(root / "run").trained.encode.tokenizer
        assert tokenizer.clean(pairs[0][2]) == "apple pie & café Q&A no 2 fast"
    finally:
        (root / "words.json").rename(root / "run/words.json")


def test_what_is_prepared_from_it_is_cleaned_alike(food_run, tmp_path):
    """Its own texts are clean already; those that a run on it is asked about are not."""
    data = base_config().data
    data.source, data.path = "food101", str(food_run[0])
    Specification.of(data, str(tmp_path / "ready"), StorageFormat(shards=1)).open()
    data.source, data.path = "tfds", str(tmp_path / "ready")
    assert cleaning_of(data) == "titles"
    data.path = str(tmp_path)
    assert cleaning_of(data) == ""
