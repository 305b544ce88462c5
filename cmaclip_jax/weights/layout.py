"""How one CLIP lies in other people's files: rows of (our parameter, their tensors, form).

A row works both ways, so what is read and written back is bit for bit the same, and a
checkpoint that does not fit is told by the names of its tensors.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from cmaclip_jax.errors import UserError
from cmaclip_jax.models.clip import CLIP, clip_batch

Tensors = dict[str, np.ndarray]
LISTED = 12  # names of a kind in one message


class Form(NamedTuple):
    """Between our array and their tensors.

    read: (their tensors, heads) -> ours. write: ours -> their tensors.
    """

    read: Callable[[list[np.ndarray], int], np.ndarray]
    write: Callable[[np.ndarray], list[np.ndarray]]


class Row(NamedTuple):
    """`ours`: a parameter's path. `theirs`: tensor names, with {layer} where there are layers."""

    ours: str
    theirs: tuple[str, ...]
    form: Form


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
    return [row.reshape(-1) for row in bias]


def _read_out_kernel(tensors, heads):  # [D,D], rows are outputs -> [N,H,D]
    (kernel,) = tensors
    return kernel.T.reshape(heads, -1, kernel.shape[0])


def _write_out_kernel(kernel):
    return [kernel.reshape(kernel.shape[-1], kernel.shape[-1]).T]


def _fused(form: Form) -> Form:
    """The form of one tensor that holds the three of `form` below one another."""
    return Form(
        lambda tensors, heads: form.read(np.split(tensors[0], 3), heads),
        lambda ours: [np.concatenate(form.write(ours))],
    )


SAME = Form(lambda tensors, heads: tensors[0], lambda ours: [ours])
TRANSPOSED = Form(lambda tensors, heads: tensors[0].T, lambda ours: [ours.T])
PATCHES = Form(_read_patches, _write_patches)
QKV_KERNEL = Form(_read_qkv_kernel, _write_qkv_kernel)
QKV_BIAS = Form(_read_qkv_bias, _write_qkv_bias)
FUSED_QKV_KERNEL, FUSED_QKV_BIAS = _fused(QKV_KERNEL), _fused(QKV_BIAS)
OUT_KERNEL = Form(_read_out_kernel, _write_out_kernel)


def norm_rows(ours: str, theirs: str) -> list[Row]:
    """A LayerNorm's scale and bias."""
    return [
        Row(f"{ours}/scale", (f"{theirs}.weight",), SAME),
        Row(f"{ours}/bias", (f"{theirs}.bias",), SAME),
    ]


def dense_rows(ours: str, theirs: str, kernel: Form = TRANSPOSED) -> list[Row]:
    """A linear map's kernel and bias."""
    return [
        Row(f"{ours}/kernel", (f"{theirs}.weight",), kernel),
        Row(f"{ours}/bias", (f"{theirs}.bias",), SAME),
    ]


def read_parameters(tensors: Tensors, rows: list[Row], clip: CLIP, ignored=()) -> dict[str, Any]:
    """Our parameters out of their tensors, float32; takes what it reads out of `tensors`.

    ignored: names that carry no weights, such as stored position ids.
    """
    shapes = parameter_shapes(clip)
    _check_names(tensors, rows, clip, shapes, ignored)
    params = {}
    for row in rows:
        heads = _tower(clip, row.ours).heads
        layers = [
            row.form.read([tensors.pop(name) for name in names], heads).astype(np.float32)
            for names in _names(row, clip)
        ]
        params[row.ours] = np.stack(layers).reshape(shapes[row.ours])
    return unflatten_dict(params, sep="/")


def write_parameters(params: Mapping[str, Any], rows: list[Row], clip: CLIP) -> Tensors:
    """Their tensors out of our parameters."""
    flat, tensors = flatten_dict(params, sep="/"), {}
    homeless = sorted({*flat} - {row.ours for row in rows})
    if homeless:
        raise UserError(f"that format has no place for {_listed(homeless)}; use --to=ours")
    for row in rows:
        ours = np.asarray(flat[row.ours])
        layers = ours if _is_layered(row) else [ours]
        for names, layer in zip(_names(row, clip), layers, strict=True):
            tensors |= zip(names, row.form.write(layer), strict=True)
    return tensors


def save_tensors(file: Path, tensors: Tensors) -> None:
    """A safetensors file that everybody may read who may read its folder."""
    from safetensors.numpy import save_file

    whole = {name: np.asarray(x, order="C") for name, x in tensors.items()}
    save_file(whole, file, metadata={"format": "pt"})  # transformers asks for this mark
    file.chmod(0o644)


def parameter_shapes(clip: CLIP) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter by path, without making any."""
    params = jax.eval_shape(clip.init, jax.random.key(0), clip_batch(clip))["params"]
    return {path: x.shape for path, x in flatten_dict(params, sep="/").items()}


def _check_names(tensors, rows, clip, shapes, ignored) -> None:
    expected = {}
    for row in rows:
        shape = shapes[row.ours][1:] if _is_layered(row) else shapes[row.ours]
        theirs = [x.shape for x in row.form.write(np.zeros(shape, np.int8))]
        for names in _names(row, clip):
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
    found = {"missing": missing, "extra": extra, "misshapen": misshapen}
    if any(found.values()):
        raise UserError(
            "the checkpoint does not fit its description: "
            + "; ".join(f"{len(x)} {kind}: {_listed(x)}" for kind, x in found.items() if x)
        )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _is_layered(row: Row) -> bool:
    return "{layer}" in row.theirs[0]


def _tower(clip: CLIP, path: str):
    return clip.image if path.startswith("image/") else clip.text


def _names(row: Row, clip: CLIP) -> Iterator[list[str]]:
    """The names of a row's tensors, layer by layer."""
    for layer in range(_tower(clip, row.ours).layers if _is_layered(row) else 1):
        yield [name.format(layer=layer) for name in row.theirs]
