"""Models, batches and configs small enough to compile in a second."""

import functools

import jax
import numpy as np

from cmaclip_jax.config import base_config
from cmaclip_jax.models import (
    Classification,
    CMAClip,
    SequenceAttention,
    image_encoder,
    text_encoder,
)
from cmaclip_jax.tasks import Task

TASKS = (
    Task("colour", ("red", "green", "blue")),
    Task("contents", ("mug", "hat", "bag", "shoe"), many=True),
)
VOCABULARY = 50


def make_batch(rows: int = 16, seed: int = 0, length: int = 12, image_size: int = 16) -> dict:
    """A random batch in which everything occurs: absent pictures, texts and labels."""
    random = np.random.default_rng(seed)
    words = random.integers(0, VOCABULARY - 1, (rows, length))
    ends = random.integers(1, length, (rows, 1))
    tokens = np.where(np.arange(length) < ends, words, VOCABULARY - 1)
    lot = random.random(rows)
    contents = random.integers(0, 2, (rows, 4)).astype(np.float32)
    contents[random.random(rows) < 0.2] = -1
    return {
        "image": random.integers(0, 256, (rows, image_size, image_size, 3)).astype(np.uint8),
        "has_image": lot > 0.2,
        "tokens": tokens.astype(np.int32),
        "has_text": (lot < 0.2) | (lot > 0.4),
        "labels": {
            "colour": random.integers(-1, 3, rows).astype(np.int32),
            "contents": contents,
        },
        "weight": np.ones(rows, np.float32),
    }


def make_model(image: bool = True, text: bool = True, layers: int = 1, **fields) -> CMAClip:
    """A CMA-CLIP small enough to compile in a second."""
    return CMAClip(
        image=image_encoder("test/8") if image else None,
        text=text_encoder("test/8", vocabulary=VOCABULARY, end_token=VOCABULARY - 1)
        if text
        else None,
        sequence=SequenceAttention(layers=layers, heads=2, zero_output=False),
        tasks=tuple((task.name, len(task.classes)) for task in TASKS),
        **fields,
    )


def make_objective(model: CMAClip | None = None, **fields) -> Classification:
    return Classification(model=model or make_model(), tasks=TASKS, **fields)


@functools.cache
def initial(model: CMAClip):
    """Parameters for a model, drawn once for all tests."""
    return jax.jit(make_objective(model).init)(jax.random.key(0), make_batch())


@functools.partial(jax.jit, static_argnames=("model", "train", "with_maps"))
def apply(model: CMAClip, params, batch, rngs=None, train: bool = False, with_maps: bool = False):
    """`model.apply`, compiled once for every model and way of calling it."""
    return model.apply({"params": params}, batch, rngs=rngs, train=train, with_maps=with_maps)


def small_config():
    config = base_config()
    config.data.image_size = 48
    config.data.text_length = 16
    config.data.vocabulary = 320
    config.data.shop.train_size = 64
    config.data.shop.val_size = 20
    config.data.shop.test_size = 20
    config.model.image = config.model.text = "test/8"
    config.model.sequence_layers = 1
    config.train.steps = 8
    config.train.batch_size = 8
    config.train.learning_rate = 1e-3
    config.train.log_every = 2
    config.eval.every = 4
    config.eval.batch_size = 16
    config.checkpoint.every = 2
    return config
