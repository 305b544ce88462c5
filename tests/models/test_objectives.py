"""The losses against PyTorch's, and what must cost nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.small import initial, make_batch, make_objective

from cmaclip_jax.models.contrastive_losses import softmax_losses
from cmaclip_jax.models.objectives import many_label_losses, one_label_losses, without_modalities

torch = pytest.importorskip("torch", reason="the oracle; pip install -e '.[test]'")
functional = torch.nn.functional

random = np.random.default_rng(0)
LOGITS = random.normal(size=(6, 4)).astype(np.float32)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_one_label_loss(smoothing):
    labels = np.array([0, 3, -1, 2, 1, -1])
    losses, known = one_label_losses(LOGITS, labels, jnp.ones(4), smoothing)
    expected = functional.cross_entropy(
        torch.tensor(LOGITS),
        torch.tensor(labels),
        ignore_index=-1,
        label_smoothing=smoothing,
        reduction="none",
    )
    np.testing.assert_allclose(jnp.where(known, losses, 0), expected, rtol=1e-5)
    np.testing.assert_array_equal(known, labels >= 0)


def test_class_weights_scale_the_loss_of_their_class():
    labels, weights = np.array([0, 3, 1, 2, 1, 0]), jnp.array([1.0, 2.0, 0.5, 0.0])
    losses, _ = one_label_losses(LOGITS, labels, weights)
    expected = functional.cross_entropy(
        torch.tensor(LOGITS), torch.tensor(labels), torch.tensor(weights), reduction="none"
    )
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_many_label_loss():
    labels = random.integers(0, 2, (6, 4)).astype(np.float32)
    labels[2], labels[4, 1] = -1, -1
    losses, known = many_label_losses(LOGITS, labels, jnp.ones(4))
    raw = functional.binary_cross_entropy_with_logits(
        torch.tensor(LOGITS), torch.tensor(np.maximum(labels, 0)), reduction="none"
    ).numpy()
    expected = [raw[row][labels[row] >= 0].mean() if known[row] else 0 for row in range(6)]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    np.testing.assert_array_equal(known, [1, 1, 0, 1, 1, 1])


def test_contrastive_loss_is_clips_over_the_complete_pairs():
    image, text = random.normal(size=(2, 6, 8)).astype(np.float32)
    complete = np.array([True, True, False, True, True, False])
    losses, _ = softmax_losses(image, text, jnp.log(20.0), complete)
    a = functional.normalize(torch.tensor(image[complete]), dim=-1)
    b = functional.normalize(torch.tensor(text[complete]), dim=-1)
    logits, own = 20.0 * a @ b.T, torch.arange(4)
    expected = (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2
    np.testing.assert_allclose(losses.sum() / 4, expected, rtol=1e-5)
    np.testing.assert_array_equal(np.asarray(losses)[~complete], 0)
    steep = [softmax_losses(image, text, s, complete)[0].sum() for s in (np.log(100.0), 9.0)]
    assert steep[0] == steep[1]  # the scale is held at 100
    slope = jax.grad(lambda s: softmax_losses(image, text, s, complete)[0].sum())
    above, below = slope(np.log(100.0) + 1e-6), slope(np.log(100.0) - 1e-6)
    np.testing.assert_allclose(above, below, rtol=1e-3)  # and can come down from there
    assert abs(above) > 1


@functools.partial(jax.jit, static_argnums=0)
def loss_of(objective, params, batch):
    return objective.loss(params, batch, jax.random.key(0))


@functools.partial(jax.jit, static_argnums=0)
def gradient_of(objective, params, batch):
    return jax.grad(lambda p: objective.loss(p, batch, jax.random.key(0))[0])(params)


def test_unknown_labels_cost_nothing(objective, params):
    batch = make_batch()
    batch["labels"] = jax.tree.map(lambda x: np.full_like(x, -1), batch["labels"])
    assert loss_of(objective, params, batch)[0] == 0
    gradient = gradient_of(objective, params, batch)
    assert all(np.all(x == 0) for x in jax.tree.leaves(gradient))


def test_padding_costs_nothing(objective, params):
    batch, longer = make_batch(8), make_batch(12)
    padded = jax.tree.map(lambda a, b: np.concatenate([a, b[8:]]), batch, longer)
    padded["weight"][8:] = 0
    (a, sums_a), (b, sums_b) = (loss_of(objective, params, rows) for rows in (batch, padded))
    np.testing.assert_allclose(a, b, rtol=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), sums_a, sums_b)


def test_task_weights_weigh_the_tasks(params, batch):
    _, sums = loss_of(make_objective(), params, batch)
    heavy = make_objective(task_weights=(("colour", 3.0),))
    weighted = loss_of(heavy, params, batch)[0]
    expected = (3 * sums["loss/colour"][0] + sums["loss/contents"][0]) / len(batch["weight"])
    np.testing.assert_allclose(weighted, expected, rtol=1e-5)


def test_contrastive_term_is_added_and_finite_without_any_text(batch):
    objective = make_objective(contrastive=0.5)
    params = initial(objective.model)
    total, sums = loss_of(objective, params, batch)
    plain, _ = loss_of(make_objective(), params, batch)
    np.testing.assert_allclose(total - plain, 0.5 * sums["loss/contrastive"][0] / 16, rtol=1e-4)
    silent = {**batch, "has_text": np.zeros(16, bool)}
    gradient = gradient_of(objective, params, silent)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(gradient))


def test_dropped_modalities_are_absent_as_often_as_asked():
    """A complete pair loses its picture or its text, never both; other pairs stay as they are."""
    batch = make_batch(rows=4_000)
    dropped = jax.tree.map(np.asarray, without_modalities(batch, jax.random.key(0), 0.3))
    complete = batch["has_image"] & batch["has_text"]
    for name in ("has_image", "has_text"):
        np.testing.assert_array_equal(dropped[name][~complete], batch[name][~complete])
        assert np.mean(~dropped[name][complete]) == pytest.approx(0.15, abs=0.02)
    assert np.all(dropped["has_image"] | dropped["has_text"] | ~complete)


def test_dropping_changes_the_tasks_losses_and_not_the_contrastive_one(params, batch):
    """All pairs lose a modality: the loss is that of the batch without it."""
    key = jax.random.key(3)
    plain, dropping = (
        make_objective(contrastive=0.5),
        make_objective(contrastive=0.5, drop_modality=1.0),
    )
    _, expected = plain.loss(params, batch, key)
    _, sums = dropping.loss(params, batch, key)
    np.testing.assert_allclose(sums["loss/contrastive"], expected["loss/contrastive"], rtol=1e-6)
    bare = without_modalities(batch, jax.random.fold_in(key, 1), 1.0)
    _, expected = make_objective().loss(params, bare, key)
    for task in ("colour", "contents"):
        np.testing.assert_allclose(sums[f"loss/{task}"], expected[f"loss/{task}"], rtol=1e-6)
