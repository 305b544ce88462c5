"""Every layout of real data goes through a whole run: read, trained on, evaluated."""

import json

import pytest
import tensorflow_datasets as tfds
from PIL import Image
from support import fashion_gen, food101, tables, tiny_pairs

from cmaclip_jax.main import main
from cmaclip_jax.runs.training import train_and_evaluate


def a_food101(layout):
    def write(root, data):
        data.source, data.path = "food101", str(root)
        food101.write_images(root)
        food101.LAYOUTS[layout][0](root)

    return write


def a_fashion_gen(root, data):
    data.source, data.path = "fashion_gen", str(root)
    fashion_gen.write_file(root / fashion_gen.TRAIN, range(60))
    fashion_gen.write_file(root / fashion_gen.VALIDATION, range(100, 110))


def a_table(name):
    def write(root, data):
        (root / "images").mkdir()
        for number in range(5):
            Image.new("RGB", (9, 9), (number, 0, 0)).save(root / f"images/{number}.png")
        rows = tables.ROWS if name.endswith("sv") else list(map(tables.typed, tables.ROWS))
        data.source, data.path = "table", tables.write(root / name, rows)
        data.many = ("materials",)

    return write


def a_tfds(kind):
    def write(root, data):
        builder = tiny_pairs.TinyPairs(data_dir=root, file_format=kind)
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=2))
        data.source, data.path, data.text = "tfds", str(builder.data_dir), "title"

    return write


def a_prepared(kind):
    """Fashion-Gen as `cmaclip prepare` writes it."""

    def write(root, data):
        a_fashion_gen(root, data)
        (root / "config.py").write_text(
            "from cmaclip_jax.config import base_config\n\n\n"
            "def get_config():\n    config = base_config()\n"
            f"    config.data.source = 'fashion_gen'\n    config.data.path = {str(root)!r}\n"
            "    return config\n"
        )
        arguments = ["--shards=3", "--size=20", f"--format={kind}", f"--output={root / 'out'}"]
        assert main(["prepare", f"--config={root / 'config.py'}", *arguments]) == 0
        data.source, data.path = "tfds", str(root / "out")

    return write


LAYOUTS = {f"food101 {layout}": a_food101(layout) for layout in food101.LAYOUTS}
LAYOUTS |= {"fashion_gen": a_fashion_gen}
LAYOUTS |= {f"table {n}": a_table(n) for n in ("a.csv", "a.tsv", "a.jsonl", "a.parquet")}
LAYOUTS |= {f"tfds {kind}": a_tfds(kind) for kind in ("tfrecord", "array_record")}
LAYOUTS |= {f"prepared {kind}": a_prepared(kind) for kind in ("tfrecord", "array_record")}


FAST = ("fashion_gen", "table a.csv", "prepared array_record")


@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in LAYOUTS]
)
def test_every_layout_trains_a_step_and_is_evaluated(config, tmp_path, name):
    folder = tmp_path / "data"
    folder.mkdir()
    LAYOUTS[name](folder, config.data)
    config.data.image_size = 16
    config.data.augment.crop = 0.5
    config.data.augment.flip = True
    config.model.sequence_layers = 0  # compiles sooner
    config.train.steps = 1
    config.eval.every = 0
    figures = train_and_evaluate(config, tmp_path / "run")
    assert figures["split"] == "test"
    assert figures["slices"]["all"]["examples"] > 0
    assert figures["tasks"]
    for task in figures["slices"]["all"]["tasks"].values():
        assert task["examples"] > 0
        assert 0 <= task["accuracy"] <= 1
    tasks = json.loads((tmp_path / "run/tasks.json").read_text())["tasks"]
    assert [task["name"] for task in tasks] == list(figures["tasks"])
