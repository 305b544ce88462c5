"""CMA-CLIP: two encoders, two attentions, one head per task.

The fields of `CMAClip` cover the paper's ablations of the attentions, and models with one tower.
CLIP itself, raw or fine-tuned, is in `contrastive.py`. The baseline MMBT is not in this project.
"""

import math
from typing import Any

import chex
import flax.linen as nn
import jax.numpy as jnp

from cmaclip_jax.models.attention import ModalityAttention, SequenceAttention, even_weights
from cmaclip_jax.models.cpu_products import Dense
from cmaclip_jax.models.encoders import ImageEncoder, TextEncoder, take_position
from cmaclip_jax.models.transformer import ACTIVATIONS

MODALITIES = ("image", "text")
WEIGHED = ("attention", "gated")  # ways to join them that weigh them by modality-wise attention
SIDE_BY_SIDE = ("concat", "gated")  # ways that keep both embeddings
INPUTS = ("has_image", "tokens", "has_text")  # besides the picture


class Head(nn.Module):
    """The MLP that answers one task: `layers` hidden layers, then the logits (float32)."""

    classes: int
    layers: int = 1
    width: int = 0  # 0: the width of the input
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool = False):
        for index in range(self.layers):
            x = Dense(self.width or x.shape[-1], dtype=self.dtype, name=f"hidden_{index}")(x)
            x = ACTIVATIONS["gelu"](x)
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.classes, name="logits")(x)


class CMAClip(nn.Module):
    """Image and text in, logits for every task out.

    image, text: the encoders; None drops the modality from the model (the image-only and
        text-only baselines).
    sequence: sequence-wise attention; with `layers=0` it is off (late fusion).
    tasks: (name, number of classes) in order.
    modality: how the two embeddings become one, per task. 'attention': their sum, weighted by
        modality-wise attention. 'gated': side by side, each multiplied by its weight of the same
        attention and by two, so that even weights change nothing. 'mean' or 'concat': without
        that attention, their mean or side by side.
    """

    image: ImageEncoder | None
    text: TextEncoder | None
    sequence: SequenceAttention
    tasks: tuple[tuple[str, int], ...]
    modality: str = "attention"
    modality_per_modality: bool = False
    head_layers: int = 1
    head_width: int = 0
    head_dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, batch, train: bool = False, with_maps: bool = False):
        """Answers every task for a batch.

        Args:
          batch: `image` u8 [B,H,W,3], `has_image` bool [B], `tokens` i32 [B,T],
            `has_text` bool [B]; other keys are ignored. `image_tokens` [B,P+1,D] and
            `text_tokens` [B,T,D], outputs of an encoder, replace the run of that encoder.
          train: whether dropout is on.
          with_maps: whether to return the text-to-patch attention maps.

        Returns:
          `(logits {task: [B,C]}, aux)`; aux holds `modality_weights` {task: [B,2]} in the
          order of MODALITIES, `embeddings` [B,2,D], `present` [B,2], the towers' own embeddings
          (`image_pooled`, `text_pooled` [B,D], None without that tower), `logit_scale`, and
          `attention_maps` [L,B,T,P] or None.
        """
        chex.assert_rank([batch["tokens"], batch["has_image"]], [2, 1])
        chex.assert_equal_shape_prefix(list(map(batch.get, INPUTS)), 1)
        image, text, aux = self._encode(batch, train)
        aux["logit_scale"] = self.param(
            "logit_scale", nn.initializers.constant(math.log(1 / 0.07)), ()
        )
        embeddings, aux["attention_maps"] = self.sequence(image, text, train, with_maps)
        pair, present = side_by_side(embeddings, batch)  # [B,2,D], [B,2]
        weights = self._weights(pair, present)
        aux |= {"modality_weights": weights, "embeddings": pair, "present": present}
        logits = {}
        for name, classes in self.tasks:
            head = Head(
                classes=classes,
                layers=self.head_layers,
                width=self.head_width,
                dropout=self.head_dropout,
                dtype=self.dtype,
                name=f"head_{name}",
            )
            logits[name] = head(self._mixture(pair, weights[name]), train).astype(jnp.float32)
        return logits, aux

    def _encode(self, batch, train: bool):
        """`(image, text, aux)`: the inputs of `sequence`, and the towers' own embeddings."""
        aux: dict[str, Any] = {"image_pooled": None, "text_pooled": None}
        image = text = None
        if self.image is not None:
            tokens = self._tokens(batch, "image", "image", train)
            aux["image_pooled"] = tokens[:, 0]
            image = (tokens, batch["has_image"])
        if self.text is not None:
            tokens = self._tokens(batch, "text", "tokens", train)
            end = self.text.end_position(batch["tokens"])
            aux["text_pooled"] = take_position(tokens, end)
            text = (tokens, batch["has_text"], end)
        return image, text, aux

    def _tokens(self, batch, name: str, source: str, train: bool):
        """The output of the encoder `name` for `batch[source]`, unless the batch holds it."""
        encoded = batch.get(f"{name}_tokens")
        if encoded is not None:
            return encoded.astype(self.dtype)
        return getattr(self, name)(batch[source], train)[0]

    def _weights(self, pair, present):
        """{task: [B,2]}; equal weights for 'mean' and 'concat'."""
        names = tuple(name for name, _ in self.tasks)
        if self.modality in WEIGHED:
            attention = ModalityAttention(
                names, per_modality=self.modality_per_modality, name="modality"
            )
            return attention(pair, present)
        return dict.fromkeys(names, even_weights(present))

    def _mixture(self, pair, weights):
        """What a head reads: [B,D], or [B,2*D] where the embeddings stay side by side."""
        if self.modality == "gated":
            pair = 2 * weights.astype(pair.dtype)[..., None] * pair
        if self.modality in SIDE_BY_SIDE:
            return pair.reshape(pair.shape[0], -1)  # [B,2*D]
        return jnp.einsum("bm,bmd->bd", weights.astype(pair.dtype), pair)  # [B,D]


def side_by_side(embeddings, batch):
    """`(pair [B,2,D], present [B,2])`: both embeddings, and which of them an example has.

    A modality that the model was built without is absent from every example. An absent embedding
    is zero, so that a placeholder picture or text reaches neither weights nor heads.
    """
    some = next(iter(embeddings.values()))
    zero, nowhere = jnp.zeros_like(some), jnp.zeros(some.shape[0], bool)
    pair, present = [], []
    for name in MODALITIES:
        embedding, has = zero, nowhere
        if name in embeddings:
            has = batch[f"has_{name}"]
            embedding = jnp.where(has[:, None], embeddings[name], zero)
        pair.append(embedding)
        present.append(has)
    return jnp.stack(pair, axis=1), jnp.stack(present, axis=1)
