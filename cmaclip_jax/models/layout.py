"""Where activations lie on a mesh of devices, for models that know of no mesh."""

import jax
from jax.sharding import PartitionSpec

ROWS = PartitionSpec(("data", "fsdp"))  # the first axis over all devices of both


def hold_rows(x):
    """x [B,...] laid out as the batch is, in a function that is traced under a mesh.

    Left to itself, XLA splits what lies between layers as `fsdp` splits their parameters: every
    device then computes on everybody's rows, and sends activations around instead of parameters.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, ROWS)
