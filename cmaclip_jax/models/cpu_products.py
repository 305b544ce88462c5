"""A workaround for CPUs: Flax's dense layers with fast bfloat16 products.

XLA for CPUs converts both bfloat16 operands of a product to float32 if the result is bfloat16. The
product then runs at float32 speed: 191 GFLOP/s for 800 x 768 by 768 x 3072 on two cores of an AMD
EPYC. If the result is float32, XLA uses a kernel that takes bfloat16 operands and sums in float32:
387 GFLOP/s. So on a CPU, `product` requests a float32 result and rounds it to bfloat16, forward
and backward. A training step then takes 0.67 of its time in float32. Accelerators sum bfloat16
products in float32 anyway; for them, and for float32, `product` is `lax.dot_general`.
(tests/benchmarks/RESULTS.md has the measurements.)
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

PRODUCT = "product"  # the checkpoint name by which a remat policy can keep these products


def product(x, weight, dimension_numbers, precision=None):
    """`lax.dot_general` of activations with weights; see the module's docstring."""
    assert precision is None
    (x_axes, weight_axes), batch = dimension_numbers
    dtypes = {jnp.dtype(x.dtype), jnp.dtype(weight.dtype)}
    if dtypes != {jnp.dtype(jnp.bfloat16)} or not _on_cpu():
        return lax.dot_general(x, weight, dimension_numbers)
    axes = len(x_axes)
    assert tuple(x_axes) == tuple(range(x.ndim - axes, x.ndim))
    assert tuple(weight_axes) == tuple(range(axes))
    assert not any(batch)
    return checkpoint_name(_product(axes, *_varying_alike(x, weight)), PRODUCT)


def _varying_alike(x, weight):
    """Both operands, marked as varying over the same mesh axes inside `shard_map`.

    Weights are usually the same on all devices. JAX sums the gradient of an operand over the
    devices if the operand is marked as varying; a custom gradient rule has to mark it itself.
    """
    axes = jax.typeof(x).mat.varying | jax.typeof(weight).mat.varying

    def marked(array):
        missing = tuple(axes - jax.typeof(array).mat.varying)
        return lax.pcast(array, missing, to="varying") if missing else array

    return marked(x), marked(weight)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(axes: int, x, weight):
    """Contracts the last `axes` axes of `x` with the first `axes` of `weight`."""
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
    """The product over these axes, summed in float32 and rounded to the type of `a`."""
    axes = (tuple(a_axes), tuple(b_axes))
    summed = lax.dot_general(a, b, (axes, ((), ())), preferred_element_type=jnp.float32)
    return summed.astype(a.dtype)


def _on_cpu() -> bool:
    """Whether the traced function will run on a CPU: the mesh's platform, or JAX's default."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return (device.platform if device else jax.default_backend()) == "cpu"
