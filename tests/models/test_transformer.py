"""The stack: however it runs, it computes the same thing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmaclip_jax.models.cpu_layers import unstack_layers
from cmaclip_jax.models.transformer import Attention, LayerSpec, Stack, masked_softmax

X = jax.random.normal(jax.random.key(1), (2, 5, 16))
MASK = jnp.array([[True] * 5, [True, True, False, True, False]])


def stack(unroll: int = 1, remat: str = "none", **fields):
    return Stack(3, LayerSpec(heads=2, mlp_width=32, **fields), unroll, remat)


def value_and_gradient(module, params):
    def loss(params):
        return jnp.sum(module.apply(params, X, MASK)[0] ** 2)

    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.parametrize(
    "fields", [{"unroll": 3}, {"unroll": 2}, {"remat": "full"}, {"remat": "dots"}]
)
def test_unrolling_and_remat_change_nothing(fields):
    params = stack().init(jax.random.key(0), X)
    expected, actual = (
        value_and_gradient(stack(), params),
        value_and_gradient(stack(**fields), params),
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), expected, actual
    )


@pytest.mark.parametrize("with_maps", [False, True])
def test_layers_that_lie_apart_answer_the_same(with_maps):
    params = stack(causal=True).init(jax.random.key(0), X)
    apart = unstack_layers(params, unroll=3)
    kernel = params["params"]["blocks"]["mlp_up"]["kernel"]
    np.testing.assert_array_equal(apart["params"]["blocks"]["2"]["mlp_up"]["kernel"], kernel[2])
    expected, actual = (
        stack(causal=True, unroll=3).apply(given, X, MASK, with_maps=with_maps)
        for given in (params, apart)
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), actual, expected)
    # What a loop runs stays stacked, and what lies apart stays apart.
    assert jax.tree.structure(unstack_layers(params, unroll=2)) == jax.tree.structure(params)
    assert jax.tree.structure(unstack_layers(apart, unroll=3)) == jax.tree.structure(apart)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_remat_computes_activations_again(dtype):
    params = stack().init(jax.random.key(0), X)

    def saved(module):
        residuals = jax.vjp(lambda p: module.apply(p, X, MASK)[0], params)[1]
        return sum(x.size for x in jax.tree.leaves(residuals))

    full, dots, none = (
        saved(stack(remat=remat, dtype=dtype)) for remat in ("full", "dots", "none")
    )
    assert full < dots < none


def test_a_stack_that_starts_at_zero_is_the_identity():
    module = stack(zero_output=True)
    params = module.init(jax.random.key(0), X)
    np.testing.assert_array_equal(module.apply(params, X)[0], X)
    assert not np.allclose(stack().apply(stack().init(jax.random.key(0), X), X)[0], X)


@pytest.mark.parametrize("causal", [False, True])
def test_maps_are_what_the_attention_used(causal):
    module = Attention(heads=2, causal=causal)
    params = module.init(jax.random.key(0), X)
    y, maps = module.apply(params, X, MASK, with_maps=True)
    np.testing.assert_allclose(maps.sum(-1), 1.0, rtol=1e-5)
    assert np.all(np.asarray(maps)[1][:, ~np.asarray(MASK)[1]] == 0)
    if causal:
        assert np.all(np.triu(maps[0], 1) == 0)
    # With one head, the maps times the values are the output.
    single = Attention(heads=1, causal=causal)
    params = single.init(jax.random.key(0), X)
    y, maps = single.apply(params, X, MASK, with_maps=True)
    kernels = params["params"]
    value = jnp.einsum("bsd,dh->bsh", X, kernels["qkv"]["kernel"][:, 2, 0])
    expected = jnp.einsum("bqk,bkh,hd->bqd", maps, value, kernels["out"]["kernel"][0])
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_masked_softmax_of_nothing_is_zero_and_passes_no_gradient():
    scores, mask = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([[True, False], [False, False]])
    np.testing.assert_array_equal(masked_softmax(scores, mask), [[1, 0], [0, 0]])
    gradient = jax.grad(lambda s: masked_softmax(s, mask).sum())(scores)
    np.testing.assert_array_equal(gradient, np.zeros((2, 2)))
