"""CLIP without training, judged by sentences about the classes: what training has to beat."""

import functools
from pathlib import Path

import jax
from ml_collections import ConfigDict

from cmaclip_jax.errors import UserError
from cmaclip_jax.evaluation.predictor import Predictor
from cmaclip_jax.parallel.mesh import make_mesh
from cmaclip_jax.parallel.rules import tree_shardings
from cmaclip_jax.runs.data import open_data
from cmaclip_jax.runs.judged import JudgedRun
from cmaclip_jax.runs.objectives import build_contrastive
from cmaclip_jax.runs.towers import open_towers
from cmaclip_jax.screen import Screen
from cmaclip_jax.training.state import replace_parameters


def open_zero_shot(config: ConfigDict, workdir: Path, screen: Screen) -> JudgedRun:
    """The CLIP of `model.pretrained`, opened like a run that has taken no step."""
    if (workdir / "checkpoints").exists():
        raise UserError(f"{workdir} is a run with figures of its own; name another --workdir")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {workdir} ({error.strerror}); name another") from error
    mesh = make_mesh(**config.mesh)
    towers = open_towers(config, None)
    data = open_data(config, None, towers).over(mesh)
    objective = build_contrastive(config, data.encode, towers)
    predictor = Predictor(config, mesh, objective, data.encode.empty(1))
    init = functools.partial(objective.init, jax.random.key(0), predictor.example)
    drawn = jax.jit(init, out_shardings=tree_shardings(predictor.parameter_shapes, mesh))()
    params, lines = replace_parameters(drawn, towers.params)
    screen.say("\n".join(lines))
    sentences = sum(tokens.shape[0] * tokens.shape[1] for tokens in objective.prompts.values())
    screen.say(f"{sentences:,} sentences describe the classes of {len(data.tasks)} tasks")
    params = objective.answering_parameters(params)
    return JudgedRun(workdir, 0, data.encode, predictor, params, data)
