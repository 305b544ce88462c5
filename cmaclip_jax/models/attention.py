"""The two attentions that CMA-CLIP adds to CLIP.

SequenceAttention lets image patches and text tokens look at one another;
ModalityAttention weighs the two resulting embeddings, for every task on its own.
Both know that an example may lack its picture or its words.
"""

import flax.linen as nn
import jax.numpy as jnp

from cmaclip_jax.models.products import Dense
from cmaclip_jax.models.transformer import Block, Stack, masked_softmax, take_positions


class SequenceAttention(nn.Module):
    """A transformer encoder over the concatenated image and text tokens.

    layers: 0 switches it off: the tokens are read out as they came, so what is left is
        late fusion with the same norm and the same embeddings.
    width: of the blocks; 0 takes the tokens' own and adds no projection.
    zero_output: residual branches start at zero, so that training begins as late fusion.
    """

    layers: int = 2
    width: int = 0
    heads: int = 8
    mlp_width: int = 0
    dropout: float = 0.0
    activation: str = "quick_gelu"
    zero_output: bool = True
    epsilon: float = 1e-5
    unroll: int = 1
    remat: str = "none"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, image, text, train: bool = False, with_maps: bool = False):
        """Fuses two sequences; either may be None, for a model without that modality.

        Args:
          image: `(tokens [B,P+1,D], present [B])`; the class token comes first.
          text: `(tokens [B,T,D], present [B], end [B])`; `end` is the end-of-text token.

        Returns:
          `({"image": [B,D'], "text": [B,D']}, maps)`. Maps, when asked for, are every
          layer's attention from every text token to every patch: [L,B,T,P].
        """
        parts, masks = [], []
        if image is not None:
            tokens, present = image
            parts.append(self._enter(tokens, present, "image"))
            masks.append(jnp.broadcast_to(present[:, None], tokens.shape[:2]))
        if text is not None:
            tokens, present, end = text
            parts.append(self._enter(tokens, present, "text"))
            masks.append(present[:, None] & (jnp.arange(tokens.shape[1]) <= end[:, None]))
        x = jnp.concatenate(parts, axis=1)  # [B,P+1+T,D']
        read, text_start = {}, 0
        if image is not None:
            text_start = image[0].shape[1]
            read["image"] = jnp.zeros(x.shape[0], jnp.int32)
        if text is not None:
            read["text"] = text_start + text[2]
        positions = jnp.stack(list(read.values()), axis=1)  # [B,R]
        x, maps = self._attend(x, jnp.concatenate(masks, axis=1), positions, train, with_maps)
        x = nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="norm")(x)  # [B,R,D']
        if maps is not None:
            maps = maps[:, :, text_start:, 1:text_start]  # [L,B,T,P]
        return {name: x[:, row] for row, name in enumerate(read)}, maps

    def _attend(self, x, mask, read, train: bool, with_maps: bool):
        """What all layers make of `x` [B,S,D'] at the positions `read` [B,R], and their maps.

        The last layer has nobody to answer but those who are read, so that it computes no
        more than them: a third or less of a layer's arithmetic. Maps want it whole.
        """
        shared = {
            "heads": self.heads,
            "mlp_width": self.mlp_width or 4 * x.shape[-1],
            "activation": self.activation,
            "dropout": self.dropout,
            "zero_output": self.zero_output,
            "epsilon": self.epsilon,
            "dtype": self.dtype,
        }
        if self.layers == 0:
            return take_positions(x, read), None
        loop = {"layers": self.layers - 1, "unroll": self.unroll, "remat": self.remat}
        x, maps = Stack(**shared, **loop, name="stack")(x, mask, train, with_maps)
        last = Block(**shared, name="last")
        if not with_maps:
            return last(x, mask, train, False, read)[0], None
        x, last_map = last(x, mask, train, True)
        parts = ([] if maps is None else [maps]) + [last_map[None]]
        return take_positions(x, read), jnp.concatenate(parts)

    def _enter(self, tokens, present, name: str):
        """Tokens in the blocks' width, marked with their modality.

        An absent modality's tokens are replaced by zeros here. The attention mask alone
        would not do: where everything is masked, softmax spreads over what it should hide.
        """
        tokens = jnp.where(present[:, None, None], tokens, 0)
        if self.width and self.width != tokens.shape[-1]:
            tokens = Dense(self.width, dtype=self.dtype, name=f"{name}_projection")(tokens)
        kind = self.param(f"{name}_type", nn.initializers.normal(0.02), tokens.shape[-1:])
        return tokens + kind.astype(tokens.dtype)


class ModalityAttention(nn.Module):
    """Keyless attention over {image, text} for every task: softmax(v_task . embedding).

    per_modality: one learned vector per task and modality, instead of one per task.
    """

    tasks: tuple[str, ...]
    per_modality: bool = False

    @nn.compact
    def __call__(self, embeddings, present):
        """`embeddings` [B,2,D], `present` [B,2] -> {task: weights [B,2]}, float32."""
        kinds, width = embeddings.shape[-2:]
        rows = kinds if self.per_modality else 1
        init = nn.initializers.normal(width**-0.5)
        vectors = self.param("vectors", init, (len(self.tasks), rows, width))
        vectors = jnp.broadcast_to(vectors, (len(self.tasks), kinds, width))
        scores = jnp.einsum("bmd,tmd->btm", embeddings.astype(jnp.float32), vectors)
        weights = masked_softmax(scores, present[:, None, :])  # [B,tasks,2]
        return {name: weights[:, index] for index, name in enumerate(self.tasks)}


def even_weights(present):
    """The mean over the modalities that are there: `present` [B,2] -> weights [B,2]."""
    count = jnp.sum(present, axis=-1, keepdims=True)
    return present / jnp.maximum(count, 1)
