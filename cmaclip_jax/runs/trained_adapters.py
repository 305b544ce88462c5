"""The adapters of a trained run as a folder of PEFT."""

import shutil
from pathlib import Path

from cmaclip_jax.errors import UserError
from cmaclip_jax.runs.adapters import TASKS, run_adapters
from cmaclip_jax.runs.towers import kept_towers
from cmaclip_jax.training.saved_parameters import read_parameters
from cmaclip_jax.training.workdir import saved_config
from cmaclip_jax.weights.peft import write_peft
from cmaclip_jax.weights.writer import new_folder


def convert_adapters(workdir: Path, output: Path) -> str:
    """Writes the adapters, the fusion and the heads of a run; returns what was found in it."""
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
