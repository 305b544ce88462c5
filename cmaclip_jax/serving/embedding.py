"""CLIP as a function: embeds pictures and texts as vectors of length 1 that can be compared."""

import concurrent.futures
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cmaclip_jax.data.images import Picture, clip_image
from cmaclip_jax.data.python_inputs import list_pictures, list_texts, without_missing
from cmaclip_jax.data.text import Tokenizer
from cmaclip_jax.errors import UserError
from cmaclip_jax.models.clip import CLIP
from cmaclip_jax.models.encoders import unit
from cmaclip_jax.runs.pretrained import clip_tokenizer, read_clip

BATCHES = (1, 8, 64)  # the compiled sizes; a batch is padded to one of them


class ClipEmbedder:
    """A CLIP that is ready to use; `load_clip` makes one.

    model, params: the network. tokenizer: None if the checkpoint has none.
    """

    def __init__(self, model: CLIP, params: Any, tokenizer: Tokenizer | None):
        self.model = model
        self.params = jax.tree.map(jnp.asarray, params)
        self.tokenizer = tokenizer
        self._image = jax.jit(lambda p, x: unit(model.image.apply({"params": p["image"]}, x)[1]))
        self._text = jax.jit(lambda p, x: unit(model.text.apply({"params": p["text"]}, x)[1]))

    @property
    def logit_scale(self) -> float:
        """The factor of the similarities before the softmax."""
        return float(jnp.exp(self.params["logit_scale"]))

    def embed_images(self, images: Iterable[Picture]) -> np.ndarray:
        """float32 [N,D], unit length.

        An image is a path, bytes, a PIL image or an array [H,W,3] of 0 to 255 or 0 to 1. Lists,
        arrays and columns of data frames are accepted.
        """
        pictures = without_missing(list_pictures(images), "picture")
        size = self.model.image.image_size
        with concurrent.futures.ThreadPoolExecutor() as pool:

            def prepare(some: Sequence[Picture]) -> np.ndarray:
                return np.stack(list(pool.map(lambda image: clip_image(image, size), some)))

            return self._embed(self._image, prepare, pictures)

    def embed_texts(self, texts: Iterable[str]) -> np.ndarray:
        """float32 [N,D], unit length."""
        if self.tokenizer is None:
            raise UserError(
                "this checkpoint came without a tokenizer; put its tokenizer.json, or vocab.json "
                "and merges.txt, beside it"
            )
        words, length = without_missing(list_texts(texts), "text"), self.model.text.length
        return self._embed(self._text, lambda some: self.tokenizer(some, length), words)

    def _embed(self, compiled: Callable, prepare: Callable, items: Sequence) -> np.ndarray:
        rows = [np.zeros((0, self.model.image.projection), np.float32)]
        for some in _batches(items):
            whole = prepare(some)
            full = next(size for size in BATCHES if size >= len(some))
            padding = np.zeros((full - len(some), *whole.shape[1:]), whole.dtype)
            embedded = compiled(self.params, np.concatenate([whole, padding]))
            rows.append(np.asarray(embedded, np.float32)[: len(some)])
        return np.concatenate(rows)


def _batches(items: Sequence) -> Iterator[Sequence]:
    for start in range(0, len(items), BATCHES[-1]):
        yield items[start : start + BATCHES[-1]]


def load_clip(path: str | Path, activation: str = "") -> ClipEmbedder:
    """A CLIP from a converted folder, a checkpoint of Hugging Face, OpenAI or OpenCLIP, or a run.

    activation: 'quick_gelu' or 'gelu', for OpenCLIP's files without a config.
    """
    weights = read_clip(str(path), activation)
    return ClipEmbedder(weights.model, weights.params, clip_tokenizer(weights))
