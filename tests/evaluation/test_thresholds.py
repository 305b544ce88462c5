"""Thresholds against brute force and closed forms, and their promise against many draws."""

import dataclasses
import json

import numpy as np
import pytest
from scipy.special import expit, softmax
from scipy.stats import binom, binomtest

from cmaclip_jax.errors import UserError
from cmaclip_jax.evaluation import threshold_choice as module
from cmaclip_jax.evaluation.temperature import scale
from cmaclip_jax.evaluation.temperature_fit import fit_temperature
from cmaclip_jax.evaluation.threshold_choice import calibrate, choose_threshold, reached
from cmaclip_jax.evaluation.thresholds import (
    TaskThresholds,
    Threshold,
    read_thresholds,
    write_thresholds,
)
from cmaclip_jax.tasks import Task

ONE = Task("colour", ("red", "green", "blue"))
MANY = Task("contents", ("mug", "hat", "bag"), many=True)
TARGET, LEVEL, DRAWS = 0.95, 0.9, 300


def brute_force(confidence, correct, target):
    """The lowest confidence that serves, by trying each."""
    values = np.unique(confidence)
    tried = (value for value in values if np.mean(correct[confidence >= value]) >= target)
    return next(tried, None)


@pytest.mark.parametrize("target", [0.5, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("decimals", [1, 2, 9])  # few values: with many ties
def test_the_point_estimate_is_the_lowest_threshold_that_serves(target, decimals):
    random = np.random.default_rng(decimals)
    for _ in range(20):
        confidence = random.random(60).round(decimals)
        correct = random.random(60) < confidence
        assert choose_threshold(confidence, correct, target) == brute_force(
            confidence, correct, target
        )


def test_a_minimum_keeps_a_lucky_few_from_deciding():
    confidence, correct = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False])
    assert choose_threshold(confidence, correct, 0.9) == 0.9
    assert choose_threshold(confidence, correct, 0.9, minimum=2) is None
    sure, right = np.linspace(0.9, 1, 80), np.ones(80, bool)
    assert choose_threshold(sure, right, 0.95, 0.9, minimum=80) == 0.9
    assert choose_threshold(sure, right, 0.95, 0.9, minimum=81) is None


@pytest.mark.parametrize("level", [0.8, 0.9, 0.99])
@pytest.mark.parametrize("found", [20, 44, 45, 150, 300, 1500])
def test_of_one_group_the_clopper_pearson_bound_decides(level, found):
    seen = set()
    for hits in range(int(found * 0.94), found + 1, 1 + found // 300):
        correct = np.arange(found) < hits
        exact = binomtest(hits, found).proportion_ci(2 * level - 1, method="exact")
        chosen = choose_threshold(np.full(found, 0.7), correct, TARGET, level)
        assert chosen == (0.7 if exact.low >= TARGET else None), (hits, exact)
        seen.add(chosen)
    assert len(seen) == 1 + (found >= np.log(1 - level) / np.log(TARGET))


def test_nothing_is_promised_from_too_few_or_for_perfection():
    fewest = int(np.ceil(np.log(1 - LEVEL) / np.log(TARGET)))
    sure = np.linspace(0.9, 1, fewest)
    assert choose_threshold(sure, np.ones(fewest, bool), TARGET, LEVEL) == 0.9
    assert choose_threshold(sure[1:], np.ones(fewest - 1, bool), TARGET, LEVEL) is None
    assert choose_threshold(sure, np.ones(fewest, bool), 1.0, LEVEL) is None
    assert choose_threshold(sure, np.ones(fewest, bool), 1.0) == 0.9
    for level in (None, LEVEL):
        assert choose_threshold(np.zeros(0), np.zeros(0, bool), TARGET, level) is None


# A population of 30 confidences, ties therefore, with the true share right at each of them.
LEVELS = np.linspace(0.99, 0.55, 30)
TRUTHS = {
    "calibrated": LEVELS,
    "too sure": np.clip(1.75 * LEVELS - 0.74, 0, 1),
    "uninformative, just below": np.full(30, 0.949),
}


def predictions(task, groups):
    """Probabilities [N,3] of rows whose decisions have the confidences LEVELS[groups]."""
    value = LEVELS[groups]
    if task.many:
        return value.astype(np.float32)  # groups [N,3]
    return np.stack([value, 0.6 * (1 - value), 0.4 * (1 - value)], axis=-1).astype(np.float32)


def draw(task, truth, rows, random):
    groups = random.integers(0, 30, (rows, 3) if task.many else rows)
    correct = random.random(groups.shape) < truth[groups]
    labels = correct.astype(int) if task.many else np.where(correct, 0, 1)
    return predictions(task, groups), labels


def broken_share(task, truth, rows, seed):
    """The share of calibration draws whose threshold has a true precision below the target."""
    random, broken = np.random.default_rng(seed), 0
    every = np.arange(30)
    population = predictions(task, np.stack([every] * 3, axis=-1) if task.many else every)
    for _ in range(DRAWS):
        chosen = calibrate(task, *draw(task, truth, rows, random), TARGET, LEVEL)
        accepted = chosen.accepts(population).reshape(30, -1)[:, 0]
        broken += accepted.any() and truth[accepted].mean() < TARGET
    return broken / DRAWS


@pytest.mark.parametrize("task", [ONE, MANY], ids=["one", "many"])
@pytest.mark.parametrize("truth", TRUTHS.values(), ids=TRUTHS)
def test_the_promise_is_broken_as_seldom_as_said(task, truth):
    most = binom.ppf(0.999, DRAWS, 1 - LEVEL) / DRAWS
    assert broken_share(task, truth, 900, seed=1) <= most


def best_bound(confidence, correct, target, level):
    """What the promise must not be made from: the lowest threshold whose own bound passes."""
    values = np.unique(confidence)
    found = np.array([np.sum(confidence >= value) for value in values])
    hits = np.array([np.sum(correct[confidence >= value]) for value in values])
    passed = values[binom.sf(hits - 1, found, target) <= 1 - level]
    return float(passed[0]) if len(passed) else None


def test_the_best_of_all_bounds_would_break_it(monkeypatch):
    monkeypatch.setattr(module, "choose_threshold", best_bound)
    most = binom.ppf(0.999, DRAWS, 1 - LEVEL) / DRAWS
    assert broken_share(ONE, TRUTHS["uninformative, just below"], 900, seed=1) > most


def test_the_price_of_the_promise_falls_with_examples():
    random, kept = np.random.default_rng(3), []
    for rows in (1000, 5000, 25000):
        recalls = np.zeros(2)
        for _ in range(12):
            confidence = random.beta(3, 0.75, rows)
            correct = random.random(rows) < confidence
            for index, level in enumerate((None, LEVEL)):
                value = choose_threshold(confidence, correct, TARGET, level)
                accepted = confidence >= (np.inf if value is None else value)
                recalls[index] += np.sum(accepted & correct) / correct.sum()
        kept.append(recalls[1] / recalls[0])
    assert kept[0] < kept[1] < kept[2]
    assert kept[1] > 0.8
    assert kept[2] > 0.9


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("known", [0.4, 1.0, 3.0])
def test_a_known_temperature_is_found(many, known):
    random = np.random.default_rng(4)
    logits = random.normal(0, 2, (20_000, 4))
    if many:
        labels, shown = random.random(logits.shape) < expit(logits), expit(logits * known)
    else:
        chances = np.cumsum(softmax(logits, -1), axis=-1)
        labels = (chances > random.random((20_000, 1))).argmax(-1)
        shown = softmax(logits * known, -1)
    temperature = fit_temperature(shown, labels.astype(np.float32), many)
    assert temperature == pytest.approx(known, rel=0.05)
    straight = expit(logits) if many else softmax(logits, -1)
    np.testing.assert_allclose(scale(shown, known, many), straight, atol=1e-7)


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_certainty_stays_finite_and_in_order(many, kind):
    sure = np.array([[1, 0, 0], [0, 1, 0], [0.5, 0.5, 0], [1e-30, 1, 0]], kind)
    labels = np.eye(3, dtype=int)[[0, 0, 1, 2]] if many else np.array([0, 0, 1, 2])
    with np.errstate(divide="raise", invalid="raise"):
        temperature = fit_temperature(sure, labels, many)
    assert temperature > 2  # certain and wrong
    for value in (1 / 20, temperature, 20):
        scaled = scale(sure, value, many)
        assert np.all((scaled >= 0) & (scaled <= 1))
        assert np.all(np.diff(scaled[3, [2, 0, 1]]) >= 0)
    np.testing.assert_allclose(scale(sure, 1.0, many), sure, atol=1e-7)


@pytest.mark.parametrize("task", [ONE, MANY], ids=["one", "many"])
@pytest.mark.parametrize("level", [None, LEVEL])
def test_unknown_labels_count_nowhere(task, level):
    random = np.random.default_rng(5)
    probabilities, labels = draw(task, LEVELS**0.1, 800, random)
    wrong, unknown = draw(task, np.zeros(30), 300, random)
    if task.many:
        unknown[:, 1] = -1  # one is enough
    else:
        unknown[:] = -1
    both = np.concatenate([probabilities, wrong]), np.concatenate([labels, unknown])
    plain = calibrate(task, probabilities, labels, TARGET, level, per_class=True)
    assert plain.overall.value is not None
    assert calibrate(task, *both, TARGET, level, per_class=True) == plain
    assert reached(plain, *both) == reached(plain, probabilities, labels)


@pytest.mark.parametrize("task", [ONE, MANY], ids=["one", "many"])
@pytest.mark.parametrize("level", [None, LEVEL])
def test_without_known_labels_nothing_is_accepted(task, level):
    probabilities = np.full((5, 3), 1, np.float32)
    labels = np.full((5, 3) if task.many else 5, -1)
    chosen = calibrate(task, probabilities, labels, TARGET, level, per_class=True)
    assert chosen.temperature == 1.0
    for threshold in (chosen.overall, *chosen.classes.values()):
        assert dataclasses.astuple(threshold) == (None, 0, 0, None, None)
    assert chosen.accepts(probabilities).shape == labels.shape
    assert not chosen.accepts(probabilities).any()
    assert set(reached(chosen, probabilities, labels).values()) == {0, None}


def test_each_class_by_itself():
    random = np.random.default_rng(6)
    rows, truths = 3000, np.array([0.99, 0.7, 0.985])  # how often each predicted class is right
    decided = random.integers(0, 3, rows)
    value = random.uniform(0.6, 0.99, rows)
    probabilities = np.where(
        np.eye(3, dtype=bool)[decided], value[:, None], (1 - value)[:, None] / 2
    )
    labels = np.where(random.random(rows) < truths[decided], decided, (decided + 1) % 3)
    chosen = calibrate(ONE, probabilities, labels, TARGET, LEVEL, per_class=True)
    assert list(chosen.classes) == list(ONE.classes)
    assert chosen.classes["green"].value is None
    assert not chosen.accepts(probabilities)[decided == 1].any()
    for index, name in ((0, "red"), (2, "blue")):
        threshold, accepted = chosen.classes[name], chosen.accepts(probabilities)
        accepted &= decided == index
        right = np.sum(accepted & (labels == index))
        assert threshold.examples == np.sum(decided == index)
        assert threshold.accepted == accepted.sum() > 500
        assert threshold.precision == right / accepted.sum()
        assert threshold.recall == right / np.sum(labels == index)


def test_each_class_of_many_by_itself():
    random = np.random.default_rng(7)
    probabilities = random.random((1000, 3))
    labels = (random.random((1000, 3)) < probabilities ** [0.1, 1, 8]).astype(np.float32)
    chosen = calibrate(MANY, probabilities, labels, 0.9, per_class=True)
    scaled = scale(probabilities, chosen.temperature, many=True)
    accepted = chosen.accepts(probabilities)
    for index, name in enumerate(MANY.classes):
        expected = brute_force(scaled[:, index], labels[:, index] > 0, 0.9)
        assert chosen.classes[name].value == expected
        np.testing.assert_array_equal(accepted[:, index], scaled[:, index] >= expected)
    together = calibrate(MANY, probabilities, labels, 0.9)
    assert together.classes == {}
    assert together.overall == chosen.overall
    assert together.overall.examples == labels.size
    assert together.overall.value == brute_force(scaled.ravel(), labels.ravel() > 0, 0.9)


def test_reached_on_another_split():
    threshold = Threshold(0.7, 1, 1, 1.0, 1.0)
    probabilities = np.array([[0.8, 0.1, 0.1], [0.1, 0.75, 0.15], [0.4, 0.3, 0.3], [0.9, 0.1, 0]])
    chosen = TaskThresholds(ONE, 1.0, TARGET, None, threshold)
    figures = reached(chosen, probabilities, np.array([0, 2, 0, -1]))
    assert figures == {
        "examples": 3,
        "accepted": 2,
        "accepted_share": 2 / 3,
        "precision": 1 / 2,
        "recall": 1 / 3,
    }
    labels = np.array([[1, 0, 1], [0, 0, 0], [0, 0, 1], [-1, 0, 0]])
    figures = reached(dataclasses.replace(chosen, task=MANY), probabilities, labels)
    assert (figures["accepted"], figures["accepted_share"]) == (2, 2 / 9)
    assert (figures["precision"], figures["recall"]) == (1 / 2, 1 / 3)


def test_the_file_gives_back_what_was_written(tmp_path):
    random = np.random.default_rng(8)
    chosen = [
        calibrate(ONE, *draw(ONE, LEVELS, 700, random), TARGET, LEVEL),
        calibrate(MANY, *draw(MANY, LEVELS, 700, random), TARGET, None, per_class=True),
        calibrate(Task("größe", ("å", "b")), np.ones((1, 2)) / 2, np.array([-1]), 1.0, LEVEL),
    ]
    path = tmp_path / "evaluation" / "thresholds.json"
    write_thresholds(path, chosen[:1])
    write_thresholds(path, chosen)
    assert read_thresholds(path) == {task.task.name: task for task in chosen}
    assert [file.name for file in path.parent.iterdir()] == ["thresholds.json"]


def spoil(change):
    row = dataclasses.asdict(calibrate(ONE, np.ones((1, 3)) / 3, np.array([0]), TARGET))
    change(row)
    return json.dumps({"thresholds": [row]})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"thresholds": {"a": 1}}',
        spoil(lambda row: row.pop("temperature")),
        spoil(lambda row: row.update(temperature=0)),
        spoil(lambda row: row["overall"].update(value="high")),
        spoil(lambda row: row["overall"].update(colour=3)),
        spoil(lambda row: row.update(classes={"red": row["overall"]})),
        spoil(lambda row: row["task"].update(classes=["red"])),
    ],
)
def test_a_file_that_is_missing_or_malformed_ends_in_one_line(tmp_path, text):
    path = tmp_path / "thresholds.json"
    with pytest.raises(UserError, match="this run has no thresholds; make them with `cmaclip"):
        read_thresholds(path)
    path.write_text(text)
    with pytest.raises(UserError, match=r"does not hold thresholds .*make them with") as error:
        read_thresholds(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("target", "level"), [(0, None), (1.2, None), (0.9, 1.0), (0.9, 90)])
def test_impossible_wishes_are_refused(target, level):
    with pytest.raises(UserError, match="give one"):
        calibrate(ONE, np.ones((1, 3)) / 3, np.array([0]), target, level)


def test_predictions_that_are_not_numbers_are_refused():
    with pytest.raises(UserError, match="not numbers"):
        calibrate(ONE, np.full((2, 3), np.nan), np.array([0, 1]), TARGET)
