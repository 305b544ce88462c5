"""Speed and memory of a config's steps on the devices of this machine."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from cmaclip_jax import process
from cmaclip_jax.measuring.clock import Timing, interleaved
from cmaclip_jax.measuring.parts import PARTS, MeasuredStep
from cmaclip_jax.measuring.peak import Peak, peak_of
from cmaclip_jax.planning.run import plan_run
from cmaclip_jax.tasks import Task


def measure_steps(
    config: ConfigDict,
    tasks: Sequence[Task],
    wanted: Sequence[str],
    seconds: float,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Describes the machine and the model, and measures each of the `wanted` parts.

    config: `model.dtype` must be a type, not 'auto'.
    """
    devices = jax.devices()
    run = plan_run(config, tasks, devices)  # refuses batches that do not divide
    say("measuring what the devices can do ...")
    peak = peak_of(devices, config.model.dtype)
    parts = {}
    for name in wanted:
        say(f"{name}: compiling, and measuring for {seconds:.0f} s ...")
        part = PARTS[name](config, tasks, devices)
        timing = interleaved({name: part.turns}, seconds)[name]
        alone = 1 if name == "one-pair" else len(devices)
        parts[name] = _figures(part, timing, Peak(peak.flops * alone / len(devices), peak.source))
    return {
        "device": devices[0].device_kind,
        "devices": len(devices),
        "cores": process.usable_cores(),
        "jax": jax.__version__,
        "dtype": config.model.dtype,
        "mesh": dict(run.mesh.shape),
        "image_size": run.encode.image_size,
        "text_length": run.encode.text_length,
        "tasks": {task.name: len(task.classes) for task in tasks},
        "peak": {"flops": peak.flops, "source": peak.source},
        "parts": parts,
    }


def _figures(part: MeasuredStep, timing: Timing, peak: Peak) -> dict[str, float]:
    rate = part.operations / timing.median
    return {
        "pairs": part.pairs,
        "seconds": timing.median,
        "spread": timing.spread,
        "pairs_per_second": part.pairs / timing.median,
        "operations": part.operations,
        "operations_per_second": rate,
        "share_of_peak": rate / peak.flops,
        "memory": part.memory,
        "compiling": part.compiling,
    }
