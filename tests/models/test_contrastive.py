"""CLIP's own losses over the global batch, and CLIP's own way to classify."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.small import TASKS, VOCABULARY, make_batch

from cmaclip_jax.models import CLIP, Contrastive, image_encoder, text_encoder
from cmaclip_jax.models.contrastive_losses import sigmoid_losses, softmax_losses
from cmaclip_jax.parallel.mesh import batch_sharding, make_mesh, to_device
from cmaclip_jax.parallel.rules import tree_shardings

torch = pytest.importorskip("torch", reason="the oracle; pip install -e '.[test]'")
from torch.nn import functional as F  # noqa: E402

PROMPTS = {
    task.name: np.random.default_rng(i).integers(0, VOCABULARY, (len(task.classes), 2, 12))
    for i, task in enumerate(TASKS)
}


def make_contrastive(kind="softmax", inputs="both"):
    model = CLIP(
        image_encoder("test/8"),
        text_encoder("test/8", vocabulary=VOCABULARY, end_token=VOCABULARY - 1),
        bias=kind == "sigmoid",
    )
    return Contrastive(model, TASKS, PROMPTS, kind, inputs)


@functools.cache
def parameters(kind="softmax"):
    return jax.jit(make_contrastive(kind).init)(jax.random.key(0), make_batch())


def embeddings(rows=64, width=16):
    random = np.random.default_rng(0)
    image, text = random.normal(size=(2, rows, width)).astype(np.float32)
    return image, text, random.random(rows) > 0.2


def torch_loss(kind, image, text, scale, bias, complete):
    """The sum over the complete pairs, written as CLIP's and SigLIP's papers write it."""
    image, text = F.normalize(image[complete]), F.normalize(text[complete])
    logits, own = scale.exp() * image @ text.T + bias, torch.arange(int(complete.sum()))
    if kind == "softmax":
        both = (F.cross_entropy(x, own, reduction="sum") for x in (logits, logits.T))
        return sum(both) / 2
    signs = 2 * torch.eye(len(own)) - 1
    return -F.logsigmoid(signs * logits).sum()


def our_loss(kind, image, text, scale, bias, complete):
    if kind == "softmax":
        return softmax_losses(image, text, scale, complete)[0].sum()
    return sigmoid_losses(image, text, scale, bias, complete)[0].sum()


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("devices", [1, 8])
def test_losses_and_gradients_equal_torch_on_any_number_of_devices(kind, devices):
    image, text, complete = embeddings()
    mesh = make_mesh(-1, 1, 1, devices=jax.devices()[:devices])
    rows = batch_sharding(mesh)
    numbers = (jnp.log(20.0), jnp.array(-3.0 if kind == "sigmoid" else 0.0))
    step = jax.jit(
        jax.value_and_grad(functools.partial(our_loss, kind), argnums=(0, 1, 2)),
        in_shardings=(rows, rows, None, None, rows),
    )
    loss, gradients = step(image, text, *numbers, complete)
    leaves = [torch.tensor(np.asarray(x), requires_grad=True) for x in (image, text, numbers[0])]
    expected = torch_loss(kind, *leaves, torch.tensor(float(numbers[1])), torch.tensor(complete))
    expected.backward()
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-5)
    for found, leaf in zip(gradients, leaves, strict=True):
        np.testing.assert_allclose(found, leaf.grad, rtol=1e-4, atol=1e-5)


def test_siglips_scale_goes_beyond_clips_limit():
    image, text, complete = embeddings()
    loss = our_loss("sigmoid", image, text, jnp.log(117.0), -12.9, complete)
    tensors = map(torch.tensor, (image, text, np.log(117.0), -12.9, complete))
    np.testing.assert_allclose(loss, torch_loss("sigmoid", *tensors).item(), rtol=1e-4)
    limited = our_loss("sigmoid", image, text, jnp.log(100.0), -12.9, complete)
    assert abs(loss - limited) > 0.01 * loss


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_no_device_holds_the_similarities_of_all_pairs(kind):
    image, text, complete = embeddings()
    rows = batch_sharding(make_mesh(8, 1, 1))
    step = jax.jit(
        jax.grad(functools.partial(our_loss, kind), argnums=(0, 1, 2)),
        in_shardings=(rows, rows, None, None, rows),
    )
    compiled = step.lower(image, text, 1.0, 0.0, complete).compile().as_text()
    assert "[8,64]" in compiled
    assert "[64,64]" not in compiled


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("shape", [pytest.param((8, 1, 1), marks=pytest.mark.slow), (2, 2, 2)])
def test_a_mesh_gives_the_loss_and_gradient_of_one_device(kind, shape):
    objective, params, batch = make_contrastive(kind), parameters(kind), make_batch(16)

    def step(mesh):
        shardings = (tree_shardings(params, mesh), batch_sharding(mesh), None)
        loss = jax.jit(jax.value_and_grad(objective.loss, has_aux=True), in_shardings=shardings)
        return loss(params, to_device(batch, shardings[1]), jax.random.key(0))

    (loss, sums), gradients = step(make_mesh(*shape))
    (expected, expected_sums), expected_gradients = step(make_mesh(1, 1, 1, jax.devices()[:1]))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), sums, expected_sums)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, atol=1e-5), gradients, expected_gradients
    )
    complete = batch["has_image"] & batch["has_text"]
    assert sums["loss/contrastive"][1] == complete.sum()


def test_classes_are_chosen_by_their_sentences():
    """Against the same by hand: mean of the sentences' directions, softmax of scaled cosines."""
    objective, params, batch = make_contrastive(inputs="image"), parameters(), make_batch()
    ready = objective.answering_parameters(params)
    found = jax.jit(objective.predict)(ready, batch)

    def direction(x):
        return np.asarray(x) / np.linalg.norm(x, axis=-1, keepdims=True)

    task = TASKS[0]
    sentences = jnp.asarray(PROMPTS[task.name].reshape(-1, 12))
    text = objective.model.text.apply({"params": params["text"]}, sentences)[1]
    classes = direction(direction(text).reshape(len(task.classes), 2, -1).mean(axis=1))
    image = objective.model.image.apply({"params": params["image"]}, batch["image"])[1]
    logits = np.exp(params["logit_scale"]) * direction(image) @ classes.T
    seen = batch["has_image"]
    np.testing.assert_allclose(
        found["probabilities"][task.name][seen], jax.nn.softmax(logits)[seen], rtol=1e-4
    )
    np.testing.assert_array_equal(
        found["modality_weights"][task.name], np.stack([seen, np.zeros_like(seen)], 1)
    )


def test_an_example_is_judged_by_what_it_has():
    """A placeholder's pixels and words move no probability."""
    objective, batch = make_contrastive(), make_batch()
    predict = jax.jit(objective.predict)
    ready = objective.answering_parameters(parameters())
    other = dict(batch)
    other["image"] = np.where(batch["has_image"][:, None, None, None], batch["image"], 77)
    other["tokens"] = np.where(batch["has_text"][:, None], batch["tokens"], 3)
    jax.tree.map(np.testing.assert_array_equal, predict(ready, batch), predict(ready, other))
