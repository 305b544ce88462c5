"""A run in ONNX beside the run itself: how far apart the answers lie, and how fast each gives them.

    python tests/benchmarks/onnx_speed.py --workdir=RUN [--split=val] [--pairs=1000] [--seconds=10]

The pairs are those of the run's own data. Both use the cores that this process may use, and take
turns.
"""

import argparse
import itertools
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from cmaclip_jax import process

process.prepare()

import jax
import numpy as np

from cmaclip_jax.config import with_changes
from cmaclip_jax.measuring.clock import interleaved
from cmaclip_jax.runs.data import open_data
from cmaclip_jax.runs.towers import open_towers
from cmaclip_jax.runs.trained import open_trained
from cmaclip_jax.serving.export_check import largest_difference, open_model
from cmaclip_jax.serving.export_formats import INPUTS, Onnx
from cmaclip_jax.training.workdir import saved_config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--workdir", type=Path, required=True, help="a trained run")
    parser.add_argument("--split", default="val")
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    config = with_changes(saved_config(options.workdir), {"model.dtype": "float32"})
    trained = open_trained(options.workdir, config, devices=jax.local_devices(backend="cpu")[:1])

    def own(batch: dict) -> dict:
        return jax.device_get(trained.predict_step(trained.params, batch))

    with tempfile.TemporaryDirectory() as folder:
        Onnx().write(trained, Path(folder))
        onnx = open_model("onnx", Path(folder))
    data = open_data(config, None, open_towers(config, options.workdir))
    batches = data.eval_batches(options.split)
    batch = joined(itertools.islice(batches, -(-options.pairs // config.eval.batch_size)))
    batch = {name: rows[: options.pairs] for name, rows in batch.items()}
    unknown = trained.encode.empty(len(batch["image"]))
    whole = batch | {name: unknown[name] for name in ("labels", "weight")}
    answers, ours = onnx(batch), own(whole)
    print(f"{len(batch['image'])} pairs of {options.split}; the largest difference:")
    for kind in answers:
        print(f"  {kind}: {largest_difference({kind: answers[kind]}, {kind: ours[kind]}):.2g}")
    for rows in sorted({min(rows, len(batch["image"])) for rows in (1, 8, 64)}):
        some = jax.tree.map(lambda x, rows=rows: x[:rows], whole)
        inputs = {name: some[name] for name in INPUTS}
        ways = {"ONNX Runtime": repeated(onnx, inputs), "this project": repeated(own, some)}
        timings = interleaved(ways, options.seconds)
        speeds = (f"{name} {rows / timing.median:,.1f}" for name, timing in timings.items())
        print(f"{rows} pairs at once, pairs a second: {', '.join(speeds)}")


def joined(batches) -> dict:
    """The inputs of all batches, one after the other."""
    kept = [{name: np.asarray(batch[name]) for name in INPUTS} for batch in batches]
    return {name: np.concatenate([batch[name] for batch in kept]) for name in INPUTS}


def repeated(answer, batch: dict):
    """`repeat(turns)` answers the batch that many times."""

    def repeat(turns: int) -> None:
        for _ in range(turns):
            answer(batch)

    return repeat


if __name__ == "__main__":
    main()
