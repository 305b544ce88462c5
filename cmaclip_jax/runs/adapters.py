"""The adapters of a run's encoders, as `model.lora` describes them."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cmaclip_jax.errors import UserError
from cmaclip_jax.models.adapters import PRODUCTS, Adapter
from cmaclip_jax.tasks import Task, read_tasks

TASKS = "tasks.json"  # in a folder of adapters, as in a run's folder
SIDES = ("image", "text")


def configured_adapters(lora: ConfigDict) -> dict[str, Adapter | None]:
    """{'image': adapter, 'text': adapter} of `model.lora`; None for an encoder without."""
    if not lora.rank:
        return dict.fromkeys(SIDES)
    paths = {side: {name: product_path(side, name) for name in PRODUCTS} for side in SIDES}
    every = [path for named in paths.values() for path in named.values()]
    for rule in lora.rules:
        if not any(_matches(rule, path) for path in every):
            raise UserError(
                f"the rule {rule!r} of model.lora.rules matches no product; products are "
                f"{', '.join(every[: len(PRODUCTS)])}, and the same of text"
            )
    adapters: dict[str, Adapter | None] = {}
    for side, named in paths.items():
        products = tuple(
            name for name, path in named.items() if any(_matches(rule, path) for rule in lora.rules)
        )
        alpha = lora.alpha or lora.rank / 2
        adapters[side] = Adapter(lora.rank, alpha, lora.dropout, products) if products else None
    return adapters


def run_adapters(lora: ConfigDict, towers: Any) -> dict[str, Adapter | None]:
    """The adapters of a run's two encoders: their own, from `lora.source`, or the configured ones.

    towers: anything with the encoders `image` and `text`.
    """
    configured = configured_adapters(lora)
    return {side: getattr(towers, side).adapter or configured[side] for side in SIDES}


def without_other_heads(
    params: dict[str, Any], source: str, tasks: Sequence[Task]
) -> dict[str, Any]:
    """Parameters without the heads in `lora.source` that have other classes than the run's tasks.

    Modality-wise attention has a vector for every task, so it stays if all tasks are the same.
    """
    file = Path(source).expanduser() / TASKS
    if not (source and file.exists()):
        return params
    theirs = {task.name: task.classes for task in read_tasks(file)}
    same = {f"head_{task.name}" for task in tasks if theirs.get(task.name) == task.classes}
    kept = {name: x for name, x in params.items() if name in same or not name.startswith("head_")}
    if list(theirs) != [task.name for task in tasks]:
        kept.pop("modality", None)
    return kept


def product_path(side: str, name: str) -> str:
    """The path of a product as rules match it: image/stack/blocks/attention/query."""
    holder = PRODUCTS[name][0]
    return "/".join(filter(None, [side, "stack/blocks", holder, name]))


def _matches(rule: str, path: str) -> bool:
    try:
        return bool(re.fullmatch(rule, path))
    except (re.error, TypeError) as error:
        raise UserError(f"{rule!r} in model.lora.rules is no regex ({error})") from error
