"""A comparison: the methods of the paper's tables, in one table of two metrics."""

import csv
import json

import pytest
from flax.traverse_util import flatten_dict
from PIL import Image
from support.commands import mistake
from support.small import small_config
from support.studies import TASKS, in_this_process, small_arguments

from cmaclip_jax.main import main
from cmaclip_jax.runs.training import train_and_evaluate
from cmaclip_jax.studies import framework
from cmaclip_jax.training.saved_parameters import read_parameters

PROMPTS = "--config.eval.prompts=('{}',)"


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """A comparison from the encoders of a small run: raw CLIP, and CLIP fine-tuned."""
    folder = tmp_path_factory.mktemp("comparison")
    config = small_config()
    config.train.objective = "contrastive"
    config.eval.prompts = ("{}",)
    config.data.labels = TASKS
    train_and_evaluate(config, folder / "clip")
    command = ["compare", *small_arguments(), PROMPTS, f"--workdir={folder}/study", "--seeds=2"]
    command += [f"--config.model.pretrained={folder}/clip"]
    command += ["--variants=raw-clip,fine-tuned-clip"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(framework, "in_own_process", in_this_process)
        assert main(command) == 0
    return folder, command


@pytest.mark.slow
def test_the_table_has_both_metrics_of_every_method(comparison):
    folder, _ = comparison
    with (folder / "study/comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 3  # metrics, methods, the mean and two tasks
    for row in rows:
        if row["task"] not in TASKS:
            continue
        values = []
        for seed in range(int(row["n"])):
            run = folder / "study" / row["variant"] / f"seed-{seed}"
            task = json.loads((run / "evaluation/test.json").read_text())["tasks"][row["task"]]
            recall = task["recall_at_precision"]["0.90"]
            values.append(task["accuracy"] if row["metric"] == "accuracy" else recall)
        assert float(row["mean"]) == pytest.approx(sum(values) / len(values))
    assert {row["variant"]: row["n"] for row in rows} == {"raw-clip": "1", "fine-tuned-clip": "2"}
    text = (folder / "study/comparison.md").read_text()
    assert "| CMA-CLIP | 61.1 | 76.3 | 22.9 | 53.4 |" in text
    assert "`no-modality` and `neither` take their mean" in text
    with Image.open(folder / "study/comparison.png") as image:
        assert min(image.size) > 200


@pytest.mark.slow
def test_raw_clip_is_the_clip_that_it_starts_from(comparison):
    folder, _ = comparison
    before = flatten_dict(read_parameters(folder / "clip")[1], sep="/")
    after = flatten_dict(read_parameters(folder / "study/raw-clip/seed-0")[1], sep="/")
    tuned = flatten_dict(read_parameters(folder / "study/fine-tuned-clip/seed-0")[1], sep="/")
    assert set(before) == set(after) == set(tuned)
    assert all((before[name] == after[name]).all() for name in before)
    assert not all((before[name] == tuned[name]).all() for name in before)


def test_raw_clip_needs_a_clip(capsys, tmp_path):
    command = ["compare", *small_arguments(), PROMPTS, f"--workdir={tmp_path}/study"]
    says = "raw-clip needs a CLIP; set config.model.pretrained or leave it out"
    assert says in mistake(capsys, *command, "--variants=raw-clip")
