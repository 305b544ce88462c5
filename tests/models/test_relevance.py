"""Chefer's rule against the same network in NumPy, with gradients by finite differences."""

import math

import jax
import numpy as np
import pytest
from support.small import apply, initial, make_batch, make_model

from cmaclip_jax.models import image_encoder
from cmaclip_jax.models.cpu_layers import stack_layers, unstack_layers
from cmaclip_jax.models.encoders import CLIP_DEVIATION, CLIP_MEAN
from cmaclip_jax.models.relevance import patch_relevance

STEP = 1e-4  # of the finite differences
TASK, CLASS = "colour", 1


class Reference:
    """One pair through CMA-CLIP in float64. `added` is added to the attention of each layer."""

    def __init__(self, params, batch, row: int):
        self.params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
        self.picture = batch["image"][row] / 255.0
        self.text, self.end = batch["text_tokens"][row], int(batch["tokens"][row].argmax())
        self.maps: dict[str, np.ndarray] = {}  # of the last run, [N,S,S] for each layer

    def logit(self, added) -> float:
        params, sequence = self.params, self.params["sequence"]
        image = self.encoded(added) + sequence["image_type"]
        x = np.concatenate([image, self.text + sequence["text_type"]])
        seen = np.arange(len(x)) <= len(image) + self.end
        layers = layers_of(sequence.get("stack"))
        for number, layer in enumerate([*layers, sequence["last"]]):
            x = self.block(x, layer, seen, f"sequence {number}", added)
        pair = norm(x, sequence["norm"])[[0, len(image) + self.end]]
        scores = pair @ params["modality"]["vectors"][0, 0]
        head = params[f"head_{TASK}"]
        hidden = softmax(scores) @ pair @ head["hidden_0"]["kernel"] + head["hidden_0"]["bias"]
        hidden = hidden * (1 + np.array([math.erf(x / 2**0.5) for x in hidden])) / 2
        return float((hidden @ head["logits"]["kernel"] + head["logits"]["bias"])[CLASS])

    def encoded(self, added):
        params = self.params["image"]
        picture = (self.picture - CLIP_MEAN) / np.array(CLIP_DEVIATION)
        squares = [picture[y : y + 8, x : x + 8].ravel() for y in (0, 8) for x in (0, 8)]
        x = np.array(squares) @ params["patch_embedding"]["kernel"]
        if "class_token" in params:
            x = np.concatenate([params["class_token"][None], x]) + params["position_embedding"]
            x = norm(x, params["pre_norm"])
        else:
            x = x + params["patch_embedding"]["bias"] + params["position_embedding"]
        for number, layer in enumerate(layers_of(params["stack"])):
            x = self.block(x, layer, np.ones(len(x), bool), f"image {number}", added)
        x = norm(x, params["post_norm"])
        if "class_token" in params:
            return x @ params["projection"]["kernel"]
        pool = params["pool"]
        pooled = self.attend(pool["probe"][None], x, pool["attention"], True, "pool", added)
        return np.concatenate([pooled + mlp(norm(pooled, pool["norm"]), pool), x])

    def block(self, x, layer, seen, name, added):
        y = norm(x, layer["attention_norm"])
        x = x + self.attend(y, y, layer["attention"], seen, name, added)
        return x + mlp(norm(x, layer["mlp_norm"]), layer)

    def attend(self, of_queries, of_keys, attention, seen, name, added):
        both = np.concatenate([of_queries, of_keys])
        qkv = np.einsum("sd,dcnh->cnsh", both, attention["qkv"]["kernel"])
        query, key, value = qkv + attention["qkv"]["bias"][:, :, None]
        query, (key, value) = (
            query[:, : len(of_queries)],
            (x[:, len(of_queries) :] for x in (key, value)),
        )
        scores = np.where(seen, query @ key.swapaxes(1, 2) / query.shape[-1] ** 0.5, -np.inf)
        self.maps[name] = softmax(scores)
        y = (self.maps[name] + added.get(name, 0)) @ value
        return np.einsum("nsh,nhd->sd", y, attention["out"]["kernel"]) + attention["out"]["bias"]

    def gradient(self, name: str) -> np.ndarray:
        gradient = np.zeros_like(self.maps[name])
        for place in np.ndindex(gradient.shape):
            change = np.zeros_like(gradient)
            change[place] = STEP
            rise = self.logit({name: change}) - self.logit({name: -change})
            gradient[place] = rise / (2 * STEP)
        return gradient


def mlp(y, params):
    y = y @ params["mlp_up"]["kernel"] + params["mlp_up"]["bias"]
    y = y / (1 + np.exp(-1.702 * y))
    return y @ params["mlp_down"]["kernel"] + params["mlp_down"]["bias"]


def norm(x, params):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * params["scale"] + params["bias"]


def softmax(scores):
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def layers_of(stack):
    if stack is None:
        return []
    count = len(jax.tree.leaves(stack)[0])
    return [jax.tree.map(lambda x, i=i: x[i], stack["blocks"]) for i in range(count)]


def randomised(params):
    """Parameters of which none is 0 or 1, such as biases are at the start."""
    leaves, tree = jax.tree.flatten(params)
    random = np.random.default_rng(0)
    noisy = [x + 0.1 * random.standard_normal(x.shape).astype(np.float32) for x in leaves]
    return jax.tree.unflatten(tree, noisy)


def question_about(batch):
    question = {"colour": np.zeros((16, 3), np.float32), "contents": np.zeros((16, 4), np.float32)}
    question[TASK][:, CLASS] = 1
    return question


@pytest.fixture(scope="module")
def short():
    """A batch of short texts, encoded already."""
    batch = make_batch(length=4)
    random = np.random.default_rng(1)
    return {**batch, "text_tokens": random.standard_normal((16, 4, 32)).astype(np.float32)}


@pytest.mark.parametrize(("layers", "pooling"), [(1, "class"), (3, "class"), (2, "attention")])
def test_relevance_is_chefers_rule(short, layers, pooling):
    model = make_model(layers=layers).clone(image=image_encoder("test/8", pooling=pooling))
    params = randomised(initial(model))
    found = patch_relevance(model, params, short, question_about(short))
    row = int(np.flatnonzero(short["has_image"] & short["has_text"])[0])
    reference = Reference(params, short, row)
    logit = float(apply(model, params, short)[0][TASK][row, CLASS])
    assert reference.logit({}) == pytest.approx(logit, abs=1e-4)
    relevance = {}
    pooled = "pool" in reference.maps
    for part in ("image", "sequence"):
        names = sorted(name for name in reference.maps if name.startswith(part))
        maps = {name: reference.maps[name] for name in names}
        rests = np.eye(maps[names[0]].shape[-1])
        for name in names:
            positive = np.maximum(reference.gradient(name) * maps[name], 0)
            rests = rests + positive.mean(axis=0) @ rests
        relevance[part] = rests
    read = [0, 5 + reference.end]
    encoded = relevance["sequence"][read][:, :5]
    if pooled:  # the first token has its relevance from the patches
        of_pool = np.maximum(reference.gradient("pool") * reference.maps["pool"], 0).mean(axis=0)
        encoded = encoded[:, 1:] + encoded[:, :1] @ of_pool
    expected = (encoded @ relevance["image"]).sum(axis=0)[-4:]
    assert expected.max() > 1e-3
    np.testing.assert_allclose(found[row], expected, rtol=2e-3, atol=1e-6)


def test_relevance_needs_a_picture_and_any_layout_of_parameters(short):
    model = make_model(layers=3).clone(sequence=make_model(layers=3).sequence.clone(unroll=2))
    params = randomised(initial(make_model(layers=3)))
    found = np.asarray(patch_relevance(model, params, short, question_about(short)))
    assert np.all(found[~short["has_image"]] == 0)
    apart = {name: unstack_layers(part, unroll=3) for name, part in params.items()}
    again = {name: stack_layers(part) for name, part in apart.items()}
    jax.tree.map(np.testing.assert_array_equal, again, params)
    other = patch_relevance(model, apart, short, question_about(short))
    np.testing.assert_allclose(other, found, atol=1e-6)


@pytest.mark.parametrize("fields", [{"text": False, "layers": 2}, {"layers": 0}])
def test_pictures_alone_and_late_fusion_have_relevance(short, fields):
    model = make_model(**fields)
    found = np.asarray(patch_relevance(model, initial(model), short, question_about(short)))
    assert found.shape == (16, 4)
    assert np.all(found[short["has_image"]].sum(axis=1) > 0)
    assert np.all(found[~short["has_image"]] == 0)
