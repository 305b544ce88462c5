"""Suspects: found among unseen answers, with the classes that cannot be judged left alone."""

import numpy as np
import pytest
from scipy.special import softmax

from cmaclip_jax.auditing.fold_runs import choose_folds
from cmaclip_jax.auditing.suspects import find_suspects
from cmaclip_jax.auditing.unseen_answers import classes_to_judge, join_answers
from cmaclip_jax.errors import UserError
from cmaclip_jax.tasks import Task

COLOUR = Task("colour", ("red", "green", "blue"))
TAGS = Task("tags", ("warm", "dry"), many=True)
COUNT = 300


@pytest.fixture(scope="module")
def true():
    return np.random.default_rng(0).integers(2, size=COUNT)


def outcome(scores, labels, tags, tag_scores):
    return {
        "row": np.arange(COUNT),
        "probabilities": {
            "colour": softmax(scores, axis=1).astype(np.float32),
            "tags": (1 / (1 + np.exp(-tag_scores))).astype(np.float32),
        },
        "labels": {"colour": labels, "tags": tags},
        "has_image": np.arange(COUNT) % 10 > 0,
        "has_text": np.ones(COUNT),
    }


@pytest.fixture(scope="module")
def answers(true):
    """Unseen answers about labels of which three are wrong; blue is known in one fold alone."""
    rng = np.random.default_rng(1)
    labels, tags = true.copy(), np.stack([true, 1 - true], axis=1)
    labels[[5, 17]] = 1 - labels[[5, 17]]
    labels[4], labels[8] = 2, 2
    tags[30, 0] = 1 - tags[30, 0]

    def noisy(strength):
        scores = strength * np.eye(3)[true] + rng.normal(size=(COUNT, 3))
        right = 2.0 * np.stack([true, 1 - true], axis=1) - 1
        return outcome(scores, labels, tags, strength * right + rng.normal(size=(COUNT, 2)))

    alone = {"image-alone": noisy(3), "text-alone": noisy(3)}
    folds = np.arange(COUNT) % 4 + 1
    return join_answers((COLOUR, TAGS), noisy(6), alone, folds)


def suspects_of(answers):
    ids = [f"id {number}" for number in range(COUNT)]
    found = find_suspects((COLOUR, TAGS), answers, ids, ["train"] * COUNT, {}, "|")
    return sorted(found, key=lambda one: -one.doubt)


def test_wrong_labels_are_found_with_the_right_ones(answers, true):
    first = suspects_of(answers)[:3]
    assert {(one.row, one.task) for one in first} == {(5, "colour"), (17, "colour"), (30, "tags")}
    by_row = {one.row: one for one in first}
    for row in (5, 17):
        assert by_row[row].suggestion == COLOUR.classes[true[row]]
        assert by_row[row].label == COLOUR.classes[1 - true[row]]
        assert by_row[row].id == f"id {row}"
    suggested = {"warm" if true[30] else "dry"}
    assert set(by_row[30].suggestion.split("|")) == suggested
    assert any(one.likely for one in first)


def test_a_class_of_one_fold_alone_is_not_judged(answers):
    assert classes_to_judge(COLOUR, answers).tolist() == [True, True, False]
    assert not {4, 8} & {one.row for one in suspects_of(answers) if one.task == "colour"}


def test_twins_with_another_label_are_named(answers):
    ids = [f"id {number}" for number in range(COUNT)]
    contradicting = {(5, "colour"): ("id 9",)}
    found = find_suspects((COLOUR,), answers, ids, ["val"] * COUNT, contradicting, "|")
    assert found[0].split == "val"
    assert {one.row: one.twins for one in found}[5] == ("id 9",)


def test_a_modality_alone_counts_where_the_pair_has_both(true):
    labels, tags = true, np.zeros((COUNT, 2), int)
    sure, unsure = 9 * np.eye(3)[true], np.zeros((COUNT, 3))
    whole = outcome(sure, labels, tags, np.zeros((COUNT, 2)))
    alone = {"image-alone": outcome(unsure, labels, tags, np.zeros((COUNT, 2)))}
    joined = join_answers((COLOUR,), whole, alone, np.ones(COUNT)).probabilities["colour"]
    of_label = joined[np.arange(COUNT), true]
    has_both = whole["has_image"] > 0
    assert of_label[~has_both] == pytest.approx(1, abs=0.01)
    assert of_label[has_both] == pytest.approx((2 + 1 / 3) / 3, abs=0.01)


def test_folds_keep_groups_together_and_have_equal_sizes():
    groups = np.repeat(np.arange(40), [5, *[1] * 39])
    folds = choose_folds(groups, 4, seed=0)
    assert len(set(folds[:5])) == 1
    assert np.bincount(folds)[1:].tolist() == [11, 11, 11, 11]
    assert (folds == choose_folds(groups, 4, seed=0)).all()
    with pytest.raises(UserError, match=r"--folds=50 needs as many .* this data has 40"):
        choose_folds(groups, 50, seed=0)
