"""Small models whose encoders have adapters."""

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from cmaclip_jax.models import CMAClip
from cmaclip_jax.models.adapters import LORA, PRODUCTS, Adapter
from support.small import initial, make_model

EVERYWHERE = Adapter(rank=3, alpha=6.0, dropout=0.25, products=tuple(PRODUCTS))


def adapted_model(adapter: Adapter = EVERYWHERE, **fields) -> CMAClip:
    """A small model with an adapter in both encoders."""
    model = make_model(**fields)
    return model.clone(
        image=model.image.clone(adapter=adapter), text=model.text.clone(adapter=adapter)
    )


def trained_adapters(model: CMAClip):
    """Parameters for a model with adapters that are not zero, as after a training."""
    flat = flatten_dict(initial(model), sep="/")
    for number, (path, leaf) in enumerate(flat.items()):
        if f"/{LORA}" in path:
            flat[path] = 0.1 * jax.random.normal(jax.random.key(number), leaf.shape)
    return unflatten_dict(flat, sep="/")
