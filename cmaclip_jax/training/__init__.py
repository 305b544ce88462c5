"""One loop for any objective: optimizer, state, step, checkpoints, and what one sees of it."""

from cmaclip_jax.training.checkpoints import Checkpoints
from cmaclip_jax.training.loop import train
from cmaclip_jax.training.progress import Watcher
from cmaclip_jax.training.workdir import open_workdir

__all__ = ["Checkpoints", "Watcher", "open_workdir", "train"]
