"""A workaround for CPUs: gradient clipping and Adam in one pass over memory.

XLA for CPUs writes to memory, and reads again, every intermediate array that two results share.
As Optax writes it, Adam passes three times through memory: 0.55 s for 148 million numbers on two
cores of an AMD EPYC. Here the step and the two moments share nothing, so that XLA computes all
three in one pass: 0.12 s. This needs XLA's multi-output fusion, which `cmaclip_jax/process.py`
switches on; without it the update takes 0.74 s. (tests/benchmarks/RESULTS.md has the measurements.)
"""

import jax
import jax.numpy as jnp
import optax


def clipped_adam(clip: float, b1: float, b2: float, epsilon: float) -> optax.GradientTransformation:
    """`optax.clip_by_global_norm`, unless `clip` is 0, and then `optax.scale_by_adam`.

    Numbers and state are the same as Optax's. Every parameter's step and moments are read from
    four arrays and written to three.
    """
    limit = optax.clip_by_global_norm(clip) if clip else optax.identity()
    init = optax.chain(limit, optax.scale_by_adam(b1, b2, epsilon)).init

    def update(gradients, state, params=None):
        del params
        limited, adam = state
        count = optax.safe_increment(adam.count)
        scale = _clipping(gradients, clip)
        first, second = (1 - decay**count for decay in (b1, b2))

        def mean_of(gradient, mean):
            return b1 * mean + gradient * ((1 - b1) * scale)

        def square_of(gradient, square):
            clipped = gradient * scale
            return b2 * square + (1 - b2) * (clipped * clipped)

        def direction(*moments):
            gradient, mean, square = _separate(*moments)
            root = jnp.sqrt(square_of(gradient, square) / second)
            return mean_of(gradient, mean) / first / (root + epsilon)

        new = optax.ScaleByAdamState(
            count=count,
            mu=jax.tree.map(mean_of, gradients, adam.mu),
            nu=jax.tree.map(square_of, gradients, adam.nu),
        )
        return jax.tree.map(direction, gradients, adam.mu, adam.nu), (limited, new)

    return optax.GradientTransformation(init, update)


def _clipping(gradients, clip: float):
    """The factor by which clipping scales all gradients."""
    if not clip:
        return 1.0
    norm = optax.global_norm(gradients)
    return jnp.where(norm < clip, 1.0, clip / norm)


def _separate(*arrays):
    """The same arrays; on a CPU, XLA does not share what is computed from them with other results.

    It would otherwise recognise equal expressions and compute them once, through memory.
    """
    return jax.lax.platform_dependent(
        *arrays, cpu=lambda *same: jax.lax.optimization_barrier(same), default=lambda *same: same
    )
