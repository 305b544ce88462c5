"""Which rows to label by hand: against brute force, and against what each rule says."""

import itertools

import numpy as np
import pytest

from cmaclip_jax.auditing.selection import embeddings, k_centres, select, uncertainty
from cmaclip_jax.tasks import Task

COLOUR = Task("colour", ("red", "green", "blue"))
THINGS = Task("things", ("mug", "hat"), many=True)


def radius(points, chosen):
    """The distance of the worst point to its nearest centre."""
    distances = [min(np.linalg.norm(p - points[c]) for c in chosen) for p in points]
    return max(distances)


@pytest.mark.parametrize("seed", range(5))
def test_greedy_centres_follow_their_rule_and_their_bound(seed):
    points = np.random.default_rng(seed).normal(size=(12, 3))
    chosen = k_centres(points, 4)
    expected = [0]
    while len(expected) < 4:
        away = [min(np.linalg.norm(p - points[c]) for c in expected) for p in points]
        expected.append(int(np.argmax(away)))
    assert chosen == expected
    best = min(radius(points, some) for some in itertools.combinations(range(12), 4))
    assert radius(points, chosen) <= 2 * best  # Gonzalez's bound, against all choices


def test_centres_of_few_or_equal_points():
    assert k_centres(np.zeros((0, 2)), 3) == []
    assert k_centres(np.ones((2, 2)), 0) == []
    assert k_centres(np.ones((5, 2)), 3) == [0]
    assert k_centres(np.array([[0.0], [1.0], [0.0]]), 3) == [0, 1]


def test_uncertainty_is_the_lack_of_a_margin():
    one = np.array([[0.5, 0.5, 0.0], [0.9, 0.1, 0.0], [0.2, 0.3, 0.5]])
    np.testing.assert_allclose(uncertainty(COLOUR, one), [1.0, 0.2, 0.8])
    many = np.array([[0.5, 1.0], [0.9, 0.2]])
    np.testing.assert_allclose(uncertainty(THINGS, many), [1.0, 0.4])


def test_distances_are_those_of_hellinger():
    colour = np.random.default_rng(0).dirichlet(np.ones(3), 2)
    things = np.random.default_rng(1).random((2, 2))
    a, b = embeddings((COLOUR, THINGS), {"colour": colour, "things": things})
    overlap = np.sqrt(colour[0] * colour[1]).sum()
    for p, q in things.T:
        overlap += np.sqrt(p * q) + np.sqrt((1 - p) * (1 - q))
    assert np.linalg.norm(a - b) ** 2 == pytest.approx(2 * (3 - overlap))


def test_uncertain_rows_come_first_and_copies_of_them_do_not():
    rows = [[0.5, 0.5, 0.0]] * 5 + [[0.0, 0.45, 0.55]] * 2 + [[1.0, 0.0, 0.0]] * 20
    probabilities = {"colour": np.array(rows, np.float32)}
    opened = {"colour": np.ones(27, bool)}
    assert select([COLOUR], probabilities, opened, 2) == [0, 5]
    assert select([COLOUR], probabilities, opened, 20) == [0, 5]  # the sure ones tell nothing


def test_tasks_that_have_an_answer_do_not_count():
    probabilities = {
        "colour": np.array([[0.5, 0.5, 0.0], [0.4, 0.6, 0.0], [0.4, 0.6, 0.0]]),
        "things": np.array([[0.5, 0.9], [0.5, 0.9], [0.9, 0.9]]),
    }
    opened = {"colour": np.array([False, True, True]), "things": np.array([False, True, False])}
    assert select([COLOUR, THINGS], probabilities, opened, 3) == [1, 2]
