"""The baselines: CLIP's contrastive training, and classification by CLIP's text embeddings."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from cmaclip_jax.models.adapters import merge_towers
from cmaclip_jax.models.attention import even_weights
from cmaclip_jax.models.clip import CLIP
from cmaclip_jax.models.contrastive_losses import LARGEST_SCALE, sigmoid_losses, softmax_losses
from cmaclip_jax.models.encoders import unit
from cmaclip_jax.models.objectives import Batch, divisor, weighted_sums
from cmaclip_jax.tasks import Task

PROMPTS_AT_ONCE = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Contrastive:
    """Learns which text belongs to which picture; classifies by sentences about the classes.

    kind: 'softmax': CLIP's loss; 'sigmoid': SigLIP's, which needs a model with a bias.
    prompts: {task: tokens i32 [C,K,T]}, K sentences for each of C classes.
    inputs: which embedding is compared with the sentences: 'both', 'image' or 'text'.
    """

    model: CLIP
    tasks: tuple[Task, ...]
    prompts: Mapping[str, Any]
    kind: str = "softmax"
    inputs: str = "both"

    def init(self, rng, batch: Batch):
        """Fresh parameters; only the batch's shapes matter."""
        return self.model.init(rng, batch)["params"]

    def loss(self, params, batch: Batch, rng):
        """A weighted mean over all examples; one without picture or text has loss 0."""
        outputs: Any = self.model.apply(
            {"params": params}, batch, train=True, rngs={"dropout": rng}
        )
        image, text, aux = outputs
        complete = batch["has_image"] & batch["has_text"] & (batch["weight"] > 0)
        if self.kind == "softmax":
            losses, known = softmax_losses(image, text, aux["logit_scale"], complete)
        else:
            losses, known = sigmoid_losses(
                image, text, aux["logit_scale"], aux["logit_bias"], complete
            )
        examples = jnp.sum(batch["weight"])
        summed, weight = weighted_sums(losses, known, batch)
        return summed / divisor(examples), {
            "loss": (summed, examples),
            "loss/contrastive": (summed, weight),
        }

    def answering_parameters(self, params):
        """The parameters, and the embeddings of the classes' sentences: {task: [C,D]}.

        Adapters are merged into the weights of their encoders.
        """
        params = merge_towers(self.model, params)
        return {"clip": params, "classes": jax.jit(self._class_embeddings)(params)}

    def predict(self, params, batch: Batch):
        """Probabilities {task: [B,C]} by similarity, and modality weights {task: [B,2]}.

        The embedding of an example is the mean of the embeddings of its modalities. Without tasks,
        `embeddings` has those of both modalities, and the tokens, by which equal texts are known.
        """
        outputs: Any = self.model.apply({"params": params["clip"]}, batch)
        image, text, aux = outputs
        wanted = jnp.array([self.inputs != "text", self.inputs != "image"])
        present = jnp.stack([batch["has_image"], batch["has_text"]], axis=1) & wanted  # [B,2]
        weights = even_weights(present)
        pair = jnp.stack([unit(image), unit(text)], axis=1)  # [B,2,D]
        embedding = unit(jnp.einsum("bm,bmd->bd", weights, pair))
        scale = jnp.exp(aux["logit_scale"])
        if self.kind == "softmax":
            scale = jnp.minimum(scale, LARGEST_SCALE)
        outcome = {
            "probabilities": {
                task.name: probabilities(scale * embedding @ params["classes"][task.name].T, task)
                for task in self.tasks
            },
            "modality_weights": {task.name: weights for task in self.tasks},
        }
        if not self.tasks:
            both = {"image": pair[:, 0], "text": pair[:, 1]}  # [B,D]
            outcome["embeddings"] = {**both, "tokens": batch["tokens"]}
        return outcome

    def _class_embeddings(self, params):
        text: Any = self.model.text

        def embed(tokens):
            return unit(text.apply({"params": params["text"]}, tokens[None])[1][0])

        def of_task(tokens):  # [C,K,T] -> [C,D]
            flat = tokens.reshape(-1, tokens.shape[-1])
            embedded = jax.lax.map(embed, flat, batch_size=PROMPTS_AT_ONCE)
            return unit(embedded.reshape(*tokens.shape[:2], -1).mean(axis=1))

        return {name: of_task(jnp.asarray(tokens)) for name, tokens in self.prompts.items()}


def probabilities(logits, task: Task):
    """Probabilities [B,C] of a task's classes.

    Where an example may have many classes, each class is compared with the mean of all classes.
    This rule is our own.
    """
    if task.many:
        return jax.nn.sigmoid(logits - logits.mean(axis=-1, keepdims=True))
    return jax.nn.softmax(logits, axis=-1)
