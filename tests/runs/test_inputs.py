"""What a run finds in its data before its first step, and what it says of it."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

import cmaclip_jax as cma
from cmaclip_jax.data import missing
from cmaclip_jax.errors import UserError
from cmaclip_jax.main import main
from cmaclip_jax.runs.data import open_data
from cmaclip_jax.runs.record_checks import check_records, describe_data, texts_cut
from cmaclip_jax.runs.towers import open_towers
from cmaclip_jax.runs.training import open_run, train_and_evaluate

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"


@pytest.fixture
def write_table(tmp_path):
    """Writes rows as a table; returns a small config of runs on it."""

    def write(config, rows):
        with (tmp_path / "table.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        config.data.source, config.data.path = "table", str(tmp_path / "table.csv")
        return config

    return write


def opened(config):
    return open_data(config, None, open_towers(config, None))


def wordy(words: str, rows: int = 40) -> list[dict]:
    """Rows with words alone."""
    splits = {3: "val", 2: "test"}
    return [
        {"title": f"{words} {n}", "kind": "ab"[n % 2], "split": splits.get(n % 4, "train")}
        for n in range(rows)
    ]


@pytest.mark.parametrize(("repeats", "length"), [(1, 24), (20, 77)])
def test_texts_from_scratch_are_as_long_as_they_need(config, write_table, repeats, length):
    """And not as the small text encoder's 12 tokens."""
    config = write_table(config, wordy(" ".join([LONG] * repeats)))
    config.data.text_length = -1
    config.data.vocabulary = 1_000
    data = opened(config)
    assert data.encode.text_length == length
    needed = [line for line in describe_data(data) if "are cut" in line]
    assert bool(needed) == (repeats > 1)


def test_cut_texts_name_the_flag(config, write_table, clip_folder):
    config = write_table(config, wordy(LONG))
    config.data.text_length, config.data.vocabulary = 12, 1_000
    (line,) = [line for line in describe_data(opened(config)) if "are cut" in line]
    assert "100.0% of the texts are longer than 12 tokens" in line
    config.data.text_length = int(line.split("--config.data.text_length=")[1].split()[0])
    assert not texts_cut(opened(config))
    config.model.pretrained, config.data.text_length = str(clip_folder), -1
    data = opened(config)
    assert data.encode.text_length == 16  # for which the weights have positions
    assert "text_length" not in texts_cut(data)


def pictured(folder, rows: int = 40, missing=()) -> list[dict]:
    """Rows with words and pictures; of the `missing` ones there is no file."""
    (folder / "images").mkdir(exist_ok=True)
    lines = wordy("a thing", rows)
    for number, line in enumerate(lines):
        line["picture"] = f"images/{number}.png"
        if number not in missing:
            Image.new("RGB", (20, 20), (9 * (number % 2), 90, 10)).save(folder / line["picture"])
    return lines


TEST = range(2, 40, 4)  # the rows of the test split


def test_a_run_with_missing_test_pictures_ends_before_its_first_step(
    config, write_table, tmp_path, capsys
):
    config = write_table(config, pictured(tmp_path, missing=TEST[:3]))
    with pytest.raises(UserError, match=r"3 of the first 10 records of test cannot be used \(most"):
        open_run(config, tmp_path / "run")
    listed = map(json.loads, (tmp_path / "run/bad_records.jsonl").read_text().splitlines())
    assert [line["reason"] for line in listed] == ["missing picture"] * 3


def test_judging_goes_on_without_bad_pairs_and_says_how_many(config, write_table, tmp_path, capsys):
    """Four of ten test pictures are no pictures, which shows once they are opened."""
    config = write_table(config, pictured(tmp_path))
    for number in TEST[:4]:
        (tmp_path / f"images/{number}.png").write_bytes(b"no picture")
    config.train.steps, config.eval.every = 2, 0
    figures = train_and_evaluate(config, tmp_path / "run")
    assert (figures["examples"], figures["left_out"]) == (6, 4)
    assert "4 of the 10 pairs of test cannot be used and are not judged" in capsys.readouterr().err
    (tmp_path / f"images/{TEST[5]}.png").unlink()
    assert main(["evaluate", f"--workdir={tmp_path}/run"]) == 0
    assert json.loads((tmp_path / "run/evaluation/test.json").read_text())["left_out"] == 5


def test_pairs_that_keep_their_words_are_not_lost(config, write_table, tmp_path):
    config = write_table(config, pictured(tmp_path, missing=range(0, 40, 2)))
    config.data.on_error = "no_image"
    data = opened(config)
    lines = check_records(data)
    assert lines[0] == "10 pictures of 20 pairs of train are missing; 10 stay with their words"
    weights = np.concatenate([batch["weight"] for batch in data.eval_batches("train")])
    assert weights.sum() == 20
    batch = next(data.train_batches(0))
    assert batch["weight"].all()
    assert not batch["has_image"].all()
    config.data.on_error = "skip"
    with pytest.raises(UserError, match="10 of the first 20 records of train"):
        check_records(opened(config))


def test_of_remote_pictures_a_sample_is_looked_for(monkeypatch):
    asked = []
    monkeypatch.setattr(missing, "exists", lambda path: asked.append(path) or "7" in path)
    monkeypatch.setattr(missing, "ENOUGH", 100)
    paths = [f"gs://bucket/{number}.jpg" for number in range(1_000)]
    seen, lost = missing.missing_pictures([None, "/nowhere/a.jpg", *paths])
    assert seen == 102
    assert len(asked) == 100
    assert lost[0] == 1
    assert len(lost) == 1 + sum("7" not in path for path in asked)


def test_words_alone_open_no_picture_and_lose_no_pair(config, write_table, tmp_path, capsys):
    config = write_table(config, pictured(tmp_path, missing=range(40)))
    config.model.inputs = "text"
    config.train.steps, config.eval.every = 2, 0
    figures = train_and_evaluate(config, tmp_path / "run")
    assert (figures["examples"], figures["left_out"]) == (10, 0)
    assert "10 pairs with text" in capsys.readouterr().err
    assert not (tmp_path / "run/bad_records.jsonl").exists()
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["train/loss"] > 0.1
    answers = cma.load(tmp_path / "run").predict([None, "nowhere.png"], ["a thing 1", None])
    assert [answer["kind"].note for answer in answers] == ["", "no words"]


def test_pictures_alone_want_no_words(config, write_table, tmp_path, capsys):
    rows = [
        {**row, "title": row["title"] * (n % 3 > 0)} for n, row in enumerate(pictured(tmp_path))
    ]
    config = write_table(config, rows)
    config.model.inputs = "image"
    config.train.steps, config.eval.every = 2, 0
    figures = train_and_evaluate(config, tmp_path / "run")
    assert figures["examples"] == 10
    assert figures["slices"]["complete"]["examples"] == sum(bool(rows[n]["title"]) for n in TEST)
    assert "10 pairs with a picture" in capsys.readouterr().err
    picture = str(tmp_path / "images/3.png")
    answers = cma.load(tmp_path / "run").predict([picture, None], [None, "a thing"])
    assert [answer["kind"].note for answer in answers] == ["", "no picture"]


def test_data_without_pictures_is_not_called_complete(config, write_table, tmp_path, capsys):
    config = write_table(config, wordy("a thing"))
    config.train.steps, config.eval.every = 2, 0
    train_and_evaluate(config, tmp_path / "run")
    assert "10 pairs with text" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("inputs", "objective", "columns", "lack"),
    [
        ("text", "classification", ("picture",), "has words"),
        ("image", "classification", ("title",), "has a picture"),
        ("both", "contrastive", ("title",), "has both a picture and words"),
    ],
)
def test_nothing_to_learn_from_is_said_before_the_first_step(
    config, write_table, tmp_path, inputs, objective, columns, lack
):
    kept = {*columns, "kind", "split"}
    rows = [{name: row[name] for name in row if name in kept} for row in pictured(tmp_path)]
    config = write_table(config, rows)
    config.model.inputs, config.train.objective = inputs, objective
    with pytest.raises(UserError, match=f"nothing to learn from: no pair of train {lack}"):
        open_run(config, tmp_path / "run")
