"""Where records come from: one file per kind of source, one function that opens any."""

from ml_collections import ConfigDict

from cmaclip_jax.data.records import Source
from cmaclip_jax.data.sources.shop import Shop


def open_source(data: ConfigDict, split: str) -> Source:
    """The records of one split, as `config.data` describes them."""
    shop = data.shop
    return Shop(
        split=split,
        size=shop[f"{split}_size"],
        seed=shop.seed,
        image_size=data.image_size,
        articles=shop.articles,
        single_share=shop.single_share if split == "train" else 0.0,
        missing_labels=shop.missing_labels,
        missing_images=shop.missing_images,
        missing_texts=shop.missing_texts,
    )
