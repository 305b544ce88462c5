"""Settings of single parameters, as lists of (regex, value) rules.

Freezing, learning rates, weight decay and sharding are such lists. A regex has to match the whole
path of a parameter (image/stack/blocks/mlp_up/kernel). The first rule that matches counts. A
parameter that no rule covers is an error, and so is a rule that matches no parameter.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cmaclip_jax.errors import UserError

Rules = Sequence[tuple[str, Any]]

# A specification is for the trailing axes of a parameter; the axis of stacked layers is not split.
# The optimizer's moments have the same names, so that they have the layout of their parameters.
SHARDING_RULES: Rules = (
    (".*attention/qkv/kernel", PartitionSpec("fsdp", None, "tensor", None)),  # [D,3,N,H]
    (".*attention/out/kernel", PartitionSpec("tensor", None, "fsdp")),  # [N,H,D]
    (".*mlp_up/kernel", PartitionSpec("fsdp", "tensor")),  # [D,M]
    (".*mlp_down/kernel", PartitionSpec("tensor", "fsdp")),  # [M,D]
    # Adapters are small. Only the axis that a product splits over `tensor` is split.
    (".*lora_(query|key|value)/b", PartitionSpec("tensor", None)),  # [r,N,H]
    (".*lora_out/a", PartitionSpec("tensor", None, None)),  # [N,H,r]
    (".*lora_mlp_up/b", PartitionSpec("tensor")),  # [r,M]
    (".*lora_mlp_down/a", PartitionSpec("tensor", None)),  # [M,r]
    (".*(kernel|embedding)", PartitionSpec("fsdp", None)),
    (".*", PartitionSpec()),
)


def path_name(path) -> str:
    """A key path of a parameter tree as 'image/stack/blocks/mlp_up/kernel'."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def match_rules(rules: Rules, tree, name: str, strict: bool = True):
    """The tree of values that `rules` give to the leaves of `tree`.

    strict: whether a rule that matches nothing is an error. '.*', which means the rest, never is.
        The sharding rules are not strict, because they have to suit every model.
    """
    used = set()
    _check_rules(rules, name)

    def value(path, _):
        path = path_name(path)
        matching = [i for i, (regex, _) in enumerate(rules) if re.fullmatch(regex, path)]
        if not matching:
            raise UserError(f"no rule of {name} covers {path}; end the list with ('.*', VALUE)")
        used.update(matching)
        return rules[matching[0]][1]

    values = jax.tree_util.tree_map_with_path(value, tree)
    unused = [regex for i, (regex, _) in enumerate(rules) if i not in used and regex != ".*"]
    if strict and unused:
        raise UserError(
            f"{name}: {unused[0]!r} matches no parameter; their names begin with {sorted(tree)}"
        )
    return values


def _check_rules(rules: Rules, name: str) -> None:
    for rule in rules:
        try:
            regex, _ = rule
            re.compile(regex)
        except (TypeError, ValueError, re.error) as error:
            raise UserError(
                f"{name}: {rule!r} is no rule ({error}); write (regex, value)"
            ) from error


def tree_shardings(tree, mesh: Mesh, rules: Rules = SHARDING_RULES):
    """A NamedSharding for every leaf of a tree of parameters, moments and the like.

    An axis that does not divide over its mesh axis is not split: 4 heads over 8 devices work,
    unsplit.
    """

    def sharding(leaf, spec: PartitionSpec) -> NamedSharding:
        axes = (None,) * (leaf.ndim - len(spec)) + tuple(spec)
        fitting = (
            axis if axis and mesh.shape[axis] > 1 and size % mesh.shape[axis] == 0 else None
            for axis, size in zip(axes, leaf.shape, strict=True)
        )
        return NamedSharding(mesh, PartitionSpec(*fitting))

    return jax.tree.map(sharding, tree, match_rules(rules, tree, "sharding", strict=False))


def parameter_count(params) -> int:
    """The number of scalars in a tree."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
