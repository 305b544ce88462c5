"""Small studies: their arguments, and a way to train them without new processes."""

from cmaclip_jax.config import value_at
from support.commands import QUICKSTART
from support.small import small_config

TASKS = ("colour", "contents")


def small_arguments(*fields):
    """The fields in which the small config differs from the quickstart's, as arguments."""
    config = small_config()
    names = ("data.image_size", "data.vocabulary", "model.image", "model.text", "train.batch_size")
    names += ("model.sequence_layers", "data.shop.train_size", "data.shop.val_size", "train.steps")
    names += ("data.shop.test_size", "eval.batch_size", "checkpoint.every", "train.log_every")
    own = [f"--config.{name}={value_at(config, name)}" for name in names]
    labels = f"--config.data.labels={','.join(TASKS)}"
    return [QUICKSTART, *own, labels, "--config.eval.every=0", "--config.model.sequence_heads=0"]


def in_this_process(function, *arguments):
    """In place of `in_own_process`, which needs seconds to start a process."""
    return function(*arguments)
