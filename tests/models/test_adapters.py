"""Adapters: what they add, what they leave alone, and what is left of them when they are merged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from support.adapted import EVERYWHERE, adapted_model, trained_adapters
from support.small import apply, initial, make_batch, make_model, make_objective

from cmaclip_jax.models import CLIP, image_encoder, text_encoder
from cmaclip_jax.models.adapters import LORA, Adapter, LowRank, has_adapters, merge_towers


def assert_close(actual, expected, atol):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), actual, expected)


def test_the_addition_follows_its_formula():
    module = LowRank(Adapter(rank=2, alpha=5.0), (3, 4))
    x = jax.random.normal(jax.random.key(0), (2, 7, 6))
    params = {
        "a": jax.random.normal(jax.random.key(1), (6, 2)),
        "b": jax.random.normal(jax.random.key(2), (2, 3, 4)),
    }
    expected = 5.0 / 2 * np.einsum("bsi,ir,rnh->bsnh", x, params["a"], params["b"])
    assert_close(module.apply({"params": params}, x), expected, 1e-4)


def test_new_adapters_change_nothing():
    plain, adapted = make_model(), adapted_model()
    params = initial(adapted)
    assert has_adapters(params)
    assert not has_adapters(initial(plain))
    without = {**params, **{side: initial(plain)[side] for side in ("image", "text")}}
    base = {path: leaf for path, leaf in flatten_dict(params, sep="/").items() if LORA not in path}
    assert set(base) == set(flatten_dict(without, sep="/"))
    batch = make_batch()
    merged = merge_towers(adapted, params)
    assert_close(apply(adapted, params, batch)[0], apply(plain, merged, batch)[0], 0)


@pytest.mark.parametrize("unroll", [1, 2])
def test_merged_weights_answer_as_the_adapters_did(unroll):
    """In a loop over the layers and unrolled, in the trained layout and in that of answers."""
    model = adapted_model()
    model = model.clone(
        image=model.image.clone(unroll=unroll), text=model.text.clone(unroll=unroll)
    )
    params, batch = trained_adapters(model), make_batch()
    expected, _ = apply(model, params, batch)
    untouched, _ = apply(model, initial(model), batch)
    assert any(np.abs(expected[task] - untouched[task]).max() > 1e-2 for task in expected)
    merged = merge_towers(model, params)
    assert not has_adapters(merged)
    assert_close(apply(model, merged, batch)[0], expected, 1e-6)
    assert_close(apply(make_model(), merged, batch)[0], expected, 1e-6)
    answering = make_objective(model).answering_parameters(params)
    assert_close(apply(model, answering, batch)[0], expected, 1e-6)


def test_dropout_acts_in_training_alone():
    model = adapted_model(Adapter(rank=3, alpha=6.0, dropout=0.5, products=("query", "mlp_up")))
    params, batch = trained_adapters(model), make_batch()
    one, other = (
        apply(model, params, batch, rngs={"dropout": jax.random.key(seed)}, train=True)[0]
        for seed in (1, 2)
    )
    assert any(np.abs(one[task] - other[task]).max() > 1e-3 for task in one)
    answers = [apply(model, params, batch)[0] for _ in range(2)]
    assert_close(*answers, 0)
    without = adapted_model(Adapter(rank=3, alpha=6.0, products=("query", "mlp_up")))
    assert_close(answers[0], apply(without, params, batch)[0], 0)


def test_an_adapter_drops_the_share_of_inputs_that_it_says():
    adapter = Adapter(rank=1, alpha=1.0, dropout=0.25)
    module, ones = LowRank(adapter, (1,)), jnp.ones((1, 1, 40_000))
    params = {"a": jnp.full((40_000, 1), 1 / 40_000), "b": jnp.ones((1, 1))}
    added = module.apply({"params": params}, ones, True, rngs={"dropout": jax.random.key(0)})
    kept = float(added[0, 0, 0]) * 0.75  # dropout scales what is kept by 1 / 0.75
    assert kept == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize("fields", [{"remat": "full"}, {"remat": "dots"}, {"unroll": 2}])
def test_remat_and_unrolling_change_no_gradient(fields):
    model = adapted_model(Adapter(rank=3, alpha=6.0, products=EVERYWHERE.products))
    changed = model.clone(image=model.image.clone(**fields), text=model.text.clone(**fields))
    params, batch = trained_adapters(model), make_batch()

    def gradient(model):
        objective = make_objective(model)
        return jax.jit(jax.grad(lambda p: objective.loss(p, batch, jax.random.key(0))[0]))(params)

    assert_close(gradient(changed), gradient(model), 1e-5)


def test_bfloat16_computes_the_same_but_for_rounding():
    model = adapted_model()
    halves = {side: getattr(model, side).clone(dtype=jnp.bfloat16) for side in ("image", "text")}
    params, batch = trained_adapters(model), make_batch()
    assert_close(
        apply(model.clone(**halves), params, batch)[0], apply(model, params, batch)[0], 0.1
    )


def test_a_clip_merges_as_well():
    clip = CLIP(
        image_encoder("test/8", adapter=EVERYWHERE),
        text_encoder("test/8", vocabulary=50, end_token=49, adapter=EVERYWHERE),
    )
    params = {side: trained_adapters(adapted_model())[side] for side in ("image", "text")}
    params["logit_scale"] = jnp.zeros(())
    apply_clip = jax.jit(lambda params: clip.apply({"params": params}, make_batch())[:2])
    assert_close(apply_clip(merge_towers(clip, params)), apply_clip(params), 1e-5)
