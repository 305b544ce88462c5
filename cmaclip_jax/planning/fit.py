"""The fastest way found to make a run fit: other layouts, recomputing, parts, larger batches."""

from collections.abc import Callable, Iterator, Sequence

from ml_collections import ConfigDict

from cmaclip_jax.errors import UserError
from cmaclip_jax.parallel.topology import Topology
from cmaclip_jax.planning.run import PlannedRun, plan_run, unrolled_flops
from cmaclip_jax.planning.verdict import Verdict, judge, state_parts
from cmaclip_jax.tasks import Task

REMATS = ("none", "dots", "full")
GAIN = 1.05  # a batch of twice the size has to be faster by this factor, or it stays
FIELDS = ("train.batch_size", "train.accumulate", "model.remat", "mesh.fsdp", "mesh.tensor")


def fit(
    config: ConfigDict, tasks: Sequence[Task], topology: Topology, say: Callable[[str], None]
) -> Verdict:
    """The fastest verdict found that fits.

    Of every layout the first way that fits, from what costs least to what costs most: nothing
    recomputed, some, all, and then the batch in ever more parts. The fastest of these then takes
    twice the batch, as long as that fits and pays.

    Raises:
      UserError: nothing fits.
    """
    search = _Search(config, tasks, topology, say)
    found = [search.first(changes) for changes in layouts(topology)]
    best = _fastest(found)
    if best is None:
        raise UserError(
            f"nothing found that fits {topology}: not with parameters over all chips, everything "
            "recomputed and one pair a chip at once; use more chips or chips with more memory"
        )
    while True:
        size = 2 * best.settings.batch_size
        larger = search.first(changes_from(best.run.config) | {"train.batch_size": size}, parts=1)
        if larger is None or larger.examples_per_second < GAIN * best.examples_per_second:
            return best
        best = larger


def layouts(topology: Topology) -> Iterator[dict[str, int]]:
    """Fields of the mesh: everything everywhere, parameters split over a slice, or tensors too."""
    chips = len(topology.devices) // topology.slices
    yield {"mesh.data": -1, "mesh.fsdp": 1, "mesh.tensor": 1}
    sizes = [size for size in (8, chips) if 1 < size <= chips and chips % size == 0]
    for size in dict.fromkeys(sizes):
        yield {"mesh.data": -1, "mesh.fsdp": size, "mesh.tensor": 1}
    if chips % 4 == 0 and chips > 4:
        yield {"mesh.data": -1, "mesh.fsdp": chips // 4, "mesh.tensor": 4}


def changes_from(config: ConfigDict) -> dict:
    """The fields that a fit sets, as they are."""
    flat = {name: config[name.split(".")[0]][name.split(".")[1]] for name in FIELDS}
    return {"mesh.data": -1} | flat


class _Search:
    """Judges changed configs, and remembers how much arithmetic each way of recomputing takes."""

    def __init__(self, config, tasks, topology, say):
        self._config, self._tasks, self._topology, self._say = config, tasks, topology, say
        self._flops: dict[tuple, float] = {}

    def first(self, changes: dict, parts: int = 0) -> Verdict | None:
        """The first way of recomputing and of dividing the batch that fits with these changes.

        parts: how many parts at most; 0: as many as there are pairs a chip.
        """
        for remat, accumulate in self._ways(changes, parts):
            changed = self._changed(
                {**changes, "model.remat": remat, "train.accumulate": accumulate}
            )
            try:
                run = plan_run(changed, self._tasks, self._topology.devices)
            except UserError:  # heads or batch do not divide so
                return None
            if sum(state_parts(run).values()) > self._topology.chip.memory:
                self._say(f"{describe(run)}: the parameters alone are too large")
                return None
            verdict = judge(run, self._topology, self._counted(run), evaluation=False)
            if verdict.fits:
                self._say(f"{describe(run)}: {verdict.examples_per_second:,.0f} examples/s")
                return verdict
            self._say(f"{describe(run)}: does not fit")
        return None

    def _ways(self, changes: dict, parts: int) -> Iterator[tuple[str, int]]:
        fewest = changes.get("train.accumulate", 1)
        yield from ((remat, fewest) for remat in REMATS)
        batch = changes.get("train.batch_size", self._config.train.batch_size)
        spread = len(self._topology.devices) // changes.get("mesh.tensor", 1)
        accumulate = 2 * fewest
        while accumulate <= (parts or batch // spread):
            yield "full", accumulate
            accumulate *= 2

    def _changed(self, changes: dict) -> ConfigDict:
        config = self._config.copy_and_resolve_references()
        config.update_from_flattened_dict(changes)
        return config

    def _counted(self, run: PlannedRun) -> float:
        """Operations of a step; they grow with the batch and do not depend on the layout."""
        key = run.config.model.remat
        size = run.config.train.batch_size
        if key not in self._flops:
            self._flops[key] = unrolled_flops(run.config, self._tasks) / size
        return self._flops[key] * size


def describe(run: PlannedRun) -> str:
    """What is tried, as flags."""
    return " ".join(f"--config.{name}={value}" for name, value in changes_from(run.config).items())


def _fastest(verdicts: Sequence[Verdict | None]) -> Verdict | None:
    found = [verdict for verdict in verdicts if verdict is not None]
    return max(found, key=lambda verdict: verdict.examples_per_second, default=None)
