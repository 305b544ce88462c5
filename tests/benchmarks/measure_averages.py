"""Ways to average the parameters: what each gives in the same training run.

    python tests/benchmarks/measure_averages.py --config=FILE --workdir=DIR [--seeds=3]
        [--config.FIELD=VALUE ...]

Trains the run of a config and keeps the parameters and three averages of decay `train.ema`: one
that starts at the initial parameters, one that is debiased, and one whose decay rises. All of them
are evaluated on `eval.watch`: the mean over tasks of the accuracy, and of the expected calibration
error.
"""

import argparse
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cmaclip_jax.config_arguments import read_config
from cmaclip_jax.evaluation.predictor import collect
from cmaclip_jax.evaluation.scores import score
from cmaclip_jax.parallel.mesh import batch_sharding, to_device
from cmaclip_jax.runs.training import open_run

# From the number of an update, counted from 1, and `train.ema` to the decay of that update.
DECAYS = {
    "as it was: starts at the initial parameters": lambda step, decay: decay,
    "debiased": lambda step, decay: (decay - decay**step) / (1 - decay**step),
    "decay warms up: (1 + step) / (10 + step)": lambda step, decay: min(
        decay, (1 + step) / (10 + step)
    ),
}


def train(config, workdir: Path) -> dict[str, dict]:
    """The figures of every way after a whole run."""
    decay, config.train.ema = config.train.ema, 0.0
    run = open_run(config, workdir)
    settings = config.train
    state, step = run.assembly.create_state(), run.assembly.train_step
    average = jax.jit(optax.incremental_update, donate_argnums=1)
    averages = {name: jax.tree.map(jnp.copy, state.params) for name in DECAYS}
    batches = itertools.islice(run.reads.train_batches(0, None), settings.steps)
    for number, batch in enumerate(batches, 1):
        state, _ = step(state, to_device(batch, batch_sharding(run.assembly.mesh)))
        for name, decay_of in DECAYS.items():
            averages[name] = average(state.params, averages[name], 1 - decay_of(number, decay))
        if number % 100 == 0:
            print(f"seed {config.seed}: step {number} of {settings.steps}", flush=True)
    run.progress.close()
    return {
        name: judge(run, params) for name, params in (averages | {"none": state.params}).items()
    }


def judge(run, params) -> dict:
    """Means over the tasks, by these parameters."""
    assembly = run.assembly
    batches = run.reads.eval_batches(run.config.eval.watch, params)
    outcome = collect(
        assembly.predict_step,
        assembly.objective.answering_parameters(params),
        batches,
        assembly.mesh,
    )
    return score(outcome, run.data.tasks, run.config.eval.watch, run.config.train.steps)["mean"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    options, rest = parser.parse_known_args()
    found = {}
    first = read_config(rest).seed
    for seed in range(first, first + options.seeds):
        config = read_config([*rest, f"--config.seed={seed}"])
        for name, figures in train(config, options.workdir / f"seed-{seed}").items():
            found.setdefault(name, []).append(figures)
            print(f"  {name:45}{figures['accuracy']:.3f}", flush=True)
    print(f"{'average':45}{'accuracy':>14}{'calibration error':>20}")
    for name, figures in found.items():
        cells = [
            [run[figure] for run in figures]
            for figure in ("accuracy", "expected_calibration_error")
        ]
        spread = [f"{np.mean(x):.3f} ±{np.std(x, ddof=1) if len(x) > 1 else 0:.3f}" for x in cells]
        print(f"{name:45}{spread[0]:>14}{spread[1]:>20}")


if __name__ == "__main__":
    main()
