"""Weights of examples: a weight counts as so many equal examples, whole or in parts."""

import functools

import jax
import numpy as np
import pytest
from support.small import make_batch, make_model

from cmaclip_jax.data.batches import BatchEncoder
from cmaclip_jax.data.records import Record
from cmaclip_jax.data.text import train_tokenizer
from cmaclip_jax.models import CLIP, Contrastive
from cmaclip_jax.tasks import Task
from cmaclip_jax.training.step import accumulate


@functools.partial(jax.jit, static_argnames=("objective", "parts"))
def found(objective, params, batch, parts=1):
    """`(loss, sums, gradients)` of a batch."""
    frozen = jax.tree.map(lambda _: False, params)
    return accumulate(objective, frozen, params, batch, jax.random.key(0), parts)


def assert_close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), a, b)


def rows_of(batch, rows):
    return jax.tree.map(lambda x: x[rows], batch)


def test_a_row_of_weight_2_equals_the_row_twice(objective, params):
    """A closed form: the same sums, the same gradient. Half of all weights changes nothing."""
    batch = make_batch(rows=6)
    weighted = {**batch, "weight": np.array([1, 2, 1, 1, 2, 0], np.float32)}
    twice = rows_of(batch, [0, 1, 1, 2, 3, 4, 4])
    loss, sums, gradients = found(objective, params, weighted)
    expected_loss, expected_sums, expected = found(objective, params, twice)
    assert_close((loss, sums, gradients), (expected_loss, expected_sums, expected))
    halved = {**weighted, "weight": weighted["weight"] / 2}
    half_loss, half_sums, half = found(objective, params, halved)
    assert_close((half_loss, half), (loss, gradients))
    assert float(half_sums["loss"][1]) == 3.5
    plain = found(objective, params, rows_of(batch, [0, 1, 2, 3, 4]))[2]
    difference = jax.tree.map(lambda a, b: np.abs(a - b).max(), gradients, plain)
    assert max(jax.tree.leaves(difference)) > 1e-3  # the weights do something


@pytest.mark.parametrize("weights", [[0.25] * 8, [0.1, 0, 0.3, 0, 0, 0, 0.2, 0], [3.0, 0.5] * 4])
def test_parts_of_any_weight_give_the_whole(objective, params, weights):
    """Also where the weights of a part sum to less than 1, or to 0."""
    batch = {**make_batch(rows=8), "weight": np.array(weights, np.float32)}
    assert_close(found(objective, params, batch, 2), found(objective, params, batch, 1))


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_a_pairs_own_contrastive_loss_has_its_weight(kind):
    model = make_model()
    clip = CLIP(model.image, model.text, bias=kind == "sigmoid")
    objective = Contrastive(model=clip, tasks=(), prompts={}, kind=kind)
    batch = make_batch(rows=4)
    batch |= {"has_image": np.ones(4, bool), "has_text": np.ones(4, bool)}
    params = jax.jit(objective.init)(jax.random.key(0), batch)
    loss = jax.jit(
        lambda weights: objective.loss(params, {**batch, "weight": weights}, jax.random.key(0))[0]
    )
    # The mean over all is the mean of what each row adds, so weights can be taken apart.
    own = [4 * float(loss(np.ones(4, np.float32) + np.eye(4, dtype=np.float32)[i])) for i in (0, 1)]
    plain = float(loss(np.ones(4, np.float32)))
    first, second = (1.25 * x - 4 * plain for x in own)  # [(4 plain + x) / 5] * 5 - 4 plain
    both = float(loss(np.array([2, 2, 1, 1], np.float32)))
    assert both == pytest.approx((4 * plain + first + second) / 6, rel=1e-5)
    assert first != pytest.approx(second, rel=1e-3)


def test_a_record_brings_its_weight_into_the_batch():
    task = Task("colour", ("red", "blue"))
    encode = BatchEncoder((task,), train_tokenizer(["a mug"] * 3, 300), 8, 8)
    records = [Record("a", None, "a mug", {"colour": "red"}, weight=0.5), None]
    records.append(Record("b", None, "a mug", {"colour": None}))
    batch = encode(records, ["a mug", None, "a mug"])
    assert batch["weight"].tolist() == [0.5, 0.0, 1.0]
    assert batch["weight"].dtype == np.float32
