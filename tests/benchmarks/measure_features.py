"""What frozen encoders cost at every step, and what the cache of their features saves.

    python tests/benchmarks/measure_features.py --table=PAIRS.csv [--text=COLUMN] [--pairs=256]
        [--size=B/32]

Trains the fusion on frozen encoders (with random weights: the arithmetic is the same) for an epoch
of --pairs pairs, with and without the cache, interleaved. 'fusion alone' is the same update on one
batch that lies in memory: the cost of the arithmetic without any input. 'arithmetic' is how many
times fewer floating-point operations XLA counts in the update with the cache. Then both ways
answer the validation pairs: 'apart' is the largest difference of a probability, and of a task's
accuracy.
"""

import argparse
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from cmaclip_jax.config import base_config
from cmaclip_jax.evaluation.predictor import collect, make_predict_step
from cmaclip_jax.evaluation.scores import score
from cmaclip_jax.parallel.mesh import Prefetch, batch_sharding, make_mesh, to_device
from cmaclip_jax.runs.assembly import assemble
from cmaclip_jax.runs.data import open_data
from cmaclip_jax.runs.frozen_features import with_features
from cmaclip_jax.runs.towers import open_towers


def make_config(options, layers: int):
    config = base_config()
    config.data.source, config.data.path = "table", options.table
    config.data.text, config.data.text_length = options.text, -1
    config.model.image = config.model.text = options.size
    config.model.sequence_layers = layers
    config.model.unroll = 12  # XLA counts the body of a loop once, however often it is run
    config.train.freeze = ("(image|text)/.*",)
    config.train.batch_size = config.eval.batch_size = options.batch
    return config


def measure(options, layers: int, folder: Path) -> None:
    """One line of the table: seconds an update, the ways interleaved."""
    config, mesh = make_config(options, layers), make_mesh()
    data = open_data(config, None, towers := open_towers(config, None))
    for source in data.sources.values():
        for field in ("ids", "images", "texts"):
            object.__setattr__(source, field, getattr(source, field)[: options.pairs])
    assembly = assemble(config, mesh, data.encode, towers)
    state, step = assembly.create_state(), assembly.train_step
    cached, _ = with_features(data, assembly, folder, lambda batches, *_: batches)
    start = time.perf_counter()
    cached.train_batches(0, state.params)
    encoding = time.perf_counter() - start

    updates = options.pairs // options.batch + 1
    streams = {
        name: Prefetch(reads.train_batches(0, state.params), batch_sharding(mesh), updates + 1)
        for name, reads in (("without", data), ("with", cached))
    }
    kept = to_device(next(cached.train_batches(0, state.params)), batch_sharding(mesh))
    flops = {}
    for name, batch in (("with", kept), ("without", next(streams["without"]))):
        flops[name] = step.lower(state, batch).compile().cost_analysis()["flops"]
    seconds = {"without": [], "with": [], "fusion alone": []}
    for update in range(updates):
        for name, times in seconds.items():
            start = time.perf_counter()
            batch = next(streams[name]) if name in streams else kept
            state, _ = jax.block_until_ready(step(state, batch))
            if update:  # the first one compiles
                times.append(time.perf_counter() - start)
    without, with_cache, alone = (np.median(seconds[name]) for name in seconds)
    probability, accuracy = apart(assembly.objective, state.params, data, cached, mesh)
    print(
        f"{layers:6}{without:10.3f}{with_cache:8.3f}{alone:14.3f}{with_cache / alone:10.2f}"
        f"{without / with_cache:9.1f}{flops['without'] / flops['with']:12.1f}"
        f"{encoding:10.1f}{probability:10.4f}{accuracy:8.4f}",
        flush=True,
    )


def apart(objective, params, data, cached, mesh) -> tuple[float, float]:
    """How far apart the answers on the validation pairs are: probabilities, accuracies."""
    predict = make_predict_step(objective, mesh, params)
    plain, kept = (
        collect(predict, params, reads.eval_batches("val", params), mesh)
        for reads in (data, cached)
    )
    differences = jax.tree.map(
        lambda a, b: np.abs(a - b).max(), plain["probabilities"], kept["probabilities"]
    )
    accuracies = [
        [task["accuracy"] for task in score(outcome, data.tasks, "val", 0)["tasks"].values()]
        for outcome in (plain, kept)
    ]
    return max(jax.tree.leaves(differences)), np.abs(np.subtract(*accuracies)).max()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", required=True)
    parser.add_argument("--text", default="")
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", default="B/32")
    options = parser.parse_args()
    print("seconds an update, median; ratios")
    print(
        "layers   without    with  fusion alone  with/alone  faster  arithmetic  encoding     apart"
    )
    for layers in (2, 1, 0):
        with tempfile.TemporaryDirectory() as folder:
            measure(options, layers, Path(folder))


if __name__ == "__main__":
    main()
