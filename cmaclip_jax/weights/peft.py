"""Adapters in the format of PEFT: `adapter_config.json` and `adapter_model.safetensors`.

PEFT's names are those of the products in Hugging Face's CLIP and SigLIP. So the adapters of a run
go back to the checkpoint that the run started from, and adapters that PEFT trained start a run.
What CMA-CLIP adds to the encoders lies beside them, in a file of its own.
"""

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError
from safetensors.numpy import load_file

from cmaclip_jax.errors import UserError
from cmaclip_jax.files import write_text
from cmaclip_jax.models.adapters import PRODUCTS, Adapter, adapter_path
from cmaclip_jax.weights.clip_folder import Weights
from cmaclip_jax.weights.layout import Tensors, save_tensors

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
OTHERS = "cma_clip.safetensors"  # fusion and heads
TOWERS = {"image": "vision_model", "text": "text_model"}
THEIR_NAMES = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "out": "self_attn.out_proj",
    "mlp_up": "mlp.fc1",
    "mlp_down": "mlp.fc2",
}
NAME = re.compile(
    r"(?:base_model\.model\.)?(?:(vision_model|text_model)\.)?encoder\.layers\.(\d+)\."
    rf"({'|'.join(map(re.escape, THEIR_NAMES.values()))})\.lora_([AB])(?:\.default)?\.weight"
)
# {field: its value} of configs that describe adapters as ours are; other values are refused.
PLAIN: dict[str, tuple] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "use_dora": (False,),
    "use_rslora": (False,),
    "fan_in_fan_out": (False,),
    "rank_pattern": ({},),
    "alpha_pattern": ({},),
    "layer_replication": (None,),
    "init_lora_weights": (True, False, "gaussian"),  # others change the base
}


@dataclasses.dataclass(frozen=True)
class PeftAdapter:
    """A folder of PEFT as it was read.

    base: the name of the checkpoint that it was trained on. tensors: {(side, product, 'A' or 'B'):
    [L,...] of all layers}. others: {path: array} of fusion and heads.
    """

    folder: Path
    base: str
    rank: int
    alpha: float
    dropout: float
    tensors: dict[tuple[str, str, str], np.ndarray]
    others: Tensors

    def adapter(self, side: str) -> Adapter | None:
        """The adapter of a tower; None where the folder has none for it."""
        products = tuple(name for name in PRODUCTS if (side, name, "A") in self.tensors)
        return Adapter(self.rank, self.alpha, self.dropout, products) if products else None


def read_peft(folder: Path) -> PeftAdapter:
    """The adapters in a folder that PEFT or this project wrote."""
    try:
        config = json.loads((folder / CONFIG).read_text())
        tensors = load_file(folder / TENSORS)
        others = load_file(folder / OTHERS) if (folder / OTHERS).exists() else {}
        if not isinstance(config, dict):
            raise ValueError(f"{CONFIG} holds no fields")
    except FileNotFoundError as error:
        raise UserError(f"{folder} has no {CONFIG} with {TENSORS}: no folder of PEFT") from error
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"the adapter in {folder} cannot be read ({error})") from error
    for field, plain in PLAIN.items():
        if config.get(field, plain[0]) not in (*plain, None):
            raise UserError(
                f"{folder / CONFIG}: {field}={config[field]!r} is not supported; train the "
                f"adapter with {field}={plain[0]!r}"
            )
    rank = config.get("r", 0)
    if not (isinstance(rank, int) and rank > 0):
        raise UserError(f"{folder / CONFIG}: r={rank!r}; an adapter needs a rank of 1 or more")
    alpha = config.get("lora_alpha", rank)
    if not isinstance(alpha, int | float):
        raise UserError(f"{folder / CONFIG}: lora_alpha={alpha!r} is no number")
    of_class = (config.get("auto_mapping") or {}).get("base_model_class", "")
    unnamed = "text" if "Text" in of_class else "image"
    return PeftAdapter(
        folder=folder,
        base=config.get("base_model_name_or_path") or "an unnamed checkpoint",
        rank=rank,
        alpha=alpha,
        dropout=config.get("lora_dropout", 0.0),
        tensors=_stacked(folder, tensors, unnamed),
        others=others,
    )


def _stacked(
    folder: Path, tensors: Tensors, unnamed: str
) -> dict[tuple[str, str, str], np.ndarray]:
    """{(side, product, 'A' or 'B'): the tensors of all layers, stacked}.

    unnamed: the side of tensors whose names have no tower, as those of a tower by itself.
    """
    sides = {theirs: ours for ours, theirs in TOWERS.items()}
    products = {theirs: ours for ours, theirs in THEIR_NAMES.items()}
    layers: dict[tuple[str, str, str], dict[int, np.ndarray]] = {}
    for name, tensor in tensors.items():
        found = NAME.fullmatch(name)
        if not found:
            raise UserError(f"{folder / TENSORS}: {name} adapts no product of an encoder's layers")
        tower, layer, product, half = found.groups()
        key = sides[tower] if tower else unnamed, products[product], half
        layers.setdefault(key, {})[int(layer)] = tensor
    for (side, product, _), by_layer in layers.items():
        if len({x.shape for x in by_layer.values()}) > 1:
            raise UserError(f"{folder / TENSORS}: {product} has other shapes in other layers")
        if sorted(by_layer) != list(range(len(by_layer))):
            raise UserError(
                f"{folder / TENSORS} adapts {product} in layers {sorted(by_layer)} of the {side} "
                "encoder; only adapters of every layer are supported"
            )
    halves = {half: {key[:2] for key in layers if key[2] == half} for half in "AB"}
    if halves["A"] != halves["B"] or not halves["A"]:
        raise UserError(f"{folder / TENSORS} does not have lora_A and lora_B of every product")
    return {key: np.stack([by[i] for i in range(len(by))]) for key, by in layers.items()}


def with_adapters(weights: Weights, peft: PeftAdapter) -> Weights:
    """The CLIP with the adapters of a folder, and with fusion and heads where it has them."""
    params, model = flatten_dict(weights.params, sep="/"), weights.model
    towers = {side: getattr(model, side) for side in TOWERS}
    for (side, product, half), stacked in peft.tensors.items():
        tower = towers[side]
        inner, outer = _axes(tower, product)
        axes = inner if half == "A" else outer
        expected = (
            tower.layers,
            *((peft.rank, _size(axes)) if half == "A" else (_size(axes), peft.rank)),
        )
        if stacked.shape != expected:
            raise UserError(
                f"the adapter in {peft.folder} is for {peft.base} and not for this base: {product} "
                f"of the {side} encoder has lora_{half} {stacked.shape} and here {expected} "
                "(layers, then widths); name its own base as model.pretrained"
            )
        ours = stacked.swapaxes(1, 2).astype(np.float32)
        shape = (*axes, peft.rank) if half == "A" else (peft.rank, *axes)
        params[f"{adapter_path(side, product)}/{half.lower()}"] = ours.reshape(tower.layers, *shape)
    towers = {side: tower.clone(adapter=peft.adapter(side)) for side, tower in towers.items()}
    return dataclasses.replace(
        weights,
        model=model.clone(**towers),
        params=unflatten_dict(params | peft.others, sep="/"),
    )


def write_peft(folder: Path, towers: dict[str, Any], params: dict[str, Any], base: str) -> None:
    """Writes the adapters of `towers` in PEFT's format, with fusion and heads beside them.

    towers: {side: encoder}, all with an adapter. base: the checkpoint that the run started from.
    """
    flat = flatten_dict(params, sep="/")
    adapter = next(iter(towers.values())).adapter  # rank, alpha and dropout are the same in both
    pairs = {name: pair for side in towers for name, pair in _their_pairs(flat, side, towers[side])}
    tensors = {
        f"base_model.model.{name}.lora_{half}.weight": matrix
        for name, pair in pairs.items()
        for half, matrix in zip("AB", pair, strict=True)
    }
    save_tensors(folder / TENSORS, tensors)
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": adapter.dropout,
        "target_modules": list(pairs),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "task_type": None,
    }
    write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")
    others = {
        path: np.asarray(x) for path, x in flat.items() if not path.startswith(("image/", "text/"))
    }
    if others:
        save_tensors(folder / OTHERS, others)


def _their_pairs(
    flat: dict[str, Any], side: str, tower
) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray]]]:
    """The full name of every module that a tower's adapter adapts, and its lora_A and lora_B."""
    for product in tower.adapter.products:
        path, rank = adapter_path(side, product), tower.adapter.rank
        a = np.asarray(flat[f"{path}/a"]).reshape(tower.layers, -1, rank)
        b = np.asarray(flat[f"{path}/b"]).reshape(tower.layers, rank, -1)
        for layer in range(tower.layers):
            name = f"{TOWERS[side]}.encoder.layers.{layer}.{THEIR_NAMES[product]}"
            yield name, (a[layer].T, b[layer].T)


def _axes(tower, product: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The axes that a product of a layer contracts, and those of its result."""
    whole, heads = (tower.width,), (tower.heads, tower.width // tower.heads)
    return {
        "out": (heads, whole),
        "mlp_up": (whole, (tower.mlp_width,)),
        "mlp_down": ((tower.mlp_width,), whole),
    }.get(product, (whole, heads))


def _size(axes: tuple[int, ...]) -> int:
    return int(np.prod(axes))
