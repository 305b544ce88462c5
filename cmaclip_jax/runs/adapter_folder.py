"""A folder of PEFT with the adapters of a run, and with its fusion and heads beside them.

One run writes such a folder, and another one starts from it (`model.lora.source`).
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cmaclip_jax.errors import UserError
from cmaclip_jax.runs.adapters import run_adapters
from cmaclip_jax.runs.batch_encoder import TASKS
from cmaclip_jax.runs.towers import kept_towers
from cmaclip_jax.tasks import Task, read_tasks
from cmaclip_jax.training.saved_parameters import read_parameters
from cmaclip_jax.training.workdir import saved_config
from cmaclip_jax.weights.peft import write_peft
from cmaclip_jax.weights.writer import new_folder


def convert_adapters(workdir: Path, output: Path) -> str:
    """Writes the adapters, the fusion and the heads of a run; returns what was found in it."""
    if not (workdir / "config.json").exists():
        raise UserError(
            f"--to=peft takes a run, and {workdir} is none; name its folder in --source"
        )
    config = saved_config(workdir)
    towers = kept_towers(config, workdir)
    step, params = read_parameters(workdir)
    adapted = {
        side: getattr(towers, side).clone(adapter=adapter)
        for side, adapter in run_adapters(config.model.lora, towers).items()
        if side in params and adapter
    }
    if not adapted:
        raise UserError(
            f"{workdir} has no adapters; train with --config.model.lora.rank, or take another --to"
        )
    with new_folder(output) as folder:
        write_peft(folder, adapted, params, config.model.pretrained)
        shutil.copyfile(workdir / TASKS, folder / TASKS)
    told = [
        f"{side} adapters of rank {tower.adapter.rank} for {', '.join(tower.adapter.products)}"
        for side, tower in adapted.items()
    ]
    return f"a run of ours at step {step:,}; {'; '.join(told)}"


def without_other_heads(
    params: dict[str, Any], source: str, tasks: Sequence[Task]
) -> dict[str, Any]:
    """Parameters without the heads in `lora.source` that have other classes than the run's tasks.

    Modality-wise attention has a vector for every task, so it stays if all tasks are the same.
    """
    file = Path(source).expanduser() / TASKS
    if not (source and file.exists()):
        return params
    theirs = {task.name: task.classes for task in read_tasks(file)}
    same = {f"head_{task.name}" for task in tasks if theirs.get(task.name) == task.classes}
    kept = {name: x for name, x in params.items() if name in same or not name.startswith("head_")}
    if list(theirs) != [task.name for task in tasks]:
        kept.pop("modality", None)
    return kept
