"""Checks before a job, on every host.

Every host looks at its own machine and sends the result to all others. Then every host judges the
results of all hosts, so that all hosts come to the same finding. Looking and waiting for the
results of other hosts have time limits.
"""

import collections
import dataclasses
import hashlib
import json
import os
import platform
import queue
import threading
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cmaclip_jax.parallel.cluster import exchange, wait_for_all

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "libtpu", "cmaclip_jax")
CLOCKS_APART = 5.0  # seconds of difference that are allowed
SUMMED_BYTES = 16 * 2**20  # summed by each device
AGAIN = "read the output of that host, then start the doctor again on every host"
SKEW = 10.0  # seconds by which a host may start a check later than others
# Device files of accelerators in /dev, whether JAX uses them or not.
CHIPS = ("accel[0-9]*", "nvidia[0-9]*", "vfio/[0-9]*")


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result of a check; `do` says what helps if it is not good."""

    good: bool
    says: str
    do: str = ""


@dataclasses.dataclass(frozen=True)
class Check:
    """One check of all hosts.

    look: runs on every host, at most `seconds` long; its result goes to all hosts as JSON.
    judge: makes the finding from the results of all hosts, in the order of their numbers.
    do: what helps if `look` failed.
    """

    name: str
    look: Callable[[], Any]
    judge: Callable[[list], Finding]
    seconds: float = 60.0
    do: str = ""


def examine(checks: Sequence[Check], say: Callable[[str, Finding], None]) -> tuple[bool, bool]:
    """Runs the checks one after the other; returns (all are good, all were run).

    If a check takes too long on a host, or a host is lost, the checks after it are not run.
    """
    good = True
    for check in checks:
        end = time.monotonic() + check.seconds + SKEW
        own = json.dumps(_limited(check.look, check.seconds))
        texts = exchange(f"doctor/{check.name}", own, end - time.monotonic())
        results = [None if text is None else json.loads(text) for text in texts]
        finding = judged(check, results)
        say(check.name, finding)
        good = good and finding.good
        if any(result is None or "late" in result for result in results):
            return False, False
    return good, True


def judged(check: Check, results: list[dict | None]) -> Finding:
    """The finding of a check; if `look` failed on a host, a finding that says where and why."""
    count, failures = len(results), collections.defaultdict(list)
    for number, result in enumerate(results):
        if result is None:
            failures["did not answer in time: it has ended or hangs"].append(number)
        elif "fact" not in result:
            failures[result["failed"]].append(number)
    if not failures:
        return check.judge([result["fact"] for result in results])
    says = "; ".join(f"{hosts(numbers, count)}{why}" for why, numbers in failures.items())
    return Finding(False, says, AGAIN if None in results else check.do)


def hosts(numbers: Sequence[int], count: int) -> str:
    """The hosts of these numbers, as the start of a sentence."""
    if count == 1:
        return ""
    if len(numbers) == count:
        return "every host: "
    return f"host{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}: "


def _limited(look: Callable[[], Any], seconds: float) -> dict:
    """{'fact': what `look` returned}, or {'failed': why}, with 'late' if it took too long."""
    results: queue.SimpleQueue = queue.SimpleQueue()

    def work() -> None:
        try:
            results.put({"fact": look()})
        except Exception as error:  # of any kind: the other hosts need to know
            kind = "" if type(error).__name__ == "UserError" else f"{type(error).__name__}: "
            results.put({"failed": (kind + " ".join(str(error).split()))[:400]})

    threading.Thread(target=work, daemon=True).start()
    try:
        return results.get(timeout=seconds)
    except queue.Empty:
        return {"failed": f"not finished after {seconds:g} s", "late": True}


def host_checks(count: int) -> list[Check]:
    """The checks of any job, without disks and data."""
    several = [Check("clocks", _clock, judge_clocks)]
    return [
        Check("versions", versions, judge_versions),
        Check(
            "devices",
            _devices,
            judge_devices,
            180,
            "see that no other process holds the devices, and that the job was started on every "
            "host of the slice",
        ),
        Check(
            "sum over all",
            _sum_over_all,
            judge_sums,
            90,
            "the hosts reach process 0, but not one another: allow all TCP ports between them",
        ),
        *(several if count > 1 else []),
    ]


# ---- versions


def versions() -> dict[str, str]:
    """The versions of the software on this host."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "none"
    return found | {"source": source_hash(Path(__file__).parent.parent)}


def source_hash(folder: Path) -> str:
    """A short hash of all Python files in a folder: checkouts often differ between hosts."""
    digest = hashlib.blake2b(digest_size=4)
    for file in sorted(folder.rglob("*.py")):
        digest.update(str(file.relative_to(folder)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def judge_versions(facts: list[dict[str, str]]) -> Finding:
    """Good if all hosts have the same versions. Otherwise the most frequent one counts as right."""
    wrong, usual = [], {}
    for name in facts[0]:
        usual[name] = collections.Counter(fact[name] for fact in facts).most_common(1)[0][0]
        others = collections.defaultdict(list)
        for number, fact in enumerate(facts):
            if fact[name] != usual[name]:
                others[fact[name]].append(number)
        wrong += [
            f"{hosts(who, len(facts))}{name} {version}, elsewhere {usual[name]}"
            for version, who in others.items()
        ]
    if wrong:
        do = "install the same on every host (`pip install -e .` from the same checkout)"
        return Finding(False, "; ".join(wrong), do)
    said = ", ".join(f"{name} {value}" for name, value in usual.items() if value != "none")
    return Finding(True, said + (f"; on all {len(facts)} hosts" if len(facts) > 1 else ""))


# ---- devices


def _devices() -> dict:
    mine = jax.local_devices()
    chips = sum(len(list(Path("/dev").glob(pattern))) for pattern in CHIPS)
    idle = chips if mine[0].platform == "cpu" and not os.environ.get("JAX_PLATFORMS") else 0
    kind = mine[0].device_kind
    return {"number": len(mine), "kind": kind, "all": jax.device_count(), "idle": idle}


def judge_devices(facts: list[dict]) -> Finding:
    """Good if all hosts have equally many devices of one kind, and JAX uses the accelerators."""
    count, total = len(facts), facts[0]["all"]
    alike = collections.defaultdict(list)
    for number, fact in enumerate(facts):
        alike[f"{fact['number']} x {fact['kind']}"].append(number)
    said = f"{total} in all: "
    if len(alike) > 1:
        said += "; ".join(f"{hosts(who, count)}{what}" for what, who in alike.items())
        return Finding(False, said, "every host needs the same number and kind of devices")
    said += next(iter(alike)) + (f" on each of {count} hosts" if count > 1 else "")
    idle = [number for number, fact in enumerate(facts) if fact["idle"]]
    if idle:
        said += f"; {hosts(idle, count)}JAX does not use the accelerators in /dev"
        return Finding(
            False,
            said,
            "pip install 'cmaclip_jax[tpu]' (or [cuda]); to use the CPU, set JAX_PLATFORMS=cpu",
        )
    whole = total == sum(fact["number"] for fact in facts)
    return Finding(whole, said, "" if whole else "JAX sees devices of hosts that did not join")


def _sum_over_all() -> dict:
    """Sums an array over all devices; device k holds k+1 everywhere. Checks every element."""
    devices = jax.devices()
    count, width = len(devices), SUMMED_BYTES // 4
    mesh = Mesh(np.array(devices), "all")
    rows = NamedSharding(mesh, PartitionSpec("all"))
    parts = jax.make_array_from_callback(
        (count, width), rows, lambda at: np.full((1, width), (at[0].start or 0) + 1, np.float32)
    )  # [devices, width]
    add = jax.jit(lambda x: jnp.sum(x, axis=0), out_shardings=NamedSharding(mesh, PartitionSpec()))
    total = add(parts)  # [width]
    numbers = np.asarray(total.addressable_data(0))
    times = []
    for _ in range(3):
        start = time.perf_counter()
        add(parts).block_until_ready()
        times.append(time.perf_counter() - start)
    expected = count * (count + 1) / 2
    wrong = int((numbers != expected).sum())
    return {"wrong": wrong, "expected": expected, "devices": count, "seconds": min(times)}


def judge_sums(facts: list[dict]) -> Finding:
    """Good if every host has the exact sum."""
    wrong = [number for number, fact in enumerate(facts) if fact["wrong"]]
    slowest = max(fact["seconds"] for fact in facts)
    devices, expected = facts[0]["devices"], facts[0]["expected"]
    if wrong:
        said = f"{hosts(wrong, len(facts))}a sum over {devices} devices is not {expected:g}"
        return Finding(False, said, "do not train on these devices: replace them")
    said = f"{expected:g} from {devices} device(s), exact; {SUMMED_BYTES >> 20} MiB of each in "
    said += f"{slowest * 1e3:.1f} ms"
    if devices > 1:  # an all-reduce sends and receives (N-1)/N of the array, twice
        sent = 2 * (devices - 1) / devices * SUMMED_BYTES
        said += f", so {sent / slowest / 1e9:.2g} GB/s a device"
    return Finding(True, said)


# ---- clocks


def _clock() -> float:
    wait_for_all("the clocks are read")
    return time.time()


def judge_clocks(facts: list[float]) -> Finding:
    """Good if the clocks differ by at most `CLOCKS_APART` seconds."""
    middle = sorted(facts)[len(facts) // 2]
    apart = max(facts) - min(facts)
    if apart <= CLOCKS_APART:
        return Finding(True, f"at most {apart:.2f} s apart")
    wrong = [f"host {k} by {t - middle:+.0f} s" for k, t in enumerate(facts)]
    wrong = [text for text, t in zip(wrong, facts, strict=True) if abs(t - middle) > CLOCKS_APART]
    return Finding(False, f"{apart:.0f} s apart: {', '.join(wrong)}", "turn on NTP (chrony) there")
