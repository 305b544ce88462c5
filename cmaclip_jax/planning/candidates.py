"""The configs and topologies that one plan compares, and the verdict on each of them."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from ml_collections import ConfigDict

from cmaclip_jax.config import with_changes
from cmaclip_jax.config_arguments import with_overrides
from cmaclip_jax.errors import UserError
from cmaclip_jax.planning import text
from cmaclip_jax.planning.fit import fit
from cmaclip_jax.planning.run import Operations, count_operations, plan_run
from cmaclip_jax.planning.topology import Topology, open_topology
from cmaclip_jax.planning.verdict import Verdict, judge
from cmaclip_jax.runs.assembly import checked_mesh
from cmaclip_jax.tasks import Task


class Candidate(NamedTuple):
    """One config on one topology; `label` names its size in the table."""

    label: str
    config: ConfigDict
    topology: Topology


def candidates(
    config: ConfigDict, name: str, topologies: str, slices: int, sizes: str, pairs_per_chip: int
) -> list[Candidate]:
    """Every size on every topology; both are lists divided by commas.

    name: the label of a config whose size is not changed.
    pairs_per_chip: pairs of a batch for each chip; 0 keeps the batch of the config.

    Raises:
      UserError: a batch does not divide over its mesh. Nothing has been compiled then.
    """
    opened = [open_topology(topology, slices) for topology in topologies.split(",")]
    compared = [
        Candidate(
            entry.split(":")[0] or name, _with_batch(sized, topology, pairs_per_chip), topology
        )
        for entry in sizes.split(",")
        for sized in [with_size(config, entry)]
        for topology in opened
    ]
    for label, changed, topology in compared:
        try:
            checked_mesh(changed, topology.devices)
        except UserError as error:
            raise UserError(f"{label} on {topology}: {error}") from error
    return compared


def verdicts(
    compared: Sequence[Candidate], tasks: Sequence[Task], search: bool, say: Callable[[str], None]
) -> Iterator[tuple[str, Verdict]]:
    """(label, verdict) of every candidate, or of the fastest variant of it that `fit` finds.

    search: whether to ask `fit`.
    """
    operations: dict[str, Operations] = {}  # by config: they do not depend on the topology
    for number, (label, config, topology) in enumerate(compared, 1):
        say(f"{number} of {len(compared)}: compiling {label} for {topology}, a minute or two ...")
        started = time.monotonic()
        if search:
            verdict = fit(config, tasks, topology, say)
        else:
            run = plan_run(config, tasks, topology.devices)
            if str(config) not in operations:
                operations[str(config)] = count_operations(config, tasks)
            verdict = judge(run, topology, operations[str(config)])
        say(f"  {text.in_short(verdict)} ({time.monotonic() - started:.0f} s)")
        yield label, verdict


def with_size(config: ConfigDict, entry: str) -> ConfigDict:
    """The config with encoders of another size and with the entry's fields: 'H/14:mesh.fsdp=4'."""
    size, *fields = entry.split(":")
    if any("=" not in field for field in fields):
        raise UserError(f"--sizes={entry}: write SIZE:FIELD=VALUE, as H/14:mesh.fsdp=4")
    config = with_overrides(config, [f"--config.{field}" for field in fields])
    if size:
        config.model.image = config.model.text = size
        config.model.pretrained = config.model.pretrained and "a CLIP of that size"
    return config


def _with_batch(config: ConfigDict, topology: Topology, pairs_per_chip: int) -> ConfigDict:
    """The config with so many pairs for each chip, and with steps for as many pairs in all."""
    if not pairs_per_chip:
        return config
    batch_size = pairs_per_chip * len(topology.devices)
    steps = -(-config.train.steps * config.train.batch_size // batch_size)
    changes = dict.fromkeys(("train.batch_size", "eval.batch_size"), batch_size)
    return with_changes(config, changes | {"train.steps": steps})
