"""The layout of activations on a mesh of devices. The models themselves know of no mesh."""

import jax
from jax.sharding import PartitionSpec

ROWS = PartitionSpec(("data", "fsdp"))  # splits the first axis over both mesh axes


def hold_rows(x):
    """x [B,...] with the layout of the batch, in a function that is traced under a mesh.

    Without this constraint, XLA splits activations along the axis that `fsdp` splits in the
    parameters. Every device then computes on all rows, and sends activations instead of parameters.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, ROWS)
