"""Exported models, run without this project; and runs with other models."""

import dataclasses
import os
import subprocess
import sys

import jax

from cmaclip_jax.runs.assembly import assemble
from cmaclip_jax.runs.batch_encoder import kept_encoder
from cmaclip_jax.runs.towers import open_towers
from cmaclip_jax.runs.trained import open_trained
from cmaclip_jax.training.workdir import saved_config

ALONE = "import sys; sys.modules.update(dict.fromkeys({blocked!r}, None))\n"
BLOCKED = ("flax", "cmaclip_jax", "tensorflow", "transformers", "optax", "orbax", "chex", "ftfy")


def alone(code: str, folder, blocked=BLOCKED) -> str:
    """What Python prints that has jax, numpy and little else."""
    ran = subprocess.run(
        [sys.executable, "-c", ALONE.format(blocked=blocked) + code],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def ask(folder, picture, words, **how) -> dict[str, str]:
    """What example.py says, by task."""
    code = (
        f"import runpy; sys.argv = ['example.py', {str(picture)!r}, {words!r}]\n"
        "runpy.run_path('example.py', run_name='__main__')"
    )
    lines = alone(code, folder, **how).splitlines()
    return {name: said.strip() for name, said in (line.split(":", 1) for line in lines)}


def variant(finished_run, **changes):
    """What the finished run would be with another model, untrained."""
    config = saved_config(finished_run)
    config.eval.prompts = ("{}",)
    config.update_from_flattened_dict(changes)
    trained = open_trained(finished_run, saved_config(finished_run), devices=jax.devices()[:1])
    towers = open_towers(config, finished_run)
    encode = kept_encoder(config, finished_run, towers)
    predictor = assemble(config, trained.mesh, encode, towers)
    params = jax.jit(predictor.objective.init)(jax.random.key(0), predictor.example)
    params = jax.device_put(predictor.objective.answering_parameters(params), jax.devices()[0])
    return dataclasses.replace(trained, encode=encode, predictor=predictor, params=params)
