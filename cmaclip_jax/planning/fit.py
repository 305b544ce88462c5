"""A search for the fastest settings that fit: layout, recomputation, accumulation, batch size."""

import time
from collections.abc import Callable, Iterator, Sequence

from ml_collections import ConfigDict

from cmaclip_jax.config import with_changes
from cmaclip_jax.errors import DoesNotDivide, UserError
from cmaclip_jax.planning.estimate import Estimate
from cmaclip_jax.planning.run import Operations, PlannedRun, plan_run, unrolled_flops
from cmaclip_jax.planning.topology import Topology
from cmaclip_jax.planning.verdict import Verdict, judge, state_parts, with_evaluation
from cmaclip_jax.tasks import Task

REMATS = ("none", "dots", "full")
GAIN = 1.05  # the batch is doubled only if that is faster by this factor
FIELDS = ("train.batch_size", "train.steps", "train.accumulate", "model.remat")
FIELDS += ("mesh.data", "mesh.fsdp", "mesh.tensor", "eval.batch_size")
GIBIBYTE = 2**30


def fit(
    config: ConfigDict, tasks: Sequence[Task], topology: Topology, say: Callable[[str], None]
) -> Verdict:
    """The fastest verdict found that fits.

    Layouts are tried in the order of the bytes that they send, least first. For each layout the
    search takes the first of these that fits: no recomputation, some, all, then the batch in more
    and more parts. A layout that fits without recomputation ends the search, since no later layout
    can be faster. Then the batch is doubled, and the steps halved, while that fits and is faster.

    Raises:
      UserError: nothing fits, or the config itself is wrong, whatever the layout.
    """
    search, found = _Search(config, tasks, topology, say), []
    for changes in layouts(topology):
        verdict = search.first(changes)
        if verdict is not None:
            found.append(verdict)
            if verdict.run.config.model.remat == "none" and verdict.settings.accumulate == 1:
                break
    if not found:
        raise UserError(
            f"nothing found that fits {topology}: not with parameters over all chips, everything "
            "recomputed and one pair a chip at once; use more chips or chips with more memory"
        )
    best = max(found, key=lambda verdict: verdict.examples_per_second)
    while _could_gain(best):
        larger = search.first(_twice(best), parts=1)
        if larger is None or larger.examples_per_second < GAIN * best.examples_per_second:
            break
        best = larger
    best = search.evaluated(best)
    say(f"{search.compiled} steps compiled. The fastest found that fits; paste:\n{flags(best.run)}")
    if best.settings.batch_size != config.train.batch_size:
        say("The batch has grown, and the steps shrunk to see as many pairs: check the rate.")
    return best


def layouts(topology: Topology) -> Iterator[dict[str, int]]:
    """Mesh fields: data parallel, then parameters sharded over a slice, then tensors as well."""
    chips = len(topology.devices) // topology.slices
    yield {"mesh.data": -1, "mesh.fsdp": 1, "mesh.tensor": 1}
    sizes = [size for size in (8, chips) if 1 < size <= chips and chips % size == 0]
    for size in dict.fromkeys(sizes):
        yield {"mesh.data": -1, "mesh.fsdp": size, "mesh.tensor": 1}
    if chips % 4 == 0 and chips > 4:
        yield {"mesh.data": -1, "mesh.fsdp": chips // 4, "mesh.tensor": 4}


def flags(run: PlannedRun) -> str:
    """The fields that a fit sets, as flags of any command."""
    return " ".join(f"--config.{name}={value}" for name, value in _set_fields(run).items())


def describe(run: PlannedRun) -> str:
    """The settings of a run, in words."""
    settings, mesh = run.config.train, "x".join(str(size) for size in run.mesh.shape.values())
    parts = f" in {settings.accumulate} parts" if settings.accumulate > 1 else ""
    remat = run.config.model.remat
    return f"mesh {mesh}, {settings.batch_size:,} pairs{parts}, remat {remat}"


def _set_fields(run: PlannedRun) -> dict:
    fields = {name: run.config[name.split(".")[0]][name.split(".")[1]] for name in FIELDS}
    return fields | {"mesh.data": -1}


def _could_gain(best: Verdict) -> bool:
    """Whether twice the batch could be faster, if only the arithmetic grew with it."""
    times = best.times
    least = max(2 * times.arithmetic, times.memory) + times.link + times.network
    return 2 * times.step >= GAIN * least


def _twice(best: Verdict) -> dict:
    settings = best.settings
    changes = {"train.batch_size": 2 * settings.batch_size, "train.steps": -(-settings.steps // 2)}
    return _set_fields(best.run) | changes


class _Search:
    """Judges changed configs; keeps counts and estimates, and compiles only what may fit."""

    def __init__(self, config, tasks, topology, say):
        self._config, self._tasks, self._topology, self._say = config, tasks, topology, say
        self._operations: dict[str, float] = {}
        self._estimate = Estimate()
        self.compiled = 0

    def first(self, changes: dict, parts: int = 0) -> Verdict | None:
        """The first remat and number of parts with which these changes fit.

        parts: how many parts at most; 0: as many as there are pairs a chip.
        """
        for remat, accumulate in self._ways(changes, parts):
            changed = with_changes(
                self._config, {**changes, "model.remat": remat, "train.accumulate": accumulate}
            )
            try:
                run = plan_run(changed, self._tasks, self._topology.devices)
            except DoesNotDivide as error:
                self._say(f"not compiled: {error}")
                return None
            state, memory = sum(state_parts(run).values()), self._topology.chip.memory
            if state > memory:
                self._say(f"not compiled: {describe(run)}: {_of(state, memory)} for parameters")
                return None
            if self._estimate.rules_out(run, state, memory):
                needs = self._estimate.needs(run, state)
                self._say(f"not compiled: {describe(run)}: about {_of(needs, memory)}")
                continue
            verdict = self._judged(run)
            if verdict.fits:
                return verdict
        return None

    def evaluated(self, verdict: Verdict) -> Verdict:
        """The verdict with an evaluation step that fits, in smaller batches if need be."""
        while True:
            self._say("compiling its evaluation step ...")
            self.compiled += 1
            judged = with_evaluation(verdict)
            half = verdict.run.config.eval.batch_size // 2
            if judged.fits:
                return judged
            changed = with_changes(
                self._config, _set_fields(verdict.run) | {"eval.batch_size": half}
            )
            run = plan_run(changed, self._tasks, self._topology.devices)
            verdict = Verdict(run, self._topology, verdict.operations, verdict.train, None)

    def _judged(self, run: PlannedRun) -> Verdict:
        self.compiled += 1
        self._say(f"compiling {self.compiled}: {describe(run)} ...")
        started = time.monotonic()
        verdict = judge(run, self._topology, self._counted(run), evaluation=False)
        self._estimate.learn(run, verdict.train)
        seconds = f"({time.monotonic() - started:.0f} s)"
        if not verdict.fits:
            needs = _of(verdict.train.needed, verdict.train.available)
            self._say(f"  does not fit: {needs} {seconds}")
        else:
            needs = _of(verdict.train.memory.total, self._topology.chip.memory)
            self._say(f"  fits: {needs}, {verdict.examples_per_second:,.0f} pairs/s {seconds}")
        return verdict

    def _ways(self, changes: dict, parts: int) -> Iterator[tuple[str, int]]:
        fewest = changes.get("train.accumulate", 1)
        yield from ((remat, fewest) for remat in REMATS)
        batch = changes.get("train.batch_size", self._config.train.batch_size)
        spread = len(self._topology.devices) // changes.get("mesh.tensor", 1)
        accumulate = 2 * fewest
        while accumulate <= (parts or batch // spread):
            yield "full", accumulate
            accumulate *= 2

    def _counted(self, run: PlannedRun) -> Operations:
        """Operations of a step; they grow with the batch and do not depend on the layout."""
        remat, size = run.config.model.remat, run.config.train.batch_size
        for way in ("none", remat):
            if way not in self._operations:
                changed = with_changes(run.config, {"model.remat": way})
                self._operations[way] = unrolled_flops(changed, self._tasks) / size
        return Operations(*(self._operations[way] * size for way in ("none", remat)))


def _of(needs: float, memory: float) -> str:
    return f"{needs / GIBIBYTE:.1f} of {memory / GIBIBYTE:.1f} GiB"
