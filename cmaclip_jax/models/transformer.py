"""The pre-norm transformer that every part of CMA-CLIP is made of.

`Stack` makes the parameters of its layers stacked along a leading axis, whether
it runs them as a loop or unrolled, so a checkpoint does not depend on how it ran.
To answer, it also takes them as `layers_apart` leaves them.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from cmaclip_jax.models.layout import hold_rows
from cmaclip_jax.models.products import PRODUCT, Dense, DenseGeneral, product

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    # OpenAI's weights were trained with this cheap stand-in for GELU.
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    # jax.nn.gelu is the tanh approximation unless told otherwise.
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
}

REMAT_POLICIES = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(PRODUCT),
    ),
}


class QueriesKeysValues(nn.Module):
    """What a token asks, answers to and says, for every head, from one matrix."""

    heads: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, read=None):
        """`x` [B,S,D] -> queries [B,S,N,H] (of `read` [B,R] alone: [B,R,N,H]), keys, values."""
        width = x.shape[-1]
        shape = (3, self.heads, width // self.heads)
        kernel = self.param("kernel", nn.initializers.normal(width**-0.5), (width, *shape))
        bias = self.param("bias", nn.initializers.zeros_init(), shape)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)

        def project(x, kernel):
            return product(x, kernel, (((2,), (0,)), ((), ())))  # bsd,dcnh->bscnh

        if read is None:
            parts = jnp.split(project(x, kernel) + bias, 3, axis=2)  # each [B,S,1,N,H]
            return tuple(part.squeeze(2) for part in parts)
        asked = project(take_positions(x, read), kernel[:, :1]) + bias[:1]
        said = project(x, kernel[:, 1:]) + bias[1:]
        return asked[:, :, 0], said[:, :, 0], said[:, :, 1]


class Attention(nn.Module):
    """Multi-head self-attention; returns `(y, maps)`, maps only when asked."""

    heads: int
    causal: bool = False
    zero_output: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, mask=None, with_maps: bool = False, read=None):
        """`x` [B,S,D]; `mask` [B,S] is True at the keys that may be seen.

        read: the positions [B,R] that look at all others, where not all of them need to;
            not for causal attention, which goes by the queries' places.
        """
        assert not (self.causal and read is not None)
        width = x.shape[-1]
        query, key, value = QueriesKeysValues(self.heads, self.dtype, name="qkv")(x, read)
        allowed = None if mask is None else mask[:, None, None, :]  # [B,1,1,S]
        y = jax.nn.dot_product_attention(query, key, value, mask=allowed, is_causal=self.causal)
        maps = attention_maps(query, key, allowed, self.causal) if with_maps else None
        zero = nn.initializers.zeros_init()
        out_init = zero if self.zero_output else nn.initializers.normal(width**-0.5)
        out = DenseGeneral(width, axis=(-2, -1), kernel_init=out_init, dtype=self.dtype, name="out")
        return out(y), maps


def take_positions(x, positions):
    """`x` [B,S,...] at the `positions` [B,R] of each row: [B,R,...]."""
    return jax.vmap(lambda row, places: row[places])(x, positions)


def attention_maps(query, key, allowed, causal: bool):
    """The softmax weights [B,S,S], averaged over heads; float32.

    `jax.nn.dot_product_attention` never forms them, so they are computed again here,
    and only for those who want to look.
    """
    scale = query.shape[-1] ** -0.5
    scores = jnp.einsum("bqnh,bknh->bnqk", query, key).astype(jnp.float32) * scale
    if causal:
        length = query.shape[1]
        triangle = jnp.tril(jnp.ones((length, length), bool))
        allowed = triangle if allowed is None else allowed & triangle
    if allowed is None:
        allowed = jnp.ones((), bool)
    return masked_softmax(scores, allowed).mean(axis=1)


def masked_softmax(scores, mask):
    """Softmax over the last axis where `mask` is True; exactly 0 elsewhere.

    A row without any True is all zeros, not NaN, and passes no gradient.
    """
    weights = jax.nn.softmax(jnp.where(mask, scores, jnp.finfo(scores.dtype).min / 2), axis=-1)
    return jnp.where(mask, weights, 0.0)


class Block(nn.Module):
    """One pre-norm layer: x + attention(norm(x)), then x + mlp(norm(x)).

    With `read` [B,R], what is at those positions alone: [B,R,D].
    """

    heads: int
    mlp_width: int
    activation: str = "quick_gelu"
    causal: bool = False
    dropout: float = 0.0
    zero_output: bool = False
    epsilon: float = 1e-5
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, mask=None, train: bool = False, with_maps: bool = False, read=None):
        width = x.shape[-1]
        drop = nn.Dropout(self.dropout, deterministic=not train)

        x = hold_rows(x)
        y = nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="attention_norm")(x)
        y, maps = Attention(
            heads=self.heads,
            causal=self.causal,
            zero_output=self.zero_output,
            dtype=self.dtype,
            name="attention",
        )(y, mask, with_maps, read)
        x = hold_rows((x if read is None else take_positions(x, read)) + drop(y))

        y = nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="mlp_norm")(x)
        y = Dense(
            self.mlp_width,
            kernel_init=nn.initializers.normal((2 * width) ** -0.5),
            dtype=self.dtype,
            name="mlp_up",
        )(y)
        y = ACTIVATIONS[self.activation](y)
        zero = nn.initializers.zeros_init()
        down_init = zero if self.zero_output else nn.initializers.normal(self.mlp_width**-0.5)
        y = Dense(width, kernel_init=down_init, dtype=self.dtype, name="mlp_down")(y)
        return hold_rows(x + drop(y)), maps


class Stack(nn.Module):
    """`layers` blocks under `nn.scan`; returns `(x, maps [L,B,S,S] | None)`.

    unroll: how many layers a turn of the loop runs; `layers` or more leaves no loop.
    remat: what the backward pass may keep: 'none' recomputes nothing, 'dots' keeps
        the matrix products, 'full' keeps the layers' inputs alone.
    """

    layers: int
    heads: int
    mlp_width: int
    activation: str = "quick_gelu"
    causal: bool = False
    dropout: float = 0.0
    zero_output: bool = False
    epsilon: float = 1e-5
    unroll: int = 1
    remat: str = "none"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, mask=None, train: bool = False, with_maps: bool = False):
        if self.layers == 0:
            return x, None
        shared = {
            "heads": self.heads,
            "mlp_width": self.mlp_width,
            "activation": self.activation,
            "causal": self.causal,
            "dropout": self.dropout,
            "zero_output": self.zero_output,
            "epsilon": self.epsilon,
            "dtype": self.dtype,
        }
        if FIRST in self.variables.get("params", {}).get("blocks", {}):
            assert not train
            return self._one_by_one(Block(**shared, parent=None), x, mask, with_maps)
        block = Block
        if self.remat != "none":
            block = nn.remat(
                Block,
                policy=REMAT_POLICIES[self.remat],
                prevent_cse=False,
                static_argnums=(3, 4),  # train, with_maps; 0 is the module itself
            )
        scanned = nn.scan(
            block,
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(nn.broadcast, nn.broadcast, nn.broadcast),
            length=self.layers,
            unroll=min(self.unroll, self.layers),
        )
        return scanned(**shared, name="blocks")(x, mask, train, with_maps)

    def _one_by_one(self, block: Block, x, mask, with_maps: bool):
        """The same from parameters that lie apart."""
        layers, maps = self.variables["params"]["blocks"], []
        for index in range(self.layers):
            x, found = block.apply({"params": layers[str(index)]}, x, mask, False, with_maps)
            maps.append(found)
        return x, jnp.stack(maps) if with_maps else None


FIRST = "0"  # what the first of a stack's layers is called where they lie apart


def layers_apart(params, unroll: int):
    """Parameters whose stacks no loop runs, being no higher than `unroll`, are a tree a layer.

    `blocks/mlp_up/kernel` [L,D,M] becomes `blocks/0/mlp_up/kernel` [D,M] and so on. A product
    takes them as they are; a layer of a stack it takes after copying it, on a CPU in every step.
    """
    if not hasattr(params, "items"):
        return params
    if "blocks" not in params:
        return {name: layers_apart(below, unroll) for name, below in params.items()}
    height = jax.tree.leaves(params["blocks"])[0].shape[0]
    if not 1 < height <= unroll or FIRST in params["blocks"]:
        return params
    layers = {str(i): jax.tree.map(lambda x, i=i: x[i], params["blocks"]) for i in range(height)}
    return {**params, "blocks": layers}


def in_type(params, dtype):
    """Parameters in the type they are computed in, so that no answer waits for a conversion.

    What a norm uses, in float32, stays; all else would be converted where it is used.
    """

    def converted(path, leaf):
        return leaf if "norm" in jax.tree_util.keystr(path) else leaf.astype(dtype)

    return jax.tree_util.tree_map_with_path(converted, params)
