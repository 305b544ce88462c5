"""Which patches an answer rests on: attention weighted by the gradient of the answer.

The rule is that of Chefer, Gur and Wolf, "Generic Attention-model Explainability for Interpreting
Bi-Modal and Encoder-Decoder Transformers" (2021), for one sequence of both modalities. Let A be the
attention of a layer, and G the gradient of an answer's logit with respect to A. The relevance of
tokens to tokens is the identity at first, and every layer multiplies it by
1 + mean over heads of max(G A, 0). The layers are those of the image encoder and of sequence-wise
attention. The encoder's layers belong to the rule because they move information between patches.
Where attention pooling makes the first token, this token passes its relevance to the patches that
it was pooled from.
"""

import jax
import jax.numpy as jnp

from cmaclip_jax.models.cma_clip import CMAClip
from cmaclip_jax.models.cpu_layers import BLOCKS, stack_layers
from cmaclip_jax.models.encoders import CLASS
from cmaclip_jax.models.flops import patch_count
from cmaclip_jax.models.transformer import FACTORS


def patch_relevance(model: CMAClip, params, batch, question):
    """The relevance [B,P] of every patch to an answer about each pair.

    question: {task: [B,C]}, the multiple of each logit: 1 for the answered class of one task.
    """
    params = {name: stack_layers(part) for name, part in params.items()}

    def answer(factors):
        logits, _ = model.apply({"params": params, FACTORS: factors}, batch)
        return sum(jnp.vdot(question[task], some) for task, some in logits.items())

    products = jax.grad(answer)(ones(model, batch))  # G A of every layer
    relevant = read_tokens(model, batch)  # [B,R,S]
    if "sequence" in products:
        relevant += of_heads(products["sequence"]["last"]["attention"]["weights"])
        relevant = before(relevant, products["sequence"])
    encoded = relevant[:, :, : patch_count(model.image) + 1]
    if model.image.pooling == CLASS:
        return before(encoded, products["image"]).sum(axis=1)[:, 1:]
    pooled = of_heads(products["image"]["pool"]["attention"]["weights"])  # [B,1,P+1]
    patches = encoded[:, :, 1:] + encoded[:, :, :1] @ pooled[:, :, 1:]  # [B,R,P]
    return before(patches, products["image"]).sum(axis=1)


def before(relevant, products):
    """The relevance [B,R,S] of the tokens before a stack of layers, from that of those after it."""
    if "stack" in products:
        for layer in products["stack"][BLOCKS]["attention"]["weights"][::-1]:
            relevant += relevant @ of_heads(layer)
    return relevant


def of_heads(products):
    """The mean over heads of what is positive: [B,N,S,S] -> [B,S,S]."""
    return jnp.maximum(products, 0).mean(axis=1)


def read_tokens(model: CMAClip, batch):
    """The tokens that answers read, as rows of the identity [B,R,S]: class token, end of text."""
    tokens, patches = batch["tokens"], patch_count(model.image)
    places = [jnp.zeros(len(tokens), jnp.int32)]
    length = patches + 1
    if model.text is not None:
        places.append(length + model.text.end_position(tokens))
        length += tokens.shape[1]
    return jax.nn.one_hot(jnp.stack(places, axis=1), length)


def ones(model: CMAClip, batch):
    """A factor of 1 for every weight of attention in the image encoder and sequence-wise attention.

    The last layer computes the read tokens alone.
    """
    image, sequence = model.image, model.sequence
    rows, read, length = read_tokens(model, batch).shape
    encoded, has_class = patch_count(image) + 1, image.pooling == CLASS
    factors = {"image": _stack(image.layers, rows, image.heads, encoded - (not has_class))}
    if not has_class:
        pooled = jnp.ones((rows, image.heads, 1, encoded))
        factors["image"]["pool"] = {"attention": {"weights": pooled}}
    if sequence.layers:
        last = jnp.ones((rows, sequence.heads, read, length))
        factors["sequence"] = {"last": {"attention": {"weights": last}}}
    if sequence.layers > 1:
        factors["sequence"] |= _stack(sequence.layers - 1, rows, sequence.heads, length)
    return factors


def _stack(layers: int, rows: int, heads: int, length: int) -> dict:
    weights = jnp.ones((layers, rows, heads, length, length))
    return {"stack": {BLOCKS: {"attention": {"weights": weights}}}}
