"""Pseudo-labels join the training rows, with their weight, and no other rows."""

import collections
import dataclasses
import json

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet
from support.commands import QUICKSTART, mistake
from support.small import small_config
from support.tables import ROWS, read_csv, write

from cmaclip_jax.config import check_config
from cmaclip_jax.data.bad_records import BadRecords
from cmaclip_jax.data.pseudo import HELD_OUT, open_pseudo
from cmaclip_jax.data.sources import open_sources
from cmaclip_jax.errors import UserError
from cmaclip_jax.runs.data import open_data
from cmaclip_jax.runs.frozen_features import Features
from cmaclip_jax.runs.towers import open_towers
from cmaclip_jax.runs.training import open_run

COLUMNS = ("id", "title", "colour", "materials")


def row(identity, colour="", materials="", title="a title"):
    return dict(zip(COLUMNS, (identity, title, colour, materials), strict=True))


@pytest.fixture
def data(config, tmp_path):
    """The fields of a table of words with 40 rows; an empty colour is unknown."""
    config.data.source, config.data.image = "table", "none"
    config.data.path = write(tmp_path / "own.csv", ROWS)
    config.data.labels, config.data.many = ("colour", "materials"), ("materials",)
    return config.data


def opened(data, path, weight=0.5):
    bad = BadRecords()
    return open_pseudo(str(path), weight, open_sources(data, bad), data, bad), bad


def ids(source):
    return [source[place].id for place in range(len(source))]


def test_rows_of_other_splits_and_without_labels_are_left_out(data, tmp_path):
    own = {r["split"]: r["id"] for r in ROWS}
    rows = [row("new", "red"), row(own["val"], "red"), row(own["test"], "red", "silk")]
    rows += [row("empty"), row("odd", "mauve"), row("more", "", "wool|silk"), row("x", "NA", "tin")]
    found, bad = opened(data, write(tmp_path / "more.csv", rows))
    assert ids(found) == ["new", "more", "x"]
    assert [found[i].labels["colour"] for i in range(3)] == ["red", None, "NA"]
    assert [found[i].labels["materials"] for i in range(3)] == [None, ("wool", "silk"), None]
    assert {found[i].weight for i in range(3)} == {0.5}
    assert bad.reasons == {
        HELD_OUT: 2,
        "class of colour that training lacks": 1,
        "class of materials that training lacks": 1,
    }
    assert "3 rows of" in found.about
    assert "colour 2, materials 1; left out: 2 of other splits, 2 without a label" in found.about


def test_a_training_row_learns_only_what_it_lacks(data, tmp_path):
    training = [r for r in ROWS if r["split"] == "train"]
    lacks = next(r for r in training if not r["colour"] and r["materials"])
    whole = next(r for r in training if r["colour"] and r["materials"])
    rows = [row(r["id"], "None", "wool") for r in (lacks, whole)]
    found, _ = opened(data, write(tmp_path / "more.csv", rows))
    assert ids(found) == [lacks["id"]]
    assert found[0].labels == {"colour": "None", "materials": None}


@pytest.mark.parametrize("kind", ["tsv", "jsonl", "parquet"])
def test_every_kind_of_table_and_its_column_of_splits(data, tmp_path, kind):
    rows = [row(f"n{n}", "red") | {"split": s} for n, s in enumerate(("train", "val", "Training"))]
    found, _ = opened(data, write(tmp_path / f"more.{kind}", rows))
    assert ids(found) == ["n0", "n2"]


def test_rows_that_only_have_numbers_are_not_compared(data, tmp_path):
    rows = [{"title": "a title", "colour": "red"}] * 40
    found, _ = opened(data, write(tmp_path / "more.csv", rows))
    assert len(found) == 40
    assert "have no ids, so rows of other splits are not found" in found.about


def test_the_training_rows_alone_have_them(config, data, tmp_path):
    rows = [row(f"n{n}", "red" if n % 2 else "NA") for n in range(30)]
    config.train.pseudo = write(tmp_path / "more.csv", rows)
    config.train.pseudo_weight, config.model.inputs = 0.25, "text"
    plain = open_data(small := config.copy_and_resolve_references(), None, open_towers(small, None))
    data = open_data(config, None, open_towers(config, None))
    assert data.tasks == plain.tasks
    for split in ("train", "val", "test"):
        assert ids(data.source(split)) == [r["id"] for r in ROWS if r["split"] == split]
    own = len(data.source("train"))
    assert data.order.size == own + 30
    assert ids(data.training_source)[own:] == [f"n{n}" for n in range(30)]
    seen = collections.Counter()
    batches = data.train_batches(0)
    for _ in range(-(-(own + 30) // 8)):
        seen.update(next(batches)["weight"].tolist())
    batches.close()
    assert set(seen) == {1.0, 0.25}
    assert seen[0.25] == pytest.approx(30, abs=8)
    judged = np.concatenate([b["weight"] for b in data.eval_batches("train")])
    assert set(judged) == {0.0, 1.0}
    assert judged.sum() == own


def test_balance_and_blocks_count_them(config, data, tmp_path):
    rows = [row(f"n{n}", "None") for n in range(30)]
    config.train.pseudo, data.balance = write(tmp_path / "more.csv", rows), "colour"
    config.model.inputs = "text"
    opened = open_data(config, None, open_towers(config, None))
    labels = opened.training_source.labels("colour")
    drawn = opened.order.weights / opened.order.weights.sum()
    for name in ("red", "NA", "None"):
        share = sum(w for w, label in zip(drawn, labels, strict=True) if label == name)
        known = sum(w for w, label in zip(drawn, labels, strict=True) if label)
        assert share / known == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"title": "words"}, "has no column 'title', which the table of data.path has"),
        ({"colour": "color"}, "has a label of colour, materials and is in no other split"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(data, tmp_path, fields, says):
    rows = [{fields.get(k, k): v for k, v in row(f"n{n}", "red").items()} for n in range(3)]
    with pytest.raises(UserError, match=says):
        opened(data, write(tmp_path / "more.csv", rows))


def test_other_mistakes(config, data, capsys, tmp_path):
    says = mistake(capsys, QUICKSTART, f"--workdir={tmp_path}/run", "--config.train.pseudo=a.csv")
    assert "config.train.pseudo needs data.source='table'" in says
    config.train.pseudo_weight = 0.0
    with pytest.raises(UserError, match=r"pseudo_weight=0\.0 must be at least"):
        check_config(config)
    with pytest.raises(UserError, match=r"cannot read the table '.*nowhere\.csv'"):
        opened(data, tmp_path / "nowhere.csv")


@pytest.fixture
def frozen(catalogue, tmp_path):
    """A run with frozen encoders and 20 pseudo-labels of pictures; and its table of these."""
    config = small_config()
    config.data.source, config.data.path = "table", str(catalogue)
    config.data.labels, config.eval.every = ("colour",), 0
    config.train.freeze = ("(image|text)/.*",)
    config.train.steps, config.train.epsilon = 6, 1e-3
    rows = [r | {"id": f"n{n}"} for n, r in enumerate(read_csv(catalogue)[:20])]
    path = catalogue.parent / f"{tmp_path.name}.csv"
    config.train.pseudo = write(path, rows)
    yield config, rows
    path.unlink()


def test_kept_features_give_the_batches_of_the_encoders(frozen, tmp_path, monkeypatch):
    config, rows = frozen
    run = open_run(config, tmp_path / "run")
    state = run.assembly.create_state()
    kept = run.reads.train_batches(0, state.params)
    plain = run.data.train_batches(0)
    for _ in range(8):
        a, b = next(kept), next(plain)
        assert set(a["weight"]) <= {0.5, 1.0}
        for name in ("weight", "tokens", "has_image"):
            np.testing.assert_array_equal(a[name], b[name])
        np.testing.assert_array_equal(a["labels"]["colour"], b["labels"]["colour"])
    plain.close()
    run.progress.close()
    folder = tmp_path / "run/features"
    assert {path.name for path in folder.iterdir()} == {"train", "pseudo"}
    encoded, encode = [], Features._encode
    monkeypatch.setattr(
        Features,
        "_encode",
        lambda self, split, *r: (encoded.append(split), encode(self, split, *r)),
    )
    features = dataclasses.replace(run.reads)
    features._arrays("pseudo", state.params)
    assert encoded == []
    changed = [r | {"title": "another title"} for r in rows]
    with open(config.train.pseudo, "w") as file:  # as many rows, another text
        file.write("\n".join([",".join(changed[0]), *(",".join(r.values()) for r in changed)]))
    features._arrays("pseudo", state.params)
    assert encoded == ["pseudo"]
    assert json.loads((folder / "pseudo/whole.json").read_text())["pairs"] == len(run.data.pseudo)


def test_pictures_in_blocks_are_read_block_by_block(config, tmp_path, monkeypatch):
    """If the pictures inside Parquet do not fit into memory, no block of either table is split."""
    monkeypatch.setattr("cmaclip_jax.data.arrow_tables.CACHE_BYTES", 1)
    for name, size in (("own", 30), ("more", 12)):
        rows = [
            {
                "id": f"{name}{n}",
                "image": b"\xff\xd8" + bytes([n]),
                "colour": ("red", "blue")[n % 2],
            }
            for n in range(size)
        ]
        table = pyarrow.Table.from_pylist([r | {"split": "train"} for r in rows])
        parquet.write_table(table, tmp_path / f"{name}.parquet", row_group_size=6)
    config.data.source, config.data.path = "table", str(tmp_path / "own.parquet")
    config.train.pseudo = str(tmp_path / "more.parquet")
    data = open_data(config, None, open_towers(config, None))
    source, own = data.training_source, len(data.source("train"))
    assert len(source) == own + 12
    assert source[own + 3].image.endswith("more.parquet#image#3")
    chunks = source.chunks
    assert len(set(chunks[:own]) | set(chunks[own:])) == 5 + 2
    assert not set(chunks[:own]) & set(chunks[own:])
    assert sorted(data.order.epoch(0)) == list(range(own + 12))
