"""The adapters of a trained run as a folder of PEFT."""

from pathlib import Path

from cmaclip_jax.errors import UserError
from cmaclip_jax.runs.adapters import SIDES, configured_adapters
from cmaclip_jax.runs.towers import kept_towers
from cmaclip_jax.training.saved_parameters import read_parameters
from cmaclip_jax.training.workdir import saved_config
from cmaclip_jax.weights.peft import write_peft
from cmaclip_jax.weights.writer import new_folder


def convert_adapters(workdir: Path, output: Path) -> str:
    """Writes the adapters, the fusion and the heads of a run; returns what was found in it."""
    config = saved_config(workdir)
    towers, configured = kept_towers(config, workdir), configured_adapters(config.model.lora)
    adapted = {
        side: tower.clone(adapter=tower.adapter or configured[side])
        for side in SIDES
        for tower in [getattr(towers, side)]
    }
    step, params = read_parameters(workdir)
    adapted = {side: tower for side, tower in adapted.items() if side in params}
    adapters = [tower.adapter for tower in adapted.values() if tower.adapter]
    if not adapters:
        raise UserError(
            f"{workdir} has no adapters; train with --config.model.lora.rank, or take another --to"
        )
    with new_folder(output) as folder:
        write_peft(folder, adapted, params, config.model.pretrained)
    names = ", ".join(adapters[0].products)
    return f"a run of ours at step {step:,}; adapters of rank {adapters[0].rank} for {names}"
