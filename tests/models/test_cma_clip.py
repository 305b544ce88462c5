"""The network: absent modalities, both attentions, and the ablations that are its fields."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.small import TASKS, apply, initial, make_batch, make_model

from cmaclip_jax.models import ModalityAttention, SequenceAttention


def with_pixels(batch, pixels):
    """The batch with float pixels, which can be differentiated."""
    return {**batch, "image": pixels}


def test_an_absent_modality_weighs_exactly_nothing(objective, params, batch):
    _, aux = apply(objective.model, params, batch)
    for task in TASKS:
        weights = np.asarray(aux["modality_weights"][task.name])
        assert np.all(weights[~batch["has_image"], 0] == 0)
        assert np.all(weights[~batch["has_text"], 1] == 0)
        np.testing.assert_allclose(weights.sum(-1), 1.0, rtol=1e-6)
        assert np.all(weights[batch["has_image"] & batch["has_text"]] > 0)


@pytest.mark.parametrize("modality", ["attention", "gated", "mean", "concat"])
@pytest.mark.parametrize("layers", [0, 1])
def test_an_absent_pictures_placeholder_has_no_influence(modality, layers):
    batch = make_batch()
    batch["has_text"][:2] = batch["has_image"][:2] = False  # and some that have neither
    model = make_model(modality=modality, layers=layers)
    params = initial(model)
    pixels = jax.random.normal(jax.random.key(1), batch["image"].shape)

    def everything(pixels):
        logits, aux = apply(model, params, with_pixels(batch, pixels))
        return sum(jnp.sum(x**2) for x in jax.tree.leaves((logits, aux["modality_weights"])))

    gradient = np.asarray(jax.jit(jax.grad(everything))(pixels))
    assert np.all(gradient[~batch["has_image"]] == 0)
    assert np.all(np.abs(gradient[batch["has_image"]]).max(axis=(1, 2, 3)) > 0)


@pytest.mark.parametrize("modality", ["attention", "gated", "mean", "concat"])
def test_an_absent_titles_placeholder_has_no_influence(modality):
    batch = make_batch()
    model = make_model(modality=modality)
    params = initial(model)
    other = {**batch, "tokens": make_batch(seed=5)["tokens"]}
    (a, _), (b, _) = apply(model, params, batch), apply(model, params, other)
    for task in TASKS:
        same = np.all(np.asarray(a[task.name]) == np.asarray(b[task.name]), axis=-1)
        assert np.all(same[~batch["has_text"]])
        assert not np.any(same[batch["has_text"]])


def test_gates_keep_both_embeddings_and_even_weights_change_nothing():
    """With vectors of zero, all weights are even, and the heads read what `concat` gives them."""
    batch = make_batch()
    batch["has_image"][:] = batch["has_text"][:] = True
    gated, plain = make_model(modality="gated"), make_model(modality="concat")
    params = initial(gated)
    even = params | {"modality": jax.tree.map(jnp.zeros_like, params["modality"])}
    without = {name: part for name, part in params.items() if name != "modality"}
    (one, aux), (other, _) = apply(gated, even, batch), apply(plain, without, batch)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), one, other)
    for weights in aux["modality_weights"].values():
        np.testing.assert_allclose(weights, 0.5)
    weighed, _ = apply(gated, params, batch)
    assert not np.allclose(weighed["colour"], one["colour"], atol=1e-4)


def test_what_follows_the_end_of_a_text_has_no_influence(objective, params, batch):
    after = np.cumsum(batch["tokens"] == batch["tokens"].max(), axis=1) > 1
    other = {**batch, "tokens": np.where(after, 3, batch["tokens"])}
    (a, _), (b, _) = apply(objective.model, params, batch), apply(objective.model, params, other)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), a, b)


def test_sequence_attention_lets_the_modalities_meet():
    """With it, the image embedding depends on the text; without it, only the heads mix them."""
    batch = make_batch()
    batch["has_image"][:], batch["has_text"][:] = True, True
    other = {**batch, "tokens": make_batch(seed=5)["tokens"]}
    for layers, meet in ((1, True), (0, False)):
        model = make_model(layers=layers)
        params = initial(model)

        watched = jax.jit(functools.partial(model.apply, capture_intermediates=True))
        captured = [watched({"params": params}, b)[1]["intermediates"] for b in (batch, other)]
        embeddings = [c["sequence"]["__call__"][0][0]["image"] for c in captured]
        assert np.allclose(*embeddings) is not meet


def test_zero_start_equals_late_fusion(batch):
    fused = make_model().clone(sequence=SequenceAttention(layers=2, heads=2, zero_output=True))
    late = make_model(layers=0)
    params = initial(fused)
    layers = ("stack", "last")
    sequence = {k: v for k, v in params["sequence"].items() if k not in layers}
    without = {**params, "sequence": sequence}
    a, b = apply(fused, params, batch)[0], apply(late, without, batch)[0]
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), a, b)


def test_attention_maps_lead_from_words_to_patches(objective, params, batch):
    maps = np.asarray(apply(objective.model, params, batch, with_maps=True)[1]["attention_maps"])
    patches = (16 // 8) ** 2
    assert maps.shape == (1, 16, 12, patches)  # [L,B,T,P]
    assert np.all(maps[:, ~batch["has_image"]] == 0)
    assert np.all(maps[:, batch["has_image"]].sum(-1) > 0)
    assert np.all(maps.sum(-1) <= 1 + 1e-6)


@pytest.mark.parametrize("layers", [1, 3])
def test_the_last_layer_computes_what_is_read_and_no_more(layers, batch):
    """Asked for maps it runs whole, with more arithmetic, and gives the same answers."""
    model = make_model(layers=layers)
    params = initial(model)
    read, whole = (apply(model, params, batch, with_maps=maps)[0] for maps in (False, True))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), read, whole)
    part, all_of_it = (
        apply.lower(model, params, batch, with_maps=maps).cost_analysis()["flops"]
        for maps in (False, True)
    )
    assert part < 0.95 * all_of_it


@pytest.mark.parametrize("kept", ["image", "text"])
def test_a_single_modality_model_ignores_the_other(kept, batch):
    model = make_model(image=kept == "image", text=kept == "text")
    params = initial(model)
    assert {"image", "text"} & set(params) == {kept}
    assert "image" not in kept or "text_type" not in params["sequence"]
    other = make_batch(seed=5)
    left_out = {"image": ("tokens", "has_text"), "text": ("image", "has_image")}[kept]
    swapped = {**batch, **{name: other[name] for name in left_out}}
    (a, aux), (b, _) = apply(model, params, batch), apply(model, params, swapped)
    jax.tree.map(np.testing.assert_array_equal, a, b)
    column = 0 if kept == "image" else 1
    weights = np.asarray(aux["modality_weights"]["colour"])
    np.testing.assert_array_equal(weights[:, column], batch[f"has_{kept}"].astype(float))
    assert np.all(weights[:, 1 - column] == 0)


def test_modality_attention_is_a_softmax_of_dot_products():
    embeddings = jax.random.normal(jax.random.key(0), (4, 2, 8))
    present = jnp.array([[True, True], [True, False], [False, True], [False, False]])
    for per_modality in (False, True):
        module = ModalityAttention(("a", "b"), per_modality=per_modality)
        params = module.init(jax.random.key(1), embeddings, present)
        weights = module.apply(params, embeddings, present)
        vectors = np.asarray(params["params"]["vectors"])
        assert vectors.shape == (2, 2 if per_modality else 1, 8)
        scores = np.sum(np.asarray(embeddings)[0] * vectors[1], axis=-1)
        expected = np.exp(scores) / np.exp(scores).sum()
        np.testing.assert_allclose(weights["b"][0], expected, rtol=1e-5)
        np.testing.assert_array_equal(weights["b"][1:], [[1, 0], [0, 1], [0, 0]])


def test_an_own_width_of_the_fusion_is_projected(batch):
    model = make_model().clone(sequence=SequenceAttention(layers=1, width=24, heads=2))
    params = initial(model)
    assert params["sequence"]["image_projection"]["kernel"].shape == (32, 24)
    logits, _ = apply(model, params, batch)
    assert logits["colour"].shape == (16, 3)


def test_dropout_is_on_in_training_alone(batch):
    model = make_model(head_dropout=0.5).clone(
        sequence=SequenceAttention(layers=1, heads=2, dropout=0.5, zero_output=False)
    )
    params = initial(model)

    def colours(train, seed):
        rngs = {"dropout": jax.random.key(seed)}
        return np.asarray(apply(model, params, batch, train=train, rngs=rngs)[0]["colour"])

    assert np.array_equal(colours(False, 0), colours(False, 1))
    assert not np.allclose(colours(True, 0), colours(True, 1))


def test_bfloat16_computes_close_to_float32_over_the_same_parameters(batch):
    model = make_model()
    params = initial(model)
    low = jnp.bfloat16
    half = model.clone(
        image=model.image.clone(dtype=low),
        text=model.text.clone(dtype=low),
        sequence=model.sequence.clone(dtype=low),
        dtype=low,
    )
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(initial(half)))
    (a, _), (b, aux) = apply(model, params, batch), apply(half, params, batch)
    assert all(x.dtype == jnp.float32 for x in b.values())
    assert aux["modality_weights"]["colour"].dtype == jnp.float32
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=0.05), a, b)
