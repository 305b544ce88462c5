"""A finished run with thresholds, and its answers to PAIRS."""

import dataclasses
import shutil

import jax
import pytest
from support.server import PAIRS, as_json

from cmaclip_jax.evaluation.result_files import read_outcome
from cmaclip_jax.evaluation.threshold_choice import calibrate
from cmaclip_jax.evaluation.thresholds import write_thresholds
from cmaclip_jax.serving.classifier import open_classifier
from cmaclip_jax.tasks import read_tasks


@pytest.fixture(scope="session")
def run(finished_run, tmp_path_factory):
    """A copy of the finished run, with thresholds."""
    folder = shutil.copytree(finished_run, tmp_path_factory.mktemp("served") / "run")
    outcome = read_outcome(folder, "test")
    chosen = [
        calibrate(task, outcome["probabilities"][task.name], outcome["labels"][task.name], 0.2)
        for task in read_tasks(folder / "tasks.json")
    ]
    write_thresholds(
        folder / "thresholds.json", [dataclasses.replace(task, step=12) for task in chosen]
    )
    return folder


@pytest.fixture(scope="session")
def classifier(run):
    """The run on one device."""
    return open_classifier(run, jax.devices()[:1])


@pytest.fixture(scope="session")
def alone(classifier):
    """The answers of `predict` to each of PAIRS by itself, as JSON has them."""
    answers = [classifier.predict([image], [text])[0] for image, text in PAIRS]
    return [as_json(pair) for pair in answers]
