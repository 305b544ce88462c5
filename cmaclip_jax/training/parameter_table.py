"""The effect of the rules on every parameter, shown before the first step."""

import math
import re
from collections import defaultdict
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.table import Table

from cmaclip_jax.files import write_text
from cmaclip_jax.parallel.rules import match_rules, path_name
from cmaclip_jax.training.optimizer import frozen_parameters, rate_factors


def parameter_rows(settings: ConfigDict, params, shardings) -> list[tuple[str, ...]]:
    """(path, shape, rate factor, weight decay, layout, bytes a device) of every parameter."""
    decay = match_rules(settings.weight_decay, params, "train.weight_decay")
    trees = (params, frozen_parameters(settings, params), rate_factors(settings, params))
    leaves = [jax.tree.leaves(tree) for tree in (*trees, decay, shardings)]
    paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    return [
        (
            path,
            "x".join(map(str, leaf.shape)) or "1",
            "frozen" if is_frozen else _span(rate),
            "-" if is_frozen else f"{decay:g}",
            " ".join(str(axis or ".") for axis in sharding.spec) if any(sharding.spec) else "whole",
            f"{math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize:,}",
        )
        for path, leaf, is_frozen, rate, decay, sharding in zip(paths, *leaves, strict=True)
    ]


def write_parameter_table(path: Path, rows: list[tuple[str, ...]]) -> None:
    """Writes all rows as an aligned table."""
    header = ("parameter", "shape", "rate", "decay", "layout", "bytes a device")
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in [header, *rows]
    ]
    write_text(path, "\n".join(line.rstrip() for line in lines) + "\n")


def parameter_summary(rows: list[tuple[str, ...]]) -> Table:
    """A shorter table for the screen: one line for the equally treated parameters of a part."""
    groups: dict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)
    for path, shape, rate, decay, layout, held in rows:
        size = math.prod(int(n) for n in shape.split("x"))
        part = re.sub("^head_.*", "heads", path.split("/")[0])
        groups[part, rate, decay, layout].append((size, _number(held)))
    table = Table(box=None, pad_edge=False)
    table.add_column("part")
    for title in ("tensors", "numbers", "rate x", "decay", "MB a device"):
        table.add_column(title, justify="right")
    table.add_column("layout")
    for (part, rate, decay, layout), sizes in groups.items():
        numbers, held = (sum(column) for column in zip(*sizes, strict=True))
        cells = [str(len(sizes)), f"{numbers:,}", rate, decay, f"{held / 1e6:,.2f}", layout]
        table.add_row(part, *cells)
    return table


def device_bytes(rows: list[tuple[str, ...]]) -> int:
    """Bytes of parameters that every device holds, without the optimizer's moments."""
    return sum(_number(row[-1]) for row in rows)


def _number(text: str) -> int:
    return int(text.replace(",", ""))


def _span(rate) -> str:
    low, high = np.min(rate), np.max(rate)
    return f"{low:g}" if low == high else f"{low:.3g}..{high:.3g}"
