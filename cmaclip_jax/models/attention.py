"""The two attentions that CMA-CLIP adds to CLIP.

SequenceAttention lets image patches and text tokens attend to one another. ModalityAttention
weighs the two resulting embeddings, separately for every task. In both, an example may lack its
picture or its text.
"""

import flax.linen as nn
import jax.numpy as jnp

from cmaclip_jax.models.cpu_products import Dense
from cmaclip_jax.models.transformer import Block, Transformer, masked_softmax, take_positions


class SequenceAttention(Transformer):
    """A transformer encoder over the concatenated image and text tokens.

    layers: 0 switches it off. The tokens then pass unchanged, which leaves late fusion with the
        same norm and the same embeddings.
    width: of the layers; 0: the width of the tokens, without a projection.
    mlp_width: 0: four times the width.
    zero_output: residual branches start at zero, so that training starts as late fusion.
    """

    width: int = 0
    layers: int = 2
    heads: int = 8
    mlp_width: int = 0
    zero_output: bool = True

    @nn.compact
    def __call__(self, image, text, train: bool = False, with_maps: bool = False):
        """Fuses two sequences; either is None in a model without that modality.

        Args:
          image: `(tokens [B,P+1,D], present [B])`; the class token comes first.
          text: `(tokens [B,T,D], present [B], end [B])`; `end` is the position of the
            end-of-text token.
          with_maps: whether to return the attention of every layer from every text token to
            every patch.

        Returns:
          `({"image": [B,D'], "text": [B,D']}, maps [L,B,T,P] | None)`.
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
        outputs, text_start = {}, 0  # {modality: position of its embedding [B]}
        if image is not None:
            text_start = image[0].shape[1]
            outputs["image"] = jnp.zeros(x.shape[0], jnp.int32)
        if text is not None:
            outputs["text"] = text_start + text[2]
        positions = jnp.stack(list(outputs.values()), axis=1)  # [B,R]
        x, maps = self._attend(x, jnp.concatenate(masks, axis=1), positions, train, with_maps)
        x = nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="norm")(x)  # [B,R,D']
        if maps is not None:
            maps = maps[:, :, text_start:, 1:text_start]  # [L,B,T,P]
        return {name: x[:, row] for row, name in enumerate(outputs)}, maps

    def _attend(self, x, mask, positions, train: bool, with_maps: bool):
        """Runs all layers over `x` [B,S,D']; returns the `positions` [B,R] of the result, and maps.

        Only these positions of the last layer are used, so only they are computed: a third or
        less of the layer's arithmetic. Maps need the whole layer.
        """
        if self.layers == 0:
            return take_positions(x, positions), None
        spec = self.layer_spec(
            mlp_width=self.mlp_width or 4 * x.shape[-1], zero_output=self.zero_output
        )
        x, maps = self.make_stack(self.layers - 1, spec)(x, mask, train, with_maps)
        last = Block(spec, name="last")
        if not with_maps:
            return last(x, mask, train, False, positions)[0], None
        x, last_map = last(x, mask, train, True)
        parts = ([] if maps is None else [maps]) + [last_map[None]]
        return take_positions(x, positions), jnp.concatenate(parts)

    def _enter(self, tokens, present, name: str):
        """Tokens in the width of the layers, plus the embedding of their modality.

        The tokens of an absent modality become zeros here. The attention mask alone is not
        enough: where every key is masked, softmax spreads evenly over the masked keys.
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
    """Equal weights for the modalities that are present: [B,2] -> [B,2]."""
    count = jnp.sum(present, axis=-1, keepdims=True)
    return present / jnp.maximum(count, 1)
