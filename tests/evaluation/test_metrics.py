"""Figures against scikit-learn, and evaluation that no batch size can change."""

import functools
import io
import itertools
import json
import re

import jax
import numpy as np
import pytest
from rich.console import Console
from support.small import TASKS, VOCABULARY, initial, make_batch, make_objective

from cmaclip_jax.errors import UserError
from cmaclip_jax.evaluation.metrics import recall_at_precision, task_metrics
from cmaclip_jax.evaluation.predictor import collect, make_predict_step
from cmaclip_jax.evaluation.result_files import write_score
from cmaclip_jax.evaluation.scores import score
from cmaclip_jax.evaluation.tables import score_table
from cmaclip_jax.parallel.mesh import make_mesh
from cmaclip_jax.tasks import Task

oracle = pytest.importorskip("sklearn.metrics", reason="the oracle; pip install -e '.[test]'")

close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-6)
nan_where_none = functools.partial(np.array, dtype=float)
COLUMNS = ("precision", "recall", "f1")


def task_of(classes: int, many: bool = False) -> Task:
    return Task("task", tuple(f"class {c}" for c in range(classes)), many)


def one_label(rows: int, classes: int, dtype=np.float32):
    """Scores with many ties, labels that are often right; the last class never occurs."""
    random = np.random.default_rng(rows)
    scores = random.dirichlet(np.ones(classes), rows).round(2).astype(dtype)
    labels = np.where(random.random(rows) < 0.5, scores.argmax(-1), random.integers(0, 99, rows))
    return scores, labels % (classes - 1)


def many_labels(rows: int, classes: int, dtype=np.float32):
    """As `one_label`; the last class never occurs, the one before is never decided for."""
    random = np.random.default_rng(rows)
    labels = random.integers(0, 2, (rows, classes)).astype(np.float32)
    scores = np.clip(labels * 0.3 + random.random((rows, classes)) * 0.7, 0, 1)
    labels[:, -1], scores[:, -2:] = 0, scores[:, -2:] / 2
    labels[0, 0] = 1  # scikit-learn wants one at least
    return scores.round(2).astype(dtype), labels


def calibration_by_hand(confidence, correct) -> float:
    """The definition, one decision at a time."""
    error, edges = 0.0, np.linspace(0, 1, 16)
    for low, high in itertools.pairwise(edges):
        inside = [i for i, c in enumerate(confidence) if low <= c < high or c == high == 1]
        right = sum(float(correct[i]) for i in inside)
        error += abs(right - sum(float(confidence[i]) for i in inside)) / len(confidence)
    return error


def check_classes(figures, truth, found, classes: int, scores):
    """What is computed alike for both kinds of tasks; `truth` and `found` as scikit-learn's."""
    told = {"labels": range(classes), "zero_division": np.nan}
    *columns, support = oracle.precision_recall_fscore_support(truth, found, **told)
    for name, expected in zip(COLUMNS, columns, strict=True):
        close(nan_where_none([c[name] for c in figures["classes"].values()]), expected)
    assert [c["support"] for c in figures["classes"].values()] == support.tolist()
    close(figures["accuracy"], oracle.accuracy_score(truth, found))
    close(figures["macro_f1"], oracle.f1_score(truth, found, average="macro", **told))
    close(figures["micro_f1"], oracle.f1_score(truth, found, average="micro", **told))
    one_hot = truth if truth.ndim == 2 else np.eye(classes)[truth]
    occurs = one_hot.any(axis=0)
    close(
        figures["average_precision"],
        oracle.average_precision_score(one_hot[:, occurs], scores[:, occurs]),
    )


def check_ranking(figures, confidence, correct, reachable: float):
    """`reachable`: the recall of accepting everything."""
    precision, recall, _ = oracle.precision_recall_curve(correct, confidence)
    for wanted, reached in figures["recall_at_precision"].items():
        best = recall[:-1][precision[:-1] >= float(wanted)].max(initial=0.0)
        close(reached, best * reachable)
    close(figures["expected_calibration_error"], calibration_by_hand(confidence, correct))


def check_class_recalls(figures, decided, confidence, correct, support):
    """Of every class's own decisions, flat; each class has thresholds of its own."""
    shares = {name: [] for name in figures["recall_at_precision"]}
    for place, row in enumerate(figures["classes"].values()):
        own = decided == place
        if not support[place]:
            assert set(row["recall_at_precision"].values()) == {None}
            continue
        for wanted, told in row["recall_at_precision"].items():
            best = 0.0
            if correct[own].any():
                precision, recall, _ = oracle.precision_recall_curve(correct[own], confidence[own])
                best = recall[:-1][precision[:-1] >= float(wanted)].max(initial=0.0)
            close(told, best * correct[own].sum() / support[place])
            shares[wanted].append(told)
    expected = {name: np.mean(values) for name, values in shares.items()}
    assert figures["macro_recall_at_precision"] == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore:No positive class found")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("rows", "classes"), [(1, 7), (300, 2), (300, 7), (400, 210)])
def test_one_label_figures(rows, classes, dtype):
    scores, truth = one_label(rows, classes, dtype)
    task, precisions, tops = task_of(classes), (0.5, 0.9, 0.999), (1, 2, 5)
    figures = task_metrics(scores, truth, task, precisions, tops)
    found = scores.argmax(-1)
    correct = truth == found
    assert figures["examples"] == rows
    assert list(figures["recall_at_precision"]) == ["0.50", "0.90", "0.999"]
    check_classes(figures, truth, found, classes, scores)
    check_ranking(figures, scores.max(-1), correct, np.mean(correct))
    support = np.bincount(truth, minlength=classes)
    check_class_recalls(figures, found, scores.max(-1), correct, support)
    assert list(figures["top_k_accuracy"]) == [str(k) for k in tops if k < classes]
    for k, share in figures["top_k_accuracy"].items() if classes > 2 else ():
        # Of equal scores scikit-learn takes the last class, we the first as argmax does.
        told = {"k": int(k), "labels": range(classes)}
        close(share, oracle.top_k_accuracy_score(classes - 1 - truth, scores[:, ::-1], **told))
    assert figures["top_k_accuracy"]["1"] == figures["accuracy"] == figures["micro_f1"]
    matrix = oracle.confusion_matrix(truth, found, labels=range(classes))
    if classes <= 200:
        assert figures["confusion"] == matrix.tolist()
        return
    assert "confusion" not in figures
    np.fill_diagonal(matrix, 0)
    listed = [(c["truth"], c["decision"], c["count"]) for c in figures["most_confused"]]
    assert [count for *_, count in listed] == sorted(matrix.ravel().tolist(), reverse=True)[:20]
    for true, decision, count in listed:
        assert matrix[task.classes.index(true), task.classes.index(decision)] == count


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("rows", "classes"), [(1, 5), (300, 5), (300, 210)])
def test_many_label_figures(rows, classes, dtype):
    scores, labels = many_labels(rows, classes, dtype)
    figures = task_metrics(scores, labels, task_of(classes, many=True))
    truth, found = labels.astype(int), (scores > 0.5).astype(int)
    check_classes(figures, truth, found, classes, scores)
    check_ranking(figures, scores.ravel(), truth.ravel(), 1.0)
    decided = np.tile(np.arange(classes), rows)
    check_class_recalls(figures, decided, scores.ravel(), truth.ravel() > 0, truth.sum(axis=0))
    matrices = oracle.multilabel_confusion_matrix(truth, found)  # [[tn, fp], [fn, tp]] a class
    assert figures["confusion"] == matrices.reshape(-1, 4)[:, [3, 1, 2, 0]].tolist()
    assert "top_k_accuracy" not in figures


@pytest.mark.parametrize("make", [one_label, many_labels])
def test_unknown_labels_count_nowhere_and_order_does_not_matter(make):
    scores, labels = make(900, 7, np.float64)  # their sum depends on the order
    task, unknown = task_of(7, make is many_labels), np.arange(900) % 3 == 0
    labels[unknown, ...] = -1
    expected = task_metrics(scores[~unknown], labels[~unknown], task)
    assert task_metrics(scores, labels, task) == expected
    order = np.random.default_rng(0).permutation(900)
    assert task_metrics(scores[order], labels[order], task) == expected
    if task.many:
        labels[~unknown, 2] = -1  # of a row, one class is enough
        assert task_metrics(scores, labels, task)["examples"] == 0


@pytest.mark.parametrize(("classes", "many"), [(2, False), (7, False), (210, False), (1, True)])
def test_a_task_without_labels_has_the_same_figures_all_none(classes, many):
    task, scores = task_of(classes, many), np.ones((3, classes), np.float32) / classes
    labels = np.zeros((3, 1) if many else 3)
    figures = task_metrics(scores, labels - 1, task)
    assert figures.pop("examples") == 0
    assert jax.tree.leaves(figures) == []  # None is none
    known = task_metrics(scores, labels, task)
    assert known.keys() == {"examples", *figures}
    nested = {"recall_at_precision", "macro_recall_at_precision", "top_k_accuracy"}
    for name in nested & known.keys():
        assert known[name].keys() == figures[name].keys()


def test_nothing_to_find_and_nothing_found():
    """Where scikit-learn warns: no class occurs, and none is decided for."""
    figures = task_metrics(np.full((3, 2), 0.25), np.zeros((3, 2)), task_of(2, many=True))
    assert figures["accuracy"] == 1.0
    assert figures["expected_calibration_error"] == 0.25
    assert figures["recall_at_precision"] == {"0.90": 0.0, "0.95": 0.0}
    assert [figures[name] for name in ("micro_f1", "macro_f1", "average_precision")] == [0.0] * 3
    assert figures["macro_recall_at_precision"] == {"0.90": 0.0, "0.95": 0.0}
    nothing = {"support": 0, "precision": None, "recall": None, "f1": None}
    nothing["recall_at_precision"] = {"0.90": None, "0.95": None}
    assert figures["classes"] == {"class 0": nothing, "class 1": nothing}


def test_equal_confidences_are_accepted_together():
    confidence, correct = np.array([0.9, 0.9, 0.9, 0.1]), np.array([True, True, False, True])
    assert recall_at_precision(confidence, correct, 4, 0.9) == 0.0
    assert recall_at_precision(confidence, correct, 4, 0.75) == 0.75


def test_a_precision_that_is_just_reached_counts():
    correct = np.arange(100) < 7  # as floats, 0.07 * 100 > 7
    assert recall_at_precision(np.ones(100), correct, 7, 0.07) == 1.0


@pytest.mark.parametrize("rows", [1, 7, 16, 37, 64])
def test_any_batches_give_identical_figures(rows, tmp_path):
    """The probabilities are given, so that nothing but their collection is at work."""
    mesh = make_mesh(devices=jax.devices()[:1])

    def predict(params, batch):
        numbers = np.asarray(batch["tokens"], np.float32) / VOCABULARY
        given = {"colour": numbers[:, :3] / 3, "contents": numbers[:, :4]}
        weights = {name: numbers[:, 4:6] for name in given}
        return {**batch, "probabilities": given, "modality_weights": weights}

    def figures(rows):
        return score(collect(predict, None, batches_of(rows, 37), mesh), TASKS, "val", 3)

    assert figures(rows) == figures(50)
    written = write_score(tmp_path, figures(rows)).read_text()
    assert json.loads(written) == figures(50)
    assert re.search(r'"confusion": \[\n +\[\d+, \d+, \d+\],\n', written)  # a row a line


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
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
                if isinstance(a, float)
                else np.testing.assert_equal(a, b)
            ),
            figures(rows, devices),
            expected,
        )


def test_one_modality_is_scored_on_the_pairs_that_have_it():
    """And on the complete pairs beside them, by which it is compared with both modalities."""
    batch = make_batch(64)
    given = {"colour": np.full((64, 3), 1 / 3), "contents": np.full((64, 4), 0.5)}
    weights = dict.fromkeys(given, np.tile([0.0, 1.0], (64, 1)))
    outcome = {**batch, "probabilities": given, "modality_weights": weights, "row": np.arange(64)}
    image, text = batch["has_image"], batch["has_text"]
    figures = score(outcome, TASKS, "test", 5, inputs="text")
    assert (figures["scored"], figures["examples"]) == ("text", text.sum())
    assert figures["slices"]["complete"]["examples"] == np.sum(image & text)
    assert score(outcome, TASKS, "test", 5)["scored"] == "both"
    outcome["has_image"] = np.zeros(64, bool)
    assert score(outcome, TASKS, "test", 5)["scored"] == "text"
    outcome |= {"has_image": np.arange(64) < 9, "has_text": np.arange(64) >= 9}
    assert score(outcome, TASKS, "test", 5)["scored"] == "all"
    with pytest.raises(UserError, match="no pair of test can be used"):
        score(jax.tree.map(lambda x: x[:0], outcome), TASKS, "test", 5)


def test_no_accuracy_on_the_screen_stands_without_its_count():
    objective, batch = make_objective(), make_batch(64)
    batch["has_image"][:], batch["has_text"][:] = True, True
    batch["has_image"][:4] = False
    batch["labels"]["colour"][:4] = [0, 1, 2, -1]
    params, mesh = initial(objective.model), make_mesh(devices=jax.devices()[:1])
    outcome = collect(make_predict_step(objective, mesh, params), params, [batch], mesh)
    figures = score(outcome, TASKS, "test", 5)
    told = io.StringIO()
    Console(file=told, width=200).print(score_table(figures))
    _, head, line, *_ = told.getvalue().splitlines()
    assert head.split()[:3] == ["task", "pairs", "accuracy"]
    cells = line.split()
    assert cells[:2] == ["colour", str(int(np.sum(batch["labels"]["colour"][4:] >= 0)))]
    accuracy = figures["slices"]["without_image"]["tasks"]["colour"]["accuracy"]
    assert cells[-3:] == [f"{accuracy:.3f}", "(3)", "-"]  # no picture; no text


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
    for name in ("recall_at_precision", "macro_recall_at_precision"):
        for precision in ("0.90", "0.95"):
            of_tasks = [task[name][precision] for task in figures["tasks"].values()]
            assert figures["mean"][name][precision] == pytest.approx(np.mean(of_tasks))
