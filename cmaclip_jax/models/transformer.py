"""The pre-norm transformer that the encoders and sequence-wise attention consist of.

`Stack` keeps the parameters of its layers stacked along a leading axis, whether it runs the layers
in a loop or unrolled, so that a checkpoint does not depend on how the layers ran.
"""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from cmaclip_jax.models.adapters import Adapter, adapted
from cmaclip_jax.models.cpu_layers import BLOCKS, apply_layers, unstacked_layers
from cmaclip_jax.models.cpu_products import PRODUCT, Dense, DenseGeneral, product
from cmaclip_jax.models.layout import hold_rows

# The collection of factors on attention weights. Where it holds some, attention is computed with
# them: their gradient at 1 is weight times gradient (relevance.py).
FACTORS = "factors"

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    # OpenAI's weights were trained with this cheap approximation of GELU.
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    # jax.nn.gelu is the tanh approximation by default.
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    # SigLIP was trained with the approximation. The name is Hugging Face's.
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
}

REMAT_POLICIES = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(PRODUCT),
    ),
}


@dataclasses.dataclass(frozen=True)
class LayerSpec:
    """One transformer layer.

    causal: whether a token sees only itself and the tokens before it.
    zero_output: residual branches start at zero, so that a new layer changes nothing.
    epsilon: of the LayerNorms. dtype: the type that the layer computes in.
    adapter: the low-rank additions to its products.
    """

    heads: int
    mlp_width: int
    activation: str = "quick_gelu"
    causal: bool = False
    dropout: float = 0.0
    zero_output: bool = False
    epsilon: float = 1e-5
    dtype: jnp.dtype = jnp.float32
    adapter: Adapter | None = None


class QueriesKeysValues(nn.Module):
    """Queries, keys and values of every head, from one matrix."""

    heads: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, positions=None):
        """`x` [B,S,D] -> queries, keys and values, each [B,S,N,H].

        positions: the positions [B,R] to compute queries for: [B,R,N,H]; None: all.
        """
        width = x.shape[-1]
        shape = (3, self.heads, width // self.heads)
        kernel = self.param("kernel", nn.initializers.normal(width**-0.5), (width, *shape))
        bias = self.param("bias", nn.initializers.zeros_init(), shape)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)

        def project(x, kernel):
            return product(x, kernel, (((2,), (0,)), ((), ())))  # bsd,dcnh->bscnh

        if positions is None:
            parts = jnp.split(project(x, kernel) + bias, 3, axis=2)  # each [B,S,1,N,H]
            return tuple(part.squeeze(2) for part in parts)
        queries = project(take_positions(x, positions), kernel[:, :1]) + bias[:1]
        keys_values = project(x, kernel[:, 1:]) + bias[1:]
        return queries[:, :, 0], keys_values[:, :, 0], keys_values[:, :, 1]


class Attention(nn.Module):
    """Multi-head self-attention; returns `(y, maps)`, with maps None unless `with_maps`."""

    heads: int
    causal: bool = False
    zero_output: bool = False
    dtype: jnp.dtype = jnp.float32
    adapter: Adapter | None = None

    @nn.compact
    def __call__(self, x, mask=None, with_maps: bool = False, positions=None, train: bool = False):
        """`x` [B,S,D]; `mask` [B,S] is True at the keys that may be seen.

        positions: the positions [B,R] to compute; None: all. Causal attention takes no
            positions, because its mask depends on the index of each query.
        """
        assert not (self.causal and positions is not None)
        width = x.shape[-1]
        query, key, value = QueriesKeysValues(self.heads, self.dtype, name="qkv")(x, positions)
        if self.adapter is not None:
            assert positions is None
            query = adapted(query, self, "query", x, self.adapter, train)
            key = adapted(key, self, "key", x, self.adapter, train)
            value = adapted(value, self, "value", x, self.adapter, train)
        allowed = None if mask is None else mask[:, None, None, :]  # [B,1,1,S]
        factors = self.get_variable(FACTORS, "weights")
        if factors is None:
            y = jax.nn.dot_product_attention(query, key, value, mask=allowed, is_causal=self.causal)
        else:
            weights = factors * attention_weights(query, key, allowed, self.causal)  # [B,N,R,S]
            y = jnp.einsum("bnrs,bsnh->brnh", weights.astype(value.dtype), value)
        maps = None
        if with_maps:
            maps = attention_weights(query, key, allowed, self.causal).mean(axis=1)
        zero = nn.initializers.zeros_init()
        out_init = zero if self.zero_output else nn.initializers.normal(width**-0.5)
        out = DenseGeneral(width, axis=(-2, -1), kernel_init=out_init, dtype=self.dtype, name="out")
        return adapted(out(y), self, "out", y, self.adapter, train, axes=2), maps


def take_positions(x, positions):
    """`x` [B,S,...] at the `positions` [B,R] of each row: [B,R,...]."""
    return jax.vmap(lambda row, indices: row[indices])(x, positions)


def attention_weights(query, key, allowed, causal: bool):
    """The softmax weights [B,N,R,S] of every head, from R queries to S keys; float32.

    `jax.nn.dot_product_attention` does not return them, so they are computed again here.
    """
    scale = query.shape[-1] ** -0.5
    scores = jnp.einsum("bqnh,bknh->bnqk", query, key).astype(jnp.float32) * scale
    if causal:
        length = query.shape[1]
        triangle = jnp.tril(jnp.ones((length, length), bool))
        allowed = triangle if allowed is None else allowed & triangle
    if allowed is None:
        allowed = jnp.ones((), bool)
    return masked_softmax(scores, allowed)


def masked_softmax(scores, mask):
    """Softmax over the last axis where `mask` is True; exactly 0 elsewhere.

    A row without any True is all zeros, not NaN, and passes no gradient.
    """
    weights = jax.nn.softmax(jnp.where(mask, scores, jnp.finfo(scores.dtype).min / 2), axis=-1)
    return jnp.where(mask, weights, 0.0)


class Block(nn.Module):
    """One pre-norm layer: x + attention(norm(x)), then x + mlp(norm(x)).

    With `positions` [B,R], only the result at those positions: [B,R,D].
    """

    spec: LayerSpec

    @nn.compact
    def __call__(self, x, mask=None, train: bool = False, with_maps: bool = False, positions=None):
        spec = self.spec
        drop = nn.Dropout(spec.dropout, deterministic=not train)

        x = hold_rows(x)
        y = nn.LayerNorm(epsilon=spec.epsilon, dtype=spec.dtype, name="attention_norm")(x)
        y, maps = Attention(
            heads=spec.heads,
            causal=spec.causal,
            zero_output=spec.zero_output,
            dtype=spec.dtype,
            adapter=spec.adapter,
            name="attention",
        )(y, mask, with_maps, positions, train)
        x = hold_rows((x if positions is None else take_positions(x, positions)) + drop(y))

        y = nn.LayerNorm(epsilon=spec.epsilon, dtype=spec.dtype, name="mlp_norm")(x)
        return hold_rows(x + drop(mlp(self, spec, y, train))), maps


def mlp(module: nn.Module, spec: LayerSpec, x, train: bool = False):
    """The MLP of a layer: `mlp_up` and `mlp_down` of the `module` that calls this function."""
    width, zero = x.shape[-1], nn.initializers.zeros_init()
    up_init = nn.initializers.normal((2 * width) ** -0.5)
    down_init = zero if spec.zero_output else nn.initializers.normal(spec.mlp_width**-0.5)
    up = Dense(spec.mlp_width, kernel_init=up_init, dtype=spec.dtype, name="mlp_up")
    x = ACTIVATIONS[spec.activation](adapted(up(x), module, "mlp_up", x, spec.adapter, train))
    down = Dense(width, kernel_init=down_init, dtype=spec.dtype, name="mlp_down")
    return adapted(down(x), module, "mlp_down", x, spec.adapter, train)


class AttentionPool(nn.Module):
    """SigLIP's summary of a picture: a learned probe attends to the patches, then comes an MLP.

    The probe is token 0 of an `Attention` that computes this token alone and does not see it.
    Adapters are for the layers; the pool has none.
    """

    spec: LayerSpec

    @nn.compact
    def __call__(self, x):
        """`x` [B,S,D] -> [B,1,D]."""
        spec, (rows, length, width) = dataclasses.replace(self.spec, adapter=None), x.shape
        probe = self.param("probe", nn.initializers.normal(width**-0.5), (width,))
        probes = jnp.broadcast_to(probe, (rows, 1, width)).astype(x.dtype)
        seen = jnp.broadcast_to(jnp.arange(length + 1) > 0, (rows, length + 1))
        attention = Attention(spec.heads, dtype=spec.dtype, name="attention")
        first = jnp.zeros((rows, 1), jnp.int32)
        x, _ = attention(jnp.concatenate([probes, x], axis=1), seen, positions=first)  # [B,1,D]
        y = nn.LayerNorm(epsilon=spec.epsilon, dtype=spec.dtype, name="norm")(x)
        return hold_rows(x + mlp(self, spec, y))


class Stack(nn.Module):
    """`layers` equal blocks under `nn.scan`; returns `(x, maps [L,B,S,S] | None)`.

    unroll: how many layers each iteration of the loop runs; `layers` or more leaves no loop.
    remat: what the forward pass keeps for the backward pass: 'none' keeps everything, 'dots' the
        matrix products, 'full' only the input of each layer. The rest is computed again.
    """

    layers: int
    spec: LayerSpec
    unroll: int = 1
    remat: str = "none"

    @nn.compact
    def __call__(self, x, mask=None, train: bool = False, with_maps: bool = False):
        if self.layers == 0:
            return x, None
        unstacked = unstacked_layers(self.variables.get("params", {}))
        if unstacked:
            assert not train
            return apply_layers(Block(self.spec, parent=None), unstacked, x, mask, with_maps)
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
            variable_axes={"params": 0, "intermediates": 0, FACTORS: 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(nn.broadcast, nn.broadcast, nn.broadcast),
            length=self.layers,
            unroll=min(self.unroll, self.layers),
        )
        return scanned(self.spec, name=BLOCKS)(x, mask, train, with_maps)


class Transformer(nn.Module):
    """The fields that all towers and sequence-wise attention share.

    heads, mlp_width, activation, dropout, epsilon, dtype and adapter describe a layer
    (`LayerSpec`); unroll and remat say how the layers run (`Stack`).
    """

    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: str = "quick_gelu"
    epsilon: float = 1e-5
    dropout: float = 0.0
    unroll: int = 1
    remat: str = "none"
    dtype: jnp.dtype = jnp.float32
    adapter: Adapter | None = None

    def layer_spec(self, **changes) -> LayerSpec:
        """The description of a layer; `changes` replace this module's fields or add others."""
        names = ("heads", "mlp_width", "activation", "dropout", "epsilon", "dtype", "adapter")
        return LayerSpec(**{name: getattr(self, name) for name in names} | changes)

    def make_stack(self, layers: int, spec: LayerSpec) -> Stack:
        """The submodule `stack`: that many layers, run as `unroll` and `remat` say."""
        return Stack(layers, spec, self.unroll, self.remat, name="stack")
