"""The checks of `cmaclip doctor`, in order: the hosts, then what a config needs."""

import functools
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import jax

from cmaclip_jax.data.bad_records import BadRecords
from cmaclip_jax.data.sources import open_sources
from cmaclip_jax.doctor.hosts import Check, Finding, host_checks, hosts
from cmaclip_jax.doctor.samples import digest, read_some
from cmaclip_jax.doctor.shared_folder import SharedFolder
from cmaclip_jax.errors import UserError
from cmaclip_jax.planning.run import plan_run
from cmaclip_jax.runs.assembly import checked_mesh
from cmaclip_jax.runs.towers import open_towers, with_sizes
from cmaclip_jax.tasks import Task, select_tasks
from cmaclip_jax.weights.description import DESCRIPTION

RECORDS = 16  # how many records of every split are read
GIBIBYTE = 2**30
SPARE = GIBIBYTE  # bytes that should stay free in /tmp and in memory


def all_checks(config, workdir: str | None, count: int) -> tuple[list[Check], Callable[[], None]]:
    """The checks in their order, and the function that removes their files."""
    checks, folder = host_checks(count), None
    needs = RunNeeds(config, workdir, count)
    if config is not None:
        after = [check.name for check in checks].index("devices") + 1
        checks.insert(after, Check("mesh", needs.mesh, judge_mesh))
    if workdir:
        folder = SharedFolder(workdir, count)
        checks += folder.checks()
    if config is not None:
        checks += needs.checks()
    checks.append(Check("room", needs.room, judge_room))
    return checks, folder.clear if folder else lambda: None


class RunNeeds:
    """The checks of what a config needs.

    Some checks store what later ones use: the tasks, and the size of a checkpoint.
    """

    def __init__(self, config, workdir: str | None, count: int):
        self._config, self._workdir, self._count = config, workdir, count
        self._tasks: tuple[Task, ...] | None = None  # set by `data`
        self._state_bytes = 0

    def checks(self) -> list[Check]:
        """Weights, data and model."""
        weights = Check("weights", self.weights, lambda facts: Finding(True, facts[0]), 600)
        return [
            *([weights] if self._config.model.pretrained else []),
            Check("data", self.data, judge_data, 300, "check data.source and data.path"),
            Check("model", self.model, lambda facts: Finding(True, facts[0]), 180),
        ]

    def mesh(self) -> dict[str, str]:
        """Makes the mesh and divides the batches over it; adds a hash of the config."""
        train, evaluation = self._config.train, self._config.eval
        mesh = checked_mesh(self._config)
        sizes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
        batches = f"batches of {train.batch_size} (training) and {evaluation.batch_size} divide"
        return {
            "says": f"{sizes}; {batches}",
            "config": digest([self._config.to_json_best_effort()]),
        }

    def weights(self) -> str:
        """Reads the pretrained weights."""
        towers = self._towers
        size = f"{towers.image.width}/{towers.text.width} wide"
        return f"{self._config.model.pretrained}: encoders {size}"

    def data(self) -> dict:
        """Opens the data and reads a few records of every split."""
        fields = with_sizes(self._config, self._towers).data
        opened = open_sources(fields, BadRecords(None, fields.on_error, fields.max_bad))
        sources = {split: source for split, source in opened.items() if len(source)}
        for name, split in (("data.split", fields.split), ("eval.split", self._config.eval.split)):
            if split and split not in sources:
                raise UserError(f"{name}={split!r}: this data has only {', '.join(sources)}")
        self._tasks = select_tasks(sources[fields.split].tasks, self._config.data.labels)
        names, wrong = [], []
        for split, source in sources.items():
            ids, bad = read_some(source, RECORDS)
            names += ids
            wrong += [f"{split} {reason}" for reason in bad]
        return {
            "sizes": {split: len(source) for split, source in sources.items()},
            "read": len(names),
            "wrong": wrong[:3],
            "bad": len(wrong),
            "most": self._config.data.max_bad,
            "digest": digest(names),
        }

    def model(self) -> str:
        """Builds the model without numbers, and computes the size of a checkpoint."""
        if self._tasks is None:
            raise UserError("not checked: it needs the tasks, and the data could not be read")
        planned = plan_run(self._config, self._tasks, jax.devices(), self._towers)
        leaves = jax.tree.leaves(planned.state_shapes)
        self._state_bytes = sum(math.prod(x.shape) * x.dtype.itemsize for x in leaves)
        numbers = sum(math.prod(x.shape) for x in jax.tree.leaves(planned.parameter_shapes))
        return f"{numbers:,} parameters; a checkpoint takes {_size(self._state_bytes)}"

    def room(self) -> dict:
        """The bytes that are free on this host, and the bytes that the run will need."""
        config, keep = self._config, 1  # a checkpoint while it is written
        if config is not None:
            keep += config.checkpoint.keep + max(config.eval.soup, 1)
        disk, written = None, 0
        if self._workdir:
            folder = Path(self._workdir).absolute()
            written = sum(path.name.isdigit() for path in folder.glob("checkpoints/*"))
            there = next(path for path in (folder, *folder.parents) if path.exists())
            disk = shutil.disk_usage(there).free
        more = max(keep - written, 1)
        return {
            "workdir": disk,
            "workdir_needs": more * self._state_bytes,
            "/tmp": shutil.disk_usage("/tmp").free,
            "/tmp_needs": SPARE,
            "memory": _free_memory(),
            "memory_needs": SPARE + self._state_bytes // self._count,
        }

    @functools.cached_property
    def _towers(self):
        """The towers of the run. A run that is continued has their description in its folder."""
        kept = self._workdir and (Path(self._workdir) / DESCRIPTION).exists()
        return open_towers(self._config, Path(self._workdir) if kept else None)


def judge_mesh(facts: list[dict[str, str]]) -> Finding:
    """Good if all hosts have the same config."""
    others = [k for k, fact in enumerate(facts) if fact["config"] != facts[0]["config"]]
    if others:
        said = f"{hosts(others, len(facts))}another config than on host 0"
        return Finding(False, said, "give every host the same --config and --config.FIELD=VALUE")
    return Finding(True, facts[0]["says"])


def judge_data(facts: list[dict]) -> Finding:
    """Good if every host reads the same data, and few records are bad."""
    count = len(facts)
    sizes = ", ".join(f"{size:,} {split}" for split, size in facts[0]["sizes"].items())
    same = [(fact["sizes"], fact["digest"]) for fact in facts]
    others = [number for number, seen in enumerate(same) if seen != same[0]]
    if others:
        said = f"{hosts(others, count)}other data than on host 0, which has {sizes}"
        return Finding(False, said, "give every host the same files under data.path")
    read, bad = sum(fact["read"] for fact in facts), sum(fact["bad"] for fact in facts)
    said = f"{sizes}; {bad} of {read} records read on {count} host(s) are bad"
    if not bad:
        return Finding(True, said)
    number, first = next((k, fact) for k, fact in enumerate(facts) if fact["bad"])
    said += f", for example {hosts([number], count)}{first['wrong'][0]}"
    worst = max(fact["bad"] / max(fact["read"], 1) for fact in facts)
    do = f"more than data.max_bad={first['most']:g} allows: repair the data or raise the limit"
    return Finding(worst <= first["most"], said, do)


def judge_room(facts: list[dict]) -> Finding:
    """Good if every host has the room that the run needs."""
    said, short = [], []
    for name, do in (
        ("workdir", "make room, or keep fewer checkpoints with checkpoint.keep"),
        ("/tmp", "delete files there"),
        ("memory", "end other programs there"),
    ):
        free = [fact[name] for fact in facts]
        if None in free:
            continue
        need = facts[0][f"{name}_needs"]
        said.append(f"{name} {_size(min(free))} free" + (f" of {_size(need)} needed" * bool(need)))
        low = [number for number, size in enumerate(free) if size < need]
        if low:
            short.append(f"{hosts(low, len(facts))}too little in {name}; {do}")
    return Finding(not short, ", ".join(said), "; ".join(short))


def _free_memory() -> int | None:
    """The memory in bytes that a new process could use; None if the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


def _size(number: int) -> str:
    return f"{number / GIBIBYTE:.1f} GiB" if number >= GIBIBYTE else f"{number / 2**20:.1f} MiB"
