"""A finished run with thresholds, and its answers to PAIRS."""

import jax
import pytest
from support.server import PAIRS, as_json
from support.thresholds import copy_with_thresholds

from cmaclip_jax.serving.classifier import open_classifier


@pytest.fixture(scope="session")
def run(finished_run, tmp_path_factory):
    """A copy of the finished run, with thresholds."""
    folder = tmp_path_factory.mktemp("served") / "run"
    return copy_with_thresholds(finished_run, folder, 0.2, step=12)


@pytest.fixture(scope="session")
def classifier(run):
    """The run on one device."""
    return open_classifier(run, jax.devices()[:1])


@pytest.fixture(scope="session")
def alone(classifier):
    """The answers of `predict` to each of PAIRS by itself, as JSON has them."""
    answers = [classifier.predict([image], [text])[0] for image, text in PAIRS]
    return [as_json(pair) for pair in answers]
