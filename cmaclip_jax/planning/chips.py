"""Published figures of accelerator chips."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """
    kind: what JAX calls a device of it.
    flops: operations a second of bfloat16 matrix products.
    memory, bandwidth: bytes of HBM, and how many of them a second can be read or written.
    link, network: bytes a second to the chips of its own slice, and to other slices.
    network_note: shown beside the network's rate.
    """

    name: str
    kind: str
    flops: float
    memory: float
    bandwidth: float
    link: float
    network: float
    network_note: str = ""


GIGABIT, GIBIBYTE = 1e9 / 8, 2**30

V5PS = "(v5p's)"
# cloud.google.com/tpu/docs, "Key chip specifications" of each version; `network` is the data
# center bandwidth of a full pod over its chips. None is published for v4: v5p's is taken.
TPUS = {
    chip.name: chip
    for chip in (
        Chip("v4", "TPU v4", 275e12, 32 * GIBIBYTE, 1228e9, 2400 * GIGABIT, 50 * GIGABIT, V5PS),
        Chip("v5e", "TPU v5 lite", 197e12, 16 * GIBIBYTE, 819e9, 1600 * GIGABIT, 25 * GIGABIT),
        Chip("v5p", "TPU v5", 459e12, 95 * GIBIBYTE, 2765e9, 4800 * GIGABIT, 50 * GIGABIT),
        Chip("v6e", "TPU v6 lite", 918e12, 32 * GIBIBYTE, 1640e9, 3584 * GIGABIT, 100 * GIGABIT),
    )
}
