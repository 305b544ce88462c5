"""What a run minimises.

An objective is all that the training loop knows of a system:

    init(rng, batch) -> params
    loss(params, batch, rng) -> (scalar, sums)
    answering_parameters(params) -> params, laid out once for many predictions
    predict(answering parameters, batch) -> outputs

`sums` maps a name to (numerator, denominator). Sums of several parts of a batch are added and
divided once, which gives the figure of the whole batch. `loss` is a mean over the examples of the
batch, weighted by `batch["weight"]`, and the denominator of `sums["loss"]` is the sum of these
weights: the number of examples where all weights are 1. So the loss of the whole batch is the mean
of the losses of its parts, weighted by these sums. An example of weight 2 counts as two equal ones.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from cmaclip_jax.models.adapters import merge_towers
from cmaclip_jax.models.cma_clip import CMAClip
from cmaclip_jax.models.contrastive_losses import softmax_losses
from cmaclip_jax.models.cpu_layers import convert_parameters, unstack_layers
from cmaclip_jax.models.transformer import Transformer
from cmaclip_jax.tasks import Task

Batch = Mapping[str, Any]
Sums = dict[str, tuple[jax.Array, jax.Array]]


class Objective(Protocol):
    """The methods that the training loop calls; see the module's docstring."""

    @property
    def model(self) -> Any: ...

    def init(self, rng, batch: Batch) -> Any: ...

    def loss(self, params, batch: Batch, rng) -> tuple[jax.Array, Sums]: ...

    def answering_parameters(self, params) -> Any: ...

    def predict(self, params, batch: Batch) -> dict[str, Any]: ...


@dataclasses.dataclass(frozen=True)
class Classification:
    """Multi-task classification of pairs, optionally with CLIP's contrastive loss.

    task_weights: (task, weight) pairs; a task that is not listed has weight 1.
    class_weights: (task, (one weight per class)) pairs; the classes of a task that is not listed
        have weight 1.
    label_smoothing: the share of a one-label target that is spread over all classes.
    contrastive: the weight of the contrastive loss between the two towers.
    drop_modality: the share of the complete pairs in training that lose their picture or their
        text. The contrastive loss still reads both.
    """

    model: CMAClip
    tasks: tuple[Task, ...]
    task_weights: tuple[tuple[str, float], ...] = ()
    class_weights: tuple[tuple[str, tuple[float, ...]], ...] = ()
    label_smoothing: float = 0.0
    contrastive: float = 0.0
    drop_modality: float = 0.0

    def init(self, rng, batch: Batch):
        """Fresh parameters; only the batch's shapes matter."""
        return self.model.init(rng, batch)["params"]

    def loss(self, params, batch: Batch, rng):
        """The sum of the tasks' losses and the contrastive loss, as a mean over examples.

        Every known label has the weight of its example. The loss of a task is summed over its known
        labels and divided by the weight of all examples in the batch. So a task with few labels has
        no larger weight in the batches that hold one of them. The contrastive loss of a pair has
        the pair's weight; as another pair's wrong partner, every pair counts alike.
        """
        complete = batch["has_image"] & batch["has_text"] & (batch["weight"] > 0)
        if self.drop_modality:
            batch = without_modalities(batch, jax.random.fold_in(rng, 1), self.drop_modality)
        logits, aux = self.model.apply({"params": params}, batch, train=True, rngs={"dropout": rng})
        count = jnp.sum(batch["weight"])
        examples = divisor(count)
        total, sums, task_weights = jnp.zeros(()), {}, dict(self.task_weights)
        for task in self.tasks:
            losses, known = self._task_losses(task, logits[task.name], batch)
            summed, weight = weighted_sums(losses, known, batch)
            total += task_weights.get(task.name, 1.0) * summed / examples
            sums[f"loss/{task.name}"] = (summed, weight)
        if self.contrastive:
            losses, known = softmax_losses(
                aux["image_pooled"],
                aux["text_pooled"],
                aux["logit_scale"],
                complete,
            )
            summed, weight = weighted_sums(losses, known, batch)
            total += self.contrastive * summed / examples
            sums["loss/contrastive"] = (summed, weight)
        return total, {"loss": (total * examples, count)} | sums

    def answering_parameters(self, params):
        """Parameters laid out for answering: see `cpu_layers`. Those of the heads are unchanged.

        Adapters are merged into the weights of their encoders.
        """

        def of_part(name, part):
            module = getattr(self.model, name, None)
            if not isinstance(module, Transformer):
                return part
            return convert_parameters(unstack_layers(part, module.unroll), module.dtype)

        return {
            name: of_part(name, part) for name, part in merge_towers(self.model, params).items()
        }

    def predict(self, params, batch: Batch):
        """Probabilities {task: [B,C]} and modality weights {task: [B,2]}."""
        logits, aux = self.model.apply({"params": params}, batch)
        probabilities = {
            task.name: jax.nn.sigmoid(logits[task.name])
            if task.many
            else jax.nn.softmax(logits[task.name], axis=-1)
            for task in self.tasks
        }
        return {"probabilities": probabilities, "modality_weights": aux["modality_weights"]}

    def _task_losses(self, task: Task, logits, batch: Batch):
        """`(losses [B], known [B])`: an unknown label and a row of padding have loss 0."""
        labels = batch["labels"][task.name]
        even = (1.0,) * len(task.classes)
        class_weights = jnp.array(dict(self.class_weights).get(task.name, even), jnp.float32)
        if task.many:
            losses, known = many_label_losses(logits, labels, class_weights)
        else:
            losses, known = one_label_losses(logits, labels, class_weights, self.label_smoothing)
        known = known & (batch["weight"] > 0)
        return jnp.where(known, losses, 0.0), known


def divisor(weight):
    """The weight of a batch's examples to divide by; 1 where a batch of bad records has none."""
    return jnp.where(weight == 0, 1.0, weight)


def weighted_sums(losses, known, batch: Batch):
    """The losses [B] of the known rows, and these rows' weights: two weighted sums."""
    weights = jnp.where(known, batch["weight"], 0.0)
    return jnp.sum(losses * weights), jnp.sum(weights)


def without_modalities(batch: Batch, rng, share: float) -> Batch:
    """A batch in which a share of the complete pairs lacks the picture or, as often, the text."""
    draws = jax.random.uniform(rng, batch["has_image"].shape)
    complete = batch["has_image"] & batch["has_text"]
    no_image = complete & (draws < share / 2)
    no_text = complete & (draws >= share / 2) & (draws < share)
    return {
        **batch,
        "has_image": batch["has_image"] & ~no_image,
        "has_text": batch["has_text"] & ~no_text,
    }


def one_label_losses(logits, labels, class_weights, smoothing: float = 0.0):
    """Softmax cross-entropy: `logits` [B,C], `labels` [B] (negative: unknown) -> [B], known [B]."""
    known = labels >= 0
    labels = jnp.where(known, labels, 0)
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), smoothing)
    return optax.softmax_cross_entropy(logits, targets) * class_weights[labels], known


def many_label_losses(logits, labels, class_weights):
    """Mean sigmoid cross-entropy over the known classes: `labels` [B,C], negative: unknown."""
    known = labels >= 0
    losses = optax.sigmoid_binary_cross_entropy(logits, jnp.where(known, labels, 0.0))
    losses = jnp.where(known, losses * class_weights, 0.0)
    count = jnp.sum(known, axis=-1)
    return jnp.sum(losses, axis=-1) / jnp.maximum(count, 1), count > 0
