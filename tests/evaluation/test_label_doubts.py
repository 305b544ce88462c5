"""Doubts about labels: the definitions of confident learning, and Cleanlab on the same answers."""

import numpy as np
import pytest

from cmaclip_jax.evaluation.label_doubts import (
    confident_classes,
    confident_thresholds,
    label_doubts,
)
from cmaclip_jax.tasks import Task

COLOURS = Task("colour", ("red", "green", "blue", "grey"))


@pytest.fixture(scope="module")
def noisy():
    """Answers that are mostly right about 2,000 labels, of which a tenth was changed."""
    rng = np.random.default_rng(0)
    true = rng.integers(4, size=2_000)
    scores = rng.normal(size=(2_000, 4)) + 4 * np.eye(4)[true]
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    wrong = rng.random(2_000) < 0.1
    labels = np.where(wrong, (true + rng.integers(1, 4, size=2_000)) % 4, true)
    return probabilities.astype(np.float32), labels, wrong


def test_thresholds_are_the_mean_probabilities_of_the_labelled():
    probabilities = np.array([[0.9, 0.1, 0.0], [0.7, 0.3, 0.0], [0.2, 0.8, 0.0]])
    thresholds = confident_thresholds(probabilities, np.array([0, 0, 1]))
    assert thresholds[:2] == pytest.approx([0.8, 0.8])
    assert np.isinf(thresholds[2])
    assert confident_classes(probabilities, thresholds).tolist() == [0, -1, 1]


def test_as_many_are_found_as_cleanlab_finds(noisy):
    """Cleanlab's filter and its score of confidence in the label, on the same probabilities."""
    find = pytest.importorskip("cleanlab.filter").find_label_issues
    scores = pytest.importorskip("cleanlab.rank").get_label_quality_scores
    probabilities, labels, _ = noisy
    doubts = label_doubts(COLOURS, probabilities, labels)
    theirs = find(labels, probabilities, filter_by="confident_learning", n_jobs=1)
    assert np.mean(theirs == doubts.likely) > 0.99
    quality = scores(labels, probabilities, method="self_confidence")
    assert 1 - doubts.doubt == pytest.approx(quality, abs=1e-6)


def test_changed_labels_come_first_with_the_label_that_they_had(noisy):
    probabilities, labels, wrong = noisy
    doubts = label_doubts(COLOURS, probabilities, labels)
    first = np.argsort(-doubts.doubt)[: wrong.sum()]
    assert wrong[first].mean() > 0.9
    assert wrong[doubts.likely].mean() > 0.9
    assert (doubts.suggestion != doubts.label).all()
    assert (doubts.suggestion == doubts.place).sum() == 0


def test_unknown_labels_have_no_doubt():
    probabilities = np.array([[0.9, 0.1, 0, 0], [0.1, 0.9, 0, 0]], np.float32)
    doubts = label_doubts(COLOURS, probabilities, np.array([-1, 0]))
    assert doubts.row.tolist() == [1]
    assert (doubts.label[0], doubts.suggestion[0]) == (0, 1)


def test_every_class_of_a_many_label_task_is_doubted_by_itself():
    tags = Task("tags", ("warm", "dry"), many=True)
    probabilities = np.array([[0.95, 0.02]] * 4 + [[0.04, 0.9]] * 4 + [[0.97, 0.03]], np.float32)
    labels = np.array([[1, 0]] * 4 + [[0, 1]] * 4 + [[0, 0]])  # the last one lacks "warm"
    doubts = label_doubts(tags, probabilities, labels)
    assert len(doubts.row) == 2 * len(labels)
    worst = doubts.doubt.argmax()
    assert (doubts.row[worst], doubts.place[worst]) == (8, 0)
    assert (doubts.label[worst], doubts.suggestion[worst]) == (0, 1)
    assert doubts.likely.sum() == 1
