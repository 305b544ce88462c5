"""Takes over the weights that a network shares with another one, resized where necessary."""

import math
import re
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from cmaclip_jax.errors import UserError

IMAGE_POSITIONS, TEXT_POSITIONS = "image/position_embedding", "text/position_embedding"


def fit(params: dict[str, Any], shapes: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The parameters of `params` that `shapes` also has, and lines that describe them.

    Position tables are resized. All other parameters need the right shape.
    """
    have, want = flatten_dict(params, sep="/"), flatten_dict(shapes, sep="/")
    taken, lines = {}, []
    for path in want:
        if path in have:
            taken[path], line = _resized(path, have[path], want[path].shape)
            lines += [line] if line else []
    if not taken:
        raise UserError("nothing of the weights has a place in this model")
    return unflatten_dict(taken, sep="/"), [
        f"taken: {_by_part(taken)}",
        f"new: {_by_part({p: x for p, x in want.items() if p not in taken}) or 'nothing'}",
        f"left aside: {_by_part({p: x for p, x in have.items() if p not in taken}) or 'nothing'}",
        *lines,
    ]


def _by_part(leaves: dict[str, Any]) -> str:
    """The number of scalars of every part: 'image 87,849,216, heads 1,595,943'."""
    counts: dict[str, int] = {}
    for path, leaf in leaves.items():
        part = re.sub("^head_.*", "heads", path.split("/")[0])
        counts[part] = counts.get(part, 0) + int(np.prod(leaf.shape))
    return ", ".join(f"{part} {count:,}" for part, count in counts.items())


def _resized(path: str, table: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, str]:
    if table.shape == shape:
        return table, ""
    if path == IMAGE_POSITIONS and table.shape[1:] == shape[1:]:
        old, new = math.isqrt(len(table)), math.isqrt(shape[0])
        return resize_grid(table, new), (
            f"image positions resized from {old}x{old} to {new}x{new} patches (bicubic)"
        )
    if path == TEXT_POSITIONS and table.shape[1:] == shape[1:]:
        done = "cut" if shape[0] < len(table) else "extended (the last one repeated)"
        return resize_length(table, shape[0]), (
            f"text positions {done} from {len(table)} to {shape[0]} tokens"
        )
    raise UserError(f"{path} is {table.shape} in the weights and {shape} in this model")


def resize_grid(table: np.ndarray, side: int) -> np.ndarray:
    """Image positions [1+g*g,D] for a grid of `side`: [1+side*side,D].

    Bicubic, with antialiasing, as in OpenCLIP. The position of the class token is unchanged; a
    table [g*g,D] has none.
    """
    old, width = math.isqrt(len(table)), table.shape[1]
    before, grid = np.split(table, [len(table) - old * old])
    grid = grid.reshape(old, old, width)
    resized = jax.image.resize(grid, (side, side, width), "bicubic", antialias=True)
    return np.concatenate([before, np.asarray(resized).reshape(side * side, width)])


def resize_length(table: np.ndarray, length: int) -> np.ndarray:
    """Text positions for `length` tokens: the first ones, and the last one repeated if need be."""
    return table[np.minimum(np.arange(length), len(table) - 1)]
