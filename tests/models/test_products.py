"""Products in bfloat16: the sums of float32, by what a CPU has for them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax
from jax.sharding import PartitionSpec as P
from support.small import initial, make_batch, make_model, make_objective, small_config

from cmaclip_jax.models.cpu_products import Dense, product
from cmaclip_jax.planning.run import plan_run
from cmaclip_jax.planning.topology import open_topology
from cmaclip_jax.tasks import Task

PARTS = ("image", "text", "sequence")
DIMENSIONS = {1: (((2,), (0,)), ((), ())), 2: (((2, 3), (0, 1)), ((), ()))}


def operands(axes: int):
    """Activations [2,5,...], weights [...,3,4] and a gradient [2,5,3,4], in bfloat16."""
    random, contracted = np.random.default_rng(axes), (6, 7)[:axes]
    shapes = (2, 5, *contracted), (*contracted, 3, 4), (2, 5, 3, 4)
    return [jnp.asarray(random.normal(size=shape), jnp.bfloat16) for shape in shapes]


@pytest.mark.parametrize("axes", [1, 2])
def test_a_product_and_its_gradients_are_rounded_once(axes):
    x, weight, gradient = operands(axes)
    exact_x, exact_weight, exact_gradient = (np.asarray(a, np.float64) for a in operands(axes))
    found, transposed = jax.vjp(lambda x, w: product(x, w, DIMENSIONS[axes]), x, weight)
    of_x, of_weight = transposed(gradient)
    letters = "kl"[:axes]
    for array, wanted in (
        (found, np.einsum(f"bs{letters},{letters}nh->bsnh", exact_x, exact_weight)),
        (of_x, np.einsum(f"bsnh,{letters}nh->bs{letters}", exact_gradient, exact_weight)),
        (of_weight, np.einsum(f"bs{letters},bsnh->{letters}nh", exact_x, exact_gradient)),
    ):
        assert array.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(array, np.float64), wanted, rtol=2**-8, atol=1e-6)


def test_a_layer_is_flaxs():
    x = jax.random.normal(jax.random.key(0), (2, 5, 6))
    theirs, ours = (layer(4, dtype=jnp.bfloat16) for layer in (nn.Dense, Dense))
    params = theirs.init(jax.random.key(1), x)
    close = np.testing.assert_allclose
    close(*(np.asarray(m.apply(params, x), np.float32) for m in (ours, theirs)), rtol=1e-2)


def test_gradients_under_shard_map_are_those_of_one_device():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    random = np.random.default_rng(0)
    x, weight = (
        jnp.asarray(random.normal(size=size), jnp.bfloat16) for size in ((16, 5, 6), (6, 3))
    )

    def loss(x, weight):
        return jnp.sum(product(x, weight, DIMENSIONS[1]).astype(jnp.float32) ** 2)

    shared = jax.shard_map(
        lambda x, weight: jax.lax.psum(loss(x, weight), "data"),
        mesh=mesh,
        in_specs=(P("data"), P()),
        out_specs=P(),
    )
    found, wanted = (jax.jit(jax.grad(f, (0, 1)))(x, weight) for f in (shared, loss))
    for ours, alone in zip(found, wanted, strict=True):
        np.testing.assert_allclose(
            *(np.asarray(array, np.float32) for array in (ours, alone)), rtol=2**-6, atol=0.1
        )


def test_float32_is_left_alone():
    x, weight, _ = (array.astype(jnp.float32) for array in operands(1))
    ours, theirs = (
        jax.make_jaxpr(lambda x, w, way=way: way(x, w, DIMENSIONS[1]))(x, weight)
        for way in (product, lax.dot_general)
    )
    assert str(ours) == str(theirs)


def products_of_weights(run) -> set[str]:
    """'operand operand -> result' of every product in a train step but attention's."""
    lines = run.lower_train().as_text().splitlines()
    found = (line for line in lines if "dot_general" in line and "batching" not in line)
    return {re.sub(r"tensor<[\dx]*(\w+)>", r"\1", line.split(" : ")[-1]) for line in found}


def test_a_step_in_bfloat16_asks_a_cpu_alone_for_float32():
    config = small_config()
    config.model.dtype = "bfloat16"
    tasks, last = (Task("a", ("b", "c")),), "(f32, f32) -> f32"  # logits are float32 everywhere
    on_cpu = plan_run(config, tasks, jax.devices()[:1])
    assert products_of_weights(on_cpu) == {"(bf16, bf16) -> f32", last}
    pytest.importorskip("libtpu", reason="the TPUs' compiler; pip install 'jax[tpu]'")
    on_tpu = plan_run(config, tasks, open_topology("v5e:2x2").devices)
    assert products_of_weights(on_tpu) == {"(bf16, bf16) -> bf16", last}


@pytest.mark.parametrize("unroll", [1, 2])
def test_what_is_ready_to_answer_needs_no_conversion_and_answers_the_same(unroll):
    how = {"dtype": jnp.bfloat16, "unroll": unroll}
    model = make_model(layers=3, dtype=jnp.bfloat16)
    parts = {name: getattr(model, name).clone(**how) for name in PARTS}
    objective = make_objective(model.clone(**parts))
    params = drawn_anew(initial(objective.model))
    ready = objective.answering_parameters(params)
    for name in PARTS:
        for path, leaf in jax.tree_util.tree_leaves_with_path(ready[name]):
            norm = "norm" in jax.tree_util.keystr(path)
            assert leaf.dtype == (jnp.float32 if norm else jnp.bfloat16), path
    expected, found = (jax.jit(objective.predict)(given, make_batch()) for given in (params, ready))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def drawn_anew(params):
    """Parameters of which none is a number that bfloat16 has."""
    random = np.random.default_rng(0)
    return jax.tree.map(lambda x: x + 0.1 * random.normal(size=x.shape).astype(x.dtype), params)
