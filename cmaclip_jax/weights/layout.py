"""The layout of a CLIP in other projects' files: (our parameter, their tensors, conversion).

A pairing works in both directions: a checkpoint that is read and written again has the same bits.
An error names the tensors that are missing, extra or of another shape.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import save_file

from cmaclip_jax.errors import UserError
from cmaclip_jax.models.clip import CLIP, clip_batch

Tensors = dict[str, np.ndarray]
FOR_TRANSFORMERS = {"format": "pt"}  # what it requires in the header of a file of tensors
LISTED = 12  # the most names in one message


class Conversion(NamedTuple):
    """The conversion between our array and their tensors.

    read: (their tensors, heads) -> ours. write: ours -> their tensors.
    """

    read: Callable[[list[np.ndarray], int], np.ndarray]
    write: Callable[[np.ndarray], list[np.ndarray]]


class Pairing(NamedTuple):
    """`ours`: a parameter's path. `theirs`: tensor names, with {layer} where there are layers."""

    ours: str
    theirs: tuple[str, ...]
    conversion: Conversion


def _read_patches(tensors, heads):  # [D,3,p,p] -> [p*p*3,D]
    (kernel,) = tensors
    return kernel.transpose(2, 3, 1, 0).reshape(-1, kernel.shape[0])


def _write_patches(kernel):
    size = round((kernel.shape[0] / 3) ** 0.5)
    return [kernel.reshape(size, size, 3, -1).transpose(3, 2, 0, 1)]


def _read_qkv_kernel(tensors, heads):  # three [D,D], rows are outputs -> [D,3,N,H]
    width = tensors[0].shape[-1]
    return np.stack([x.T for x in tensors], axis=1).reshape(width, 3, heads, -1)


def _write_qkv_kernel(kernel):
    width = kernel.shape[0]
    return [kernel[:, index].reshape(width, width).T for index in range(3)]


def _read_qkv_bias(tensors, heads):  # three [D] -> [3,N,H]
    return np.stack(tensors).reshape(3, heads, -1)


def _write_qkv_bias(bias):
    return [part.reshape(-1) for part in bias]


def _read_out_kernel(tensors, heads):  # [D,D], rows are outputs -> [N,H,D]
    (kernel,) = tensors
    return kernel.T.reshape(heads, -1, kernel.shape[0])


def _write_out_kernel(kernel):
    return [kernel.reshape(kernel.shape[-1], kernel.shape[-1]).T]


def _fused(conversion: Conversion) -> Conversion:
    """The conversion of one tensor that holds three tensors along its first axis."""
    return Conversion(
        lambda tensors, heads: conversion.read(np.split(tensors[0], 3), heads),
        lambda ours: [np.concatenate(conversion.write(ours))],
    )


SAME = Conversion(lambda tensors, heads: tensors[0], lambda ours: [ours])
TRANSPOSED = Conversion(lambda tensors, heads: tensors[0].T, lambda ours: [ours.T])
PATCHES = Conversion(_read_patches, _write_patches)
QKV_KERNEL = Conversion(_read_qkv_kernel, _write_qkv_kernel)
QKV_BIAS = Conversion(_read_qkv_bias, _write_qkv_bias)
FUSED_QKV_KERNEL, FUSED_QKV_BIAS = _fused(QKV_KERNEL), _fused(QKV_BIAS)
OUT_KERNEL = Conversion(_read_out_kernel, _write_out_kernel)


def norm_pairings(ours: str, theirs: str) -> list[Pairing]:
    """A LayerNorm's scale and bias."""
    return [
        Pairing(f"{ours}/scale", (f"{theirs}.weight",), SAME),
        Pairing(f"{ours}/bias", (f"{theirs}.bias",), SAME),
    ]


def dense_pairings(ours: str, theirs: str, kernel: Conversion = TRANSPOSED) -> list[Pairing]:
    """A linear map's kernel and bias."""
    return [
        Pairing(f"{ours}/kernel", (f"{theirs}.weight",), kernel),
        Pairing(f"{ours}/bias", (f"{theirs}.bias",), SAME),
    ]


def read_parameters(
    tensors: Tensors, pairings: list[Pairing], clip: CLIP, ignored=()
) -> dict[str, Any]:
    """Our parameters from their tensors, float32. The tensors are removed from `tensors`.

    ignored: names of tensors that are no weights, such as stored position ids.
    """
    shapes = parameter_shapes(clip)
    _check_names(tensors, pairings, clip, shapes, ignored)
    params = {}
    for pairing in pairings:
        heads = _tower(clip, pairing.ours).heads
        layers = [
            pairing.conversion.read([tensors.pop(name) for name in names], heads).astype(np.float32)
            for names in _names(pairing, clip)
        ]
        params[pairing.ours] = np.stack(layers).reshape(shapes[pairing.ours])
    return unflatten_dict(params, sep="/")


def write_parameters(params: Mapping[str, Any], pairings: list[Pairing], clip: CLIP) -> Tensors:
    """Their tensors from our parameters."""
    flat, tensors = flatten_dict(params, sep="/"), {}
    paired = {pairing.ours for pairing in pairings}
    if {*flat} - paired:
        unpaired = _listed(sorted({*flat} - paired))
        raise UserError(f"that format has no place for {unpaired}; use --to=ours")
    if paired - {*flat}:
        raise UserError(f"that format needs {_listed(sorted(paired - {*flat}))}; use --to=ours")
    for pairing in pairings:
        ours = np.asarray(flat[pairing.ours])
        layers = ours if _is_layered(pairing) else [ours]
        for names, layer in zip(_names(pairing, clip), layers, strict=True):
            tensors |= zip(names, pairing.conversion.write(layer), strict=True)
    return tensors


def save_tensors(file: Path, tensors: Tensors, about: Mapping[str, str] = FOR_TRANSFORMERS) -> None:
    """Writes a safetensors file that everyone may read.

    about: kept in the header. With one entry, equal tensors make equal files.
    """
    contiguous = {name: np.asarray(x, order="C") for name, x in tensors.items()}
    save_file(contiguous, file, metadata=dict(about))
    file.chmod(0o644)


def parameter_shapes(clip: CLIP) -> dict[str, tuple[int, ...]]:
    """{path: shape} of every parameter, without allocating them."""
    params = jax.eval_shape(clip.init, jax.random.key(0), clip_batch(clip))["params"]
    return {path: x.shape for path, x in flatten_dict(params, sep="/").items()}


def _check_names(tensors, pairings, clip, shapes, ignored) -> None:
    expected = {}
    for pairing in pairings:
        shape = shapes[pairing.ours][1:] if _is_layered(pairing) else shapes[pairing.ours]
        theirs = [x.shape for x in pairing.conversion.write(np.zeros(shape, np.int8))]
        for names in _names(pairing, clip):
            expected |= zip(names, theirs, strict=True)
    missing = [name for name in expected if name not in tensors]
    extra = [name for name in tensors if name not in expected and not name.endswith(ignored)]
    misshapen = [
        f"{name} is {tensors[name].shape} and not {shape}"
        for name, shape in expected.items()
        # A scale is stored as one number with or without an axis.
        if name in tensors
        and tensors[name].shape != shape
        and not (shape == () and tensors[name].size == 1)
    ]
    faults = {"missing": missing, "extra": extra, "misshapen": misshapen}
    if any(faults.values()):
        raise UserError(
            "the checkpoint does not fit its description: "
            + "; ".join(f"{len(x)} {kind}: {_listed(x)}" for kind, x in faults.items() if x)
        )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _is_layered(pairing: Pairing) -> bool:
    return "{layer}" in pairing.theirs[0]


def _tower(clip: CLIP, path: str):
    return clip.image if path.startswith("image/") else clip.text


def _names(pairing: Pairing, clip: CLIP) -> Iterator[list[str]]:
    """The names of a pairing's tensors, layer by layer."""
    for layer in range(_tower(clip, pairing.ours).layers if _is_layered(pairing) else 1):
        yield [name.format(layer=layer) for name in pairing.theirs]
