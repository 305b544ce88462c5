"""A workaround for CPUs: parameters laid out for answering, without copies and conversions.

A transformer keeps the parameters of its layers stacked: [L,D,M]. Where no loop runs over the
layers, XLA for CPUs copies each layer out of the stack before it multiplies, in every step: 0.2 s
for CLIP B/32. `unstack_layers` makes one tree per layer, once, before many answers. Inference with
8 pairs went from 1.04 to 0.87 of PyTorch's time. XLA also converts float32 parameters to bfloat16
in every step. `convert_parameters` does this once: a single pair went from 111 to 82 ms.

Training gains nothing from unstacked layers: the optimizer then updates five times as many small
arrays, which takes the time that the copies took. So a training state and a checkpoint always hold
stacked layers. (tests/benchmarks/RESULTS.md has the measurements.)
"""

import jax
import jax.numpy as jnp

BLOCKS = "blocks"  # the stacked layers of a transformer
FIRST = "0"  # the first layer of an unstacked transformer


def unstack_layers(params, unroll: int):
    """Unstacks every stack of up to `unroll` layers; a loop runs over the layers of higher ones.

    `blocks/mlp_up/kernel` [L,D,M] becomes `blocks/0/mlp_up/kernel` [D,M] and so on.
    """
    if not hasattr(params, "items"):
        return params
    if BLOCKS not in params:
        return {name: unstack_layers(below, unroll) for name, below in params.items()}
    height = jax.tree.leaves(params[BLOCKS])[0].shape[0]
    if height > unroll or FIRST in params[BLOCKS]:
        return params
    layers = {str(i): jax.tree.map(lambda x, i=i: x[i], params[BLOCKS]) for i in range(height)}
    return {**params, BLOCKS: layers}


def stack_layers(params):
    """The inverse of `unstack_layers`."""
    if not hasattr(params, "items"):
        return params
    layers = unstacked_layers(params)
    if layers is None:
        return {name: stack_layers(below) for name, below in params.items()}
    return {**params, BLOCKS: jax.tree.map(lambda *x: jnp.stack(x), *layers)}


def unstacked_layers(params) -> list | None:
    """The parameters of each layer of an unstacked transformer; None where they are stacked."""
    blocks = params.get(BLOCKS, {})
    return [blocks[str(index)] for index in range(len(blocks))] if FIRST in blocks else None


def apply_layers(block, layers: list, x, mask, with_maps: bool):
    """Runs one block after the other; returns `(x, maps [L,B,S,S] | None)`."""
    maps = []
    for params in layers:
        x, layer_maps = block.apply({"params": params}, x, mask, False, with_maps)
        maps.append(layer_maps)
    return x, jnp.stack(maps) if with_maps else None


def convert_parameters(params, dtype):
    """Parameters in the type that a model computes in.

    LayerNorms compute in float32, so that their parameters stay as they are.
    """

    def converted(path, leaf):
        return leaf if "norm" in jax.tree_util.keystr(path) else leaf.astype(dtype)

    return jax.tree_util.tree_map_with_path(converted, params)
