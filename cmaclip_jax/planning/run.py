"""A run assembled without data or devices: its real steps are lowered from shapes."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from cmaclip_jax.config import with_changes
from cmaclip_jax.data.batches import BatchEncoder
from cmaclip_jax.models.flops import count
from cmaclip_jax.runs.assembly import assemble, checked_mesh
from cmaclip_jax.runs.towers import Towers, open_towers, with_sizes
from cmaclip_jax.tasks import Task
from cmaclip_jax.training.assembly import Assembly
from cmaclip_jax.training.optimizer import frozen_parameters, make_optimizer
from cmaclip_jax.training.step import make_train_step


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The sizes of a tokenizer, which the shapes of a model need."""

    vocabulary: int
    end: int
    length: int

    def __call__(self, texts: Sequence[str], length: int) -> np.ndarray:
        """Rows of end-of-text tokens."""
        return np.full((len(texts), length), self.end, np.int32)

    def share_cut(self, texts: Sequence[str], length: int) -> float:
        """0: no text is read."""
        return 0.0


@dataclasses.dataclass(frozen=True, eq=False)
class PlannedRun(Assembly):
    """An assembly whose steps are lowered for shapes alone: nothing is read or allocated."""

    encode: BatchEncoder

    def lower_train(self, **changes) -> jax.stages.Lowered:
        """The train step as it will be compiled; `changes` are fields of config.train."""
        settings = self.config.train.copy_and_resolve_references()
        settings.update(changes)
        shapes = self.state_shapes
        optimizer = make_optimizer(settings, shapes.params)
        step = make_train_step(self.objective, optimizer, settings, self.mesh, shapes)
        return step.lower(self.seed, shapes, self.batch(settings.batch_size))

    def lower_evaluation(self) -> jax.stages.Lowered:
        """The step of `config.eval` as it will be compiled."""
        params = jax.eval_shape(self.objective.answering_parameters, self.parameter_shapes)
        return self.predict_step.lower(params, self.batch(self.config.eval.batch_size))

    def batch(self, rows: int) -> Any:
        """The shapes of a batch of so many pairs."""
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((rows, *np.shape(x)[1:]), np.asarray(x).dtype),
            self.example,
        )

    def arithmetic(self) -> dict[str, float]:
        """{part: operations of a step}, forward and backward, by our own count."""
        rows = self.config.train.batch_size
        model, length = self.objective.model, self.encode.text_length
        towers = {"image": model.image, "text": model.text}
        adapted = {name for name, tower in towers.items() if tower and tower.adapter}
        frozen = frozen_parameters(self.config.train, self.parameter_shapes)
        still = {name: all(jax.tree.leaves(tree)) for name, tree in frozen.items()}
        learnt, steps = False, {}
        for name, part in count(model, length, rows // self.config.train.accumulate).items():
            learns = not still.get(name, False)
            # Positions and modality embeddings, added to a part's input, learn with the part.
            below = learns or (learnt and name not in ("image", "text"))
            own = learns and name not in adapted
            steps[name] = rows * part.training(own, below)
            learnt = learnt or learns
        return steps


def plan_run(
    config: ConfigDict, tasks: Sequence[Task], devices: Sequence[Any], towers: Towers | None = None
) -> PlannedRun:
    """The run of a config on these devices, for these tasks; with these encoders, if given."""
    mesh = checked_mesh(config, devices)
    config, towers = (config, towers) if towers else known_towers(config)
    config = with_sizes(config, towers, towers.text.length)
    tokenizer = _vocabulary(config, towers)
    encode = BatchEncoder(tuple(tasks), tokenizer, config.data.image_size, config.data.text_length)
    assembly = assemble(config, mesh, encode, towers)
    return PlannedRun(config, mesh, assembly.objective, assembly.example, encode)


@dataclasses.dataclass(frozen=True)
class Operations:
    """XLA's count of a train step's operations.

    plain: without recomputation; executed: with it.
    """

    plain: float
    executed: float


def count_operations(config: ConfigDict, tasks: Sequence[Task]) -> Operations:
    """Both counts of a config's train step."""
    executed = unrolled_flops(config, tasks)
    if config.model.remat == "none":
        return Operations(executed, executed)
    plain = with_changes(config, {"model.remat": "none"})
    return Operations(unrolled_flops(plain, tasks), executed)


def unrolled_flops(config: ConfigDict, tasks: Sequence[Task]) -> float:
    """Operations of a train step on one device as XLA counts them, recomputing included.

    XLA counts a loop's body once, so every loop over layers or parts is written out here. The step
    is only lowered; nothing is compiled.
    """
    one_device = dict.fromkeys(("mesh.data", "mesh.fsdp", "mesh.tensor"), 1)
    changes = {"model.unroll": 10**6, "train.accumulate": 1, **one_device}
    config = with_changes(config, changes)
    lowered = plan_run(config, tasks, jax.devices("cpu")[:1]).lower_train()
    return lowered.cost_analysis()["flops"]


def known_towers(config: ConfigDict) -> tuple[ConfigDict, Towers]:
    """The encoders; pretrained ones that are not on this disk have the size `model.image`."""
    if config.model.dtype == "auto":
        config = with_changes(config, {"model.dtype": "bfloat16"})  # as accelerators resolve it
    pretrained = config.model.pretrained
    if pretrained and not Path(pretrained).expanduser().exists():
        config = with_changes(config, {"model.pretrained": ""})
        towers = open_towers(config, None)
        return with_changes(config, {"data.vocabulary": towers.text.vocabulary}), towers
    return config, open_towers(config, None)


def _vocabulary(config: ConfigDict, towers: Towers) -> Vocabulary:
    if config.model.pretrained:
        return Vocabulary(towers.text.vocabulary, towers.text.end_token, towers.text.length)
    size = config.data.vocabulary
    return Vocabulary(size, size - 1, towers.text.length)
