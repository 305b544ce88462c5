"""Flax's dense layers, but with products in bfloat16 that a CPU has to be asked for.

XLA for CPUs widens both operands of a product whose result is bfloat16, and computes in float32.
Where the operands alone are bfloat16, it has a kernel that takes them as they are and sums in
float32, as accelerators do. So on a CPU the result is asked for in float32 and rounded here,
forward and backward.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

PRODUCT = "product"  # by which a policy of what to keep knows those that are asked for


def product(x, weight, dimension_numbers, precision=None):
    """`lax.dot_general` of activations with weights; see the module's docstring."""
    assert precision is None
    (x_axes, weight_axes), batch = dimension_numbers
    both = {jnp.dtype(x.dtype), jnp.dtype(weight.dtype)}
    if both != {jnp.dtype(jnp.bfloat16)} or not _on_cpu():
        return lax.dot_general(x, weight, dimension_numbers)
    axes = len(x_axes)
    assert tuple(x_axes) == tuple(range(x.ndim - axes, x.ndim))
    assert tuple(weight_axes) == tuple(range(axes))
    assert not any(batch)
    return checkpoint_name(_product(axes, *_varying_alike(x, weight)), PRODUCT)


def _varying_alike(x, weight):
    """Both operands, varying over the same mesh axes where `shard_map` runs them.

    Weights are mostly the same on all devices. Marked as varying, they get a gradient that JAX
    sums over the devices; a custom gradient rule has to say so itself.
    """
    axes = jax.typeof(x).mat.varying | jax.typeof(weight).mat.varying

    def marked(array):
        missing = tuple(axes - jax.typeof(array).mat.varying)
        return lax.pcast(array, missing, to="varying") if missing else array

    return marked(x), marked(weight)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(axes: int, x, weight):
    """The last `axes` axes of `x` with the first of `weight`."""
    return _rounded(x, weight, range(x.ndim - axes, x.ndim), range(axes))


def _forward(axes: int, x, weight):
    return _product(axes, x, weight), (x, weight)


def _backward(axes: int, operands, gradient):
    x, weight = operands
    rows = range(x.ndim - axes)
    features = range(axes, weight.ndim)
    of_x = _rounded(gradient, weight, range(len(rows), gradient.ndim), features)
    return of_x, _rounded(x, gradient, rows, rows)


_product.defvjp(_forward, _backward)

Dense = functools.partial(nn.Dense, dot_general=product)
DenseGeneral = functools.partial(nn.DenseGeneral, dot_general=product)


def _rounded(a, b, a_axes, b_axes):
    """The product over these axes, summed in float32."""
    axes = (tuple(a_axes), tuple(b_axes))
    summed = lax.dot_general(a, b, (axes, ((), ())), preferred_element_type=jnp.float32)
    return summed.astype(a.dtype)


def _on_cpu() -> bool:
    """Whether what is traced now is for a CPU: that of the mesh, or, without one, what is here."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return (device.platform if device else jax.default_backend()) == "cpu"
