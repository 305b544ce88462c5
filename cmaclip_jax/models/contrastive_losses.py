"""Contrastive losses: a picture should match its own text and no other text of the batch.

The batch is the global one. Under jit over a mesh, each device holds the rows of the similarities
that belong to its own pictures, [B/devices,B]. It gathers the text embeddings [B,D] and exchanges
sums [B]. No device holds the whole [B,B].
"""

import math

import jax
import jax.numpy as jnp

from cmaclip_jax.models.encoders import unit

LARGEST_SCALE = 100.0  # CLIP's limit of the scale


def softmax_losses(image, text, logit_scale, complete):
    """CLIP's symmetric loss [B] over the examples that have both picture and text.

    image, text: [B,D], not normalised. logit_scale: natural logarithm of the scale.
    complete: [B], which examples take part.
    """
    # Only the value is limited, not the gradient: published weights are at the limit, and training
    # has to be able to lower their scale.
    limited = jnp.minimum(logit_scale, math.log(LARGEST_SCALE))
    logit_scale = logit_scale + jax.lax.stop_gradient(limited - logit_scale)
    logits = similarities(image, text, logit_scale)  # [B,B]: picture, text
    own = jnp.diagonal(logits)
    allowed = complete[:, None] & complete[None, :]
    logits = jnp.where(allowed, logits, jnp.finfo(logits.dtype).min / 2)
    by_image = jax.nn.logsumexp(logits, axis=1) - own
    by_text = jax.nn.logsumexp(logits, axis=0) - own
    return jnp.where(complete, (by_image + by_text) / 2, 0.0), complete


def sigmoid_losses(image, text, logit_scale, logit_bias, complete):
    """SigLIP's loss [B]: a binary cross-entropy for every picture with every text.

    Its scale has no limit.
    """
    logits = similarities(image, text, logit_scale) + logit_bias
    signs = 2 * jnp.eye(logits.shape[0]) - 1
    allowed = complete[:, None] & complete[None, :]
    losses = jnp.where(allowed, jax.nn.softplus(-signs * logits), 0.0)
    return jnp.sum(losses, axis=1), complete


def similarities(image, text, logit_scale):
    """Scaled cosines [B,B] in float32."""
    return jnp.exp(logit_scale) * jnp.einsum(
        "id,td->it", unit(image), unit(text), preferred_element_type=jnp.float32
    )
