"""Checks before a job: what every host sees for itself, and what that means for all of them.

A check looks on every host and is judged from what all of them saw, by every host alike; so all
of them come to the same end. Looking has a limit, and so has waiting for what others saw.
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
CLOCKS_APART = 5.0  # seconds that do no harm
SUMMED_BYTES = 16 * 2**20  # a device's part of the sum
AGAIN = "see what it says there, and start the doctor again on every host"
SKEW = 10.0  # seconds by which hosts may come late to a check
# Where a machine shows its accelerators, whatever JAX makes of them.
CHIPS = ("accel[0-9]*", "nvidia[0-9]*", "vfio/[0-9]*")


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a check came to: `do` says what helps where it is not good."""

    good: bool
    says: str
    do: str = ""


@dataclasses.dataclass(frozen=True)
class Check:
    """
    look: on every host, in so many seconds; what it returns goes to all hosts as JSON.
    judge: from what every host saw, by its number.
    do: what helps where a look failed.
    """

    name: str
    look: Callable[[], Any]
    judge: Callable[[list], Finding]
    seconds: float = 60.0
    do: str = ""


def examine(checks: Sequence[Check], say: Callable[[str, Finding], None]) -> tuple[bool, bool]:
    """Makes the checks one after the other; returns (all of them good, all of them made).

    Where one does not end in time on any host, or a host is gone, those after it are not made.
    """
    good = True
    for check in checks:
        end = time.monotonic() + check.seconds + SKEW
        seen = json.dumps(_limited(check.look, check.seconds))
        heard = exchange(f"doctor/{check.name}", seen, end - time.monotonic())
        everywhere = [None if text is None else json.loads(text) for text in heard]
        finding = judged(check, everywhere)
        say(check.name, finding)
        good = good and finding.good
        if any(seen is None or "late" in seen for seen in everywhere):
            return False, False
    return good, True


def judged(check: Check, everywhere: list[dict | None]) -> Finding:
    """The finding of a check: its own judgement, or who could not look, and why."""
    count, failures = len(everywhere), collections.defaultdict(list)
    for number, seen in enumerate(everywhere):
        if seen is None:
            failures["said nothing in time: it is gone, or hangs"].append(number)
        elif "fact" not in seen:
            failures[seen["failed"]].append(number)
    if not failures:
        return check.judge([seen["fact"] for seen in everywhere])
    said = "; ".join(f"{hosts(who, count)}{why}" for why, who in failures.items())
    return Finding(False, said, AGAIN if None in everywhere else check.do)


def hosts(numbers: Sequence[int], count: int) -> str:
    """The hosts of these numbers, at the beginning of what is said of them."""
    if count == 1:
        return ""
    if len(numbers) == count:
        return "every host: "
    return f"host{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}: "


def _limited(look: Callable[[], Any], seconds: float) -> dict:
    """What a look returns as 'fact'; or why it 'failed', and that it was 'late'."""
    answers: queue.SimpleQueue = queue.SimpleQueue()

    def work() -> None:
        try:
            answers.put({"fact": look()})
        except Exception as error:  # whatever it is: the others have to hear of it
            kind = "" if type(error).__name__ == "UserError" else f"{type(error).__name__}: "
            answers.put({"failed": (kind + " ".join(str(error).split()))[:400]})

    threading.Thread(target=work, daemon=True).start()
    try:
        return answers.get(timeout=seconds)
    except queue.Empty:
        return {"failed": f"no end after {seconds:g} s", "late": True}


def host_checks(count: int) -> list[Check]:
    """What any job needs of its hosts, beside disks and data."""
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
    """What of the software could differ between hosts."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "none"
    return found | {"source": source_hash(Path(__file__).parent.parent)}


def source_hash(folder: Path) -> str:
    """A short name for all Python files in a folder: hosts often differ in their checkout."""
    digest = hashlib.blake2b(digest_size=4)
    for file in sorted(folder.rglob("*.py")):
        digest.update(str(file.relative_to(folder)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def judge_versions(facts: list[dict[str, str]]) -> Finding:
    """Good where all hosts have the same; what most of them have is taken to be meant."""
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
    """Good where every host brings as many of the same, and JAX uses what is there."""
    count, total = len(facts), facts[0]["all"]
    alike = collections.defaultdict(list)
    for number, fact in enumerate(facts):
        alike[f"{fact['number']} x {fact['kind']}"].append(number)
    said = f"{total} in all: "
    if len(alike) > 1:
        said += "; ".join(f"{hosts(who, count)}{what}" for what, who in alike.items())
        return Finding(False, said, "every host has to bring as many devices of the same kind")
    said += next(iter(alike)) + (f" on each of {count} hosts" if count > 1 else "")
    idle = [number for number, fact in enumerate(facts) if fact["idle"]]
    if idle:
        said += f"; {hosts(idle, count)}accelerators in /dev that JAX does not use"
        return Finding(
            False,
            said,
            "pip install 'cmaclip_jax[tpu]' (or [cuda]); JAX_PLATFORMS=cpu says that the CPU is "
            "meant",
        )
    whole = total == sum(fact["number"] for fact in facts)
    return Finding(whole, said, "" if whole else "JAX sees devices of hosts that are not here")


def _sum_over_all() -> dict:
    """Adds what every device holds, device k so many times k+1, and looks at every number."""
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
    """Good where every host has the exact sum."""
    wrong = [number for number, fact in enumerate(facts) if fact["wrong"]]
    slowest = max(fact["seconds"] for fact in facts)
    devices, expected = facts[0]["devices"], facts[0]["expected"]
    if wrong:
        said = f"{hosts(wrong, len(facts))}a sum over {devices} devices is not {expected:g}"
        return Finding(False, said, "do not train on these devices: give them back")
    said = f"{expected:g} from {devices} device(s), exact; {SUMMED_BYTES >> 20} MiB of each in "
    said += f"{slowest * 1e3:.1f} ms"
    if devices > 1:  # of every number, all but a share of 1/N goes out and comes in, twice
        sent = 2 * (devices - 1) / devices * SUMMED_BYTES
        said += f", so {sent / slowest / 1e9:.2g} GB/s a device"
    return Finding(True, said)


# ---- clocks


def _clock() -> float:
    wait_for_all("the clocks are read")
    return time.time()


def judge_clocks(facts: list[float]) -> Finding:
    """Good where they show about the same."""
    middle = sorted(facts)[len(facts) // 2]
    apart = max(facts) - min(facts)
    if apart <= CLOCKS_APART:
        return Finding(True, f"at most {apart:.2f} s apart")
    wrong = [f"host {k} by {t - middle:+.0f} s" for k, t in enumerate(facts)]
    wrong = [text for text, t in zip(wrong, facts, strict=True) if abs(t - middle) > CLOCKS_APART]
    return Finding(
        False, f"{apart:.0f} s apart: {', '.join(wrong)}", "switch NTP (chrony) on there"
    )
