"""What draws a picture and its own words together, and every other pair of the batch apart.

The pairs are those of the whole global batch. Under jit over a mesh the rows of the
similarities stay where their pictures are: a device holds [B/devices,B] of them, gathers
the other side's embeddings [B,D] and shares sums [B], never the whole [B,B].
"""

import math

import jax
import jax.numpy as jnp

from cmaclip_jax.models.encoders import unit

LARGEST_SCALE = 100.0  # CLIP lets its scale grow no further


def softmax_losses(image, text, logit_scale, complete):
    """CLIP's symmetric loss [B] among the examples that have both picture and words.

    image, text: [B,D], any length. logit_scale: natural logarithm of the scale.
    complete: [B], the rows that take part.
    """
    logits = similarities(image, text, logit_scale)  # [B,B], a row a picture
    own = jnp.diagonal(logits)
    allowed = complete[:, None] & complete[None, :]
    logits = jnp.where(allowed, logits, jnp.finfo(logits.dtype).min / 2)
    by_image = jax.nn.logsumexp(logits, axis=1) - own
    by_text = jax.nn.logsumexp(logits, axis=0) - own
    return jnp.where(complete, (by_image + by_text) / 2, 0.0), complete


def sigmoid_losses(image, text, logit_scale, logit_bias, complete):
    """SigLIP's loss [B]: of every pair by itself, whether it belongs together."""
    logits = similarities(image, text, logit_scale) + logit_bias
    signs = 2 * jnp.eye(logits.shape[0]) - 1
    allowed = complete[:, None] & complete[None, :]
    losses = jnp.where(allowed, jax.nn.softplus(-signs * logits), 0.0)
    return jnp.sum(losses, axis=1), complete


def similarities(image, text, logit_scale):
    """Scaled cosines [B,B] in float32."""
    # Held in value alone: published weights stand at the limit and have to be able to leave it.
    held = jnp.minimum(logit_scale, math.log(LARGEST_SCALE))
    scale = jnp.exp(logit_scale + jax.lax.stop_gradient(held - logit_scale))
    return scale * jnp.einsum(
        "id,td->it", unit(image), unit(text), preferred_element_type=jnp.float32
    )
