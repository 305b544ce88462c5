"""Figures against scikit-learn, and evaluation that no batch size can change."""

import jax
import numpy as np
import pytest
from conftest import TASKS, initial, make_batch, make_objective

from cmaclip_jax.evaluation.evaluator import collect, make_predict_step, score
from cmaclip_jax.evaluation.metrics import recall_at_precision, task_metrics
from cmaclip_jax.parallel.mesh import make_mesh

oracle = pytest.importorskip("sklearn.metrics", reason="the oracle; pip install -e '.[test]'")
random = np.random.default_rng(0)


@pytest.mark.parametrize("classes", [2, 7])
def test_one_label_figures(classes):
    scores = random.dirichlet(np.ones(classes), 300).round(2)  # rounded: with many ties
    labels = np.where(random.random(300) < 0.5, scores.argmax(-1), random.integers(0, classes, 300))
    labels[:20] = -1
    figures = task_metrics(scores, labels, many=False)
    truth, found = labels[20:], scores[20:].argmax(-1)
    assert figures["examples"] == 280
    np.testing.assert_allclose(figures["accuracy"], oracle.accuracy_score(truth, found))
    np.testing.assert_allclose(figures["macro_f1"], oracle.f1_score(truth, found, average="macro"))
    one_hot = np.eye(classes)[truth]
    np.testing.assert_allclose(
        figures["average_precision"], oracle.average_precision_score(one_hot, scores[20:])
    )
    precision, recall, _ = oracle.precision_recall_curve(truth == found, scores[20:].max(-1))
    share = np.mean(truth == found)  # recall here is of all examples, not of the right ones
    for wanted, reached in figures["recall_at_precision"].items():
        best = recall[:-1][precision[:-1] >= float(wanted)].max(initial=0.0)
        np.testing.assert_allclose(reached, best * share)


def test_many_label_figures():
    truth = random.integers(0, 2, (300, 5)).astype(np.float32)
    scores = np.clip(truth * 0.3 + random.random((300, 5)) * 0.7, 0, 1).round(2)
    labels = truth.copy()
    labels[:20] = -1
    figures = task_metrics(scores, labels, many=True)
    truth, scores = truth[20:].astype(int), scores[20:]
    found = (scores > 0.5).astype(int)
    np.testing.assert_allclose(figures["accuracy"], oracle.accuracy_score(truth, found))
    np.testing.assert_allclose(figures["macro_f1"], oracle.f1_score(truth, found, average="macro"))
    np.testing.assert_allclose(
        figures["average_precision"], oracle.average_precision_score(truth, scores)
    )
    precision, recall, _ = oracle.precision_recall_curve(truth.ravel(), scores.ravel())
    best = recall[:-1][precision[:-1] >= 0.9].max(initial=0.0)
    np.testing.assert_allclose(figures["recall_at_precision"]["0.90"], best)


def test_equal_confidences_are_accepted_together():
    confidence, correct = np.array([0.9, 0.9, 0.9, 0.1]), np.array([True, True, False, True])
    assert recall_at_precision(confidence, correct, 4, 0.9) == 0.0
    assert recall_at_precision(confidence, correct, 4, 0.75) == 0.75


def test_a_task_without_labels_has_no_figures():
    figures = task_metrics(np.ones((3, 2)) / 2, np.full(3, -1), many=False)
    assert figures["examples"] == 0
    assert figures["accuracy"] is None


def batches_of(rows: int, total: int):
    """`total` examples in padded batches of `rows`."""
    whole = make_batch(total)
    for start in range(0, total, rows):
        part = jax.tree.map(lambda x: x[start : start + rows], whole)  # noqa: B023
        missing = rows - len(part["weight"])
        filler = make_batch(missing, seed=9)
        filler["weight"][:] = 0
        yield jax.tree.map(lambda a, b: np.concatenate([a, b]), part, filler)


def test_figures_do_not_change_with_batch_size_or_devices():
    objective = make_objective()
    params = initial(objective.model)

    def figures(rows, devices):
        mesh = make_mesh(devices=jax.devices()[:devices])
        step = make_predict_step(objective, mesh, params)
        outcome = collect(step, params, batches_of(rows, 37), mesh)
        return score(outcome, TASKS, "val", 3)

    expected = figures(37, 1)
    assert expected["slices"]["all"]["examples"] == 37
    for rows, devices in ((8, 1), (8, 8), (16, 4), (64, 8)):
        jax.tree.map(
            lambda a, b: (
                np.testing.assert_allclose(a, b, rtol=1e-5)
                if isinstance(a, float)
                else np.testing.assert_equal(a, b)
            ),
            figures(rows, devices),
            expected,
        )


def test_headline_is_over_complete_pairs_and_slices_stand_beside():
    objective, batch = make_objective(), make_batch(64)
    params, mesh = initial(objective.model), make_mesh(devices=jax.devices()[:1])
    step = make_predict_step(objective, mesh, params)
    outcome = collect(step, params, [batch], mesh)
    figures = score(outcome, TASKS, "test", 5)
    complete = batch["has_image"] & batch["has_text"]
    labels = batch["labels"]["colour"]
    predicted = outcome["probabilities"]["colour"].argmax(-1)
    known = complete & (labels >= 0)
    assert figures["examples"] == complete.sum()
    assert figures["tasks"]["colour"]["accuracy"] == pytest.approx(
        (predicted == labels)[known].mean()
    )
    assert figures["slices"]["without_image"]["examples"] == np.sum(~batch["has_image"])
    weights = figures["slices"]["without_image"]["tasks"]["colour"]["modality_weights"]
    assert weights == {"image": 0.0, "text": 1.0}
    assert figures["mean"]["accuracy"] == pytest.approx(
        np.mean([task["accuracy"] for task in figures["tasks"].values()])
    )
