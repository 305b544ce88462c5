"""The adapters of a run's encoders, as `model.lora` describes them."""

import re
from typing import Any

from ml_collections import ConfigDict

from cmaclip_jax.errors import UserError
from cmaclip_jax.models.adapters import PRODUCTS, Adapter, product_path

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


def _matches(rule: str, path: str) -> bool:
    try:
        return bool(re.fullmatch(rule, path))
    except (re.error, TypeError) as error:
        raise UserError(f"{rule!r} in model.lora.rules is no regex ({error})") from error
