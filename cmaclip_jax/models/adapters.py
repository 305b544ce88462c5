"""Low-rank adapters (LoRA, Hu et al., 2021) for the encoders.

An adapter adds `scale * (x A) B` to a product `x W` of a layer. A has few columns (the rank), and B
starts as zero, so that a new adapter changes nothing. Only A and B learn. After training, an
adapter is merged: `W + scale * A B` replaces W, and answering costs no more than before.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from cmaclip_jax.models.cpu_products import product

LORA = "lora_"  # the names of an adapter's parameters begin so: lora_query/a, lora_query/b
# {product of a layer: (the module that holds it, its weight, its place in a fused weight)}
PRODUCTS: dict[str, tuple[str, str, int | None]] = {
    "query": ("attention", "qkv", 0),
    "key": ("attention", "qkv", 1),
    "value": ("attention", "qkv", 2),
    "out": ("attention", "out", None),
    "mlp_up": ("", "mlp_up", None),
    "mlp_down": ("", "mlp_down", None),
}


@dataclasses.dataclass(frozen=True)
class Adapter:
    """The adapters of a tower.

    products: names in PRODUCTS; every layer has an adapter for each of them.
    alpha: the addition is multiplied by alpha / rank.
    dropout: the share of the inputs of an adapter that is set to 0 in training.
    """

    rank: int
    alpha: float
    dropout: float = 0.0
    products: tuple[str, ...] = ("query", "key", "value")

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


class LowRank(nn.Module):
    """`scale * (x A) B`, the addition of an adapter.

    features: the axes of the result. axes: the number of trailing axes of `x` that A contracts.
    """

    adapter: Adapter
    features: tuple[int, ...]
    axes: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool = False):
        """`x` [B,S,...] -> [B,S,*features]."""
        rank = self.adapter.rank
        # Uniform up to 1 / sqrt(inputs), as in the authors' code and in PEFT.
        uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        a = self.param("a", uniform, (*x.shape[-self.axes :], rank))
        b = self.param("b", nn.initializers.zeros_init(), (rank, *self.features))
        x = nn.Dropout(self.adapter.dropout, deterministic=not train)(x)
        x, a, b = nn.dtypes.promote_dtype(x, a, b, dtype=self.dtype)
        inner = tuple(range(x.ndim - self.axes, x.ndim)), tuple(range(self.axes))
        x = product(x, a, (inner, ((), ())))  # [B,S,r]
        return self.adapter.scale * product(x, b, (((x.ndim - 1,), (0,)), ((), ())))


def adapted(
    y, module: nn.Module, name: str, x, adapter: Adapter | None, train: bool, axes: int = 1
):
    """The product `y` of `x` in a layer, plus the addition of the adapter for it.

    Returns `y` alone where the layer has no such adapter, or where its weights are merged.

    module: the module that holds the adapter. name: of the product, in PRODUCTS.
    """
    if adapter is None or name not in adapter.products:
        return y
    held = f"{LORA}{name}" in module.variables.get("params", {})
    if not (held or module.is_initializing()):
        return y
    features = y.shape[x.ndim - axes :]
    addition = LowRank(adapter, features, axes, y.dtype, name=f"{LORA}{name}")
    return y + addition(x, train)


def merge_towers(model: Any, params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a model with the adapters of its two towers merged into the weights."""
    merged = dict(params)
    for name in ("image", "text"):
        tower = getattr(model, name, None)
        if name in params and tower is not None and tower.adapter is not None:
            merged[name] = merge(params[name], tower.adapter)
    return merged


def merge(tower: Mapping[str, Any], adapter: Adapter) -> dict[str, Any]:
    """A tower's parameters, with every adapter added to its weight and removed."""
    blocks = {**tower["stack"]["blocks"]}
    blocks["attention"] = {**blocks["attention"]}
    for name in adapter.products:
        holder, weight, place = PRODUCTS[name]
        module = blocks[holder] if holder else blocks
        added = module.pop(f"{LORA}{name}", None)
        if added is not None:
            addition = adapter.scale * _product_of_layers(added["a"], added["b"])
            kernel = module[weight]["kernel"]
            if place is None:
                kernel = kernel + addition
            else:
                kernel = jnp.asarray(kernel).at[:, :, place].add(addition)  # [L,D,3,N,H]
            module[weight] = {**module[weight], "kernel": kernel}
    return {**tower, "stack": {**tower["stack"], "blocks": blocks}}


def _product_of_layers(a, b):
    """A B of every layer: `a` [L,...,r], `b` [L,r,...] -> [L,...,...]."""
    layers, rank = a.shape[0], a.shape[-1]
    flat = jnp.einsum(
        "lir,lro->lio",
        a.reshape(layers, -1, rank),
        b.reshape(layers, rank, -1),
        precision="highest",
    )
    return flat.reshape(*a.shape[:-1], *b.shape[2:])


def product_path(side: str, name: str) -> str:
    """The path of a product as rules match it: image/stack/blocks/attention/query."""
    return "/".join(filter(None, [side, "stack/blocks", PRODUCTS[name][0], name]))


def adapter_path(side: str, name: str) -> str:
    """The path of the adapter of a product: image/stack/blocks/attention/lora_query."""
    holder, _, _ = product_path(side, name).rpartition("/")
    return f"{holder}/{LORA}{name}"


def has_adapters(params: Mapping[str, Any]) -> bool:
    """Whether some of the parameters belong to adapters."""
    return any(map(is_of_adapter, flatten_dict(params, sep="/")))


def is_of_base(path: str) -> bool:
    """Whether the parameter at a path belongs to an encoder itself, and to no adapter."""
    return path.startswith(("image/", "text/")) and not is_of_adapter(path)


def is_of_adapter(path: str) -> bool:
    """Whether the parameter at a path belongs to an adapter."""
    return f"/{LORA}" in path
