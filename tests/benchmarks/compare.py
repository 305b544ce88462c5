"""Our steps and the same network in PyTorch, compared on the devices of this machine.

    python tests/benchmarks/compare.py --size=B/32 --batch=16 --dtype=float32

Both networks get the same parameters and the same batch, and must compute the same loss before
anything is timed. Then they run in turn, A B A B, in one process. The result is the ratio of their
times in the same round. Their network is `plain_torch`, eager or compiled by torch.compile.
"""

import argparse
import copy
import json
import sys
from collections.abc import Callable

from cmaclip_jax import process

# isort: split
if __name__ == "__main__":  # as our command does, before JAX is imported
    process.restart_with_huge_pages()
process.prepare()

import jax
import numpy as np
import torch
from plain_torch import PlainCMAClip, from_ours, torch_batch

from cmaclip_jax.commands.arguments import named_tasks
from cmaclip_jax.config import base_config
from cmaclip_jax.measuring.clock import interleaved
from cmaclip_jax.measuring.parts import PARTS, made_up
from cmaclip_jax.planning.run import PlannedRun, plan_run

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
AGREE = {"float32": 1e-4, "bfloat16": 2e-2}  # how far apart, as a share, two losses may be
CLIP_VOCABULARY = 49_408


def main() -> None:
    options = read_arguments()
    config, tasks = make_config(options), named_tasks(options.tasks)
    run = plan_run(config, tasks, jax.devices())
    params = jax.device_get(jax.jit(lambda: run.init_state().params)())
    batch = made_up(run.encode, options.batch)
    their_length = options.their_length or options.length
    network = from_ours(run.objective.model, params, their_length).to(DEVICE)
    check_same(run, params, network, batch, options.dtype)
    theirs = torch_batch(padded(batch, their_length), DEVICE)
    del params
    results = {}
    for part in options.parts.split(","):
        ours = PARTS[part](config, tasks, jax.devices())
        for rival in options.rivals.split(","):
            step = THEIRS[part](network, theirs, options.dtype, rival == "compiled")
            ways = {"ours": ours.turns, rival: step}
            times = interleaved(ways, options.seconds, options.rounds)
            figures = ratios(times["ours"].blocks, times[rival].blocks)
            results[f"{part}, {rival}"] = figures
            if not options.json:
                print(line(part, rival, figures, options), flush=True)
    if options.json:
        json.dump(vars(options) | {"device": device_name(), "results": results}, sys.stdout)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="B/32")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=77, help="of texts, in tokens")
    parser.add_argument("--their-length", type=int, default=0, help="of torch's, if another")
    parser.add_argument("--dtype", default="float32", choices=tuple(AGREE))
    parser.add_argument("--parts", default="train,inference")
    parser.add_argument("--rivals", default="eager,compiled")
    parser.add_argument("--tasks", default="dish:101")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=20, help="of each side, in all")
    parser.add_argument("--set", nargs="*", default=[], help="config fields: model.unroll=12")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def make_config(options: argparse.Namespace):
    """A run of CLIP's own vocabulary at these sizes, and with the fields that --set names."""
    config = base_config()
    config.update_from_flattened_dict(
        {
            "model.image": options.size,
            "model.text": options.size,
            "model.dtype": options.dtype,
            "model.sequence_zero": False,  # or the losses would not see sequence-wise attention
            "data.vocabulary": CLIP_VOCABULARY,
            "data.text_length": options.length,
            "train.batch_size": options.batch,
            "eval.batch_size": options.batch,
        }
    )
    for name, _, value in (field.partition("=") for field in options.set):
        section, field = name.split(".")
        config[section][field] = type(config[section][field])(value)
    return config


def padded(batch, length: int):
    """The batch with texts of `length` tokens: the end token again and again, as CLIP pads."""
    tokens = batch["tokens"]
    more = np.repeat(tokens[:, -1:], length - tokens.shape[1], axis=1)
    return batch | {"tokens": np.concatenate([tokens, more], axis=1)}


def check_same(run: PlannedRun, params, network: PlainCMAClip, batch, dtype: str) -> None:
    """Ends the comparison where the two sides do not compute the same loss."""
    ours = float(jax.jit(run.objective.loss)(params, batch, jax.random.key(0))[0])
    with torch.no_grad(), autocast(dtype):
        theirs = float(network.loss(*torch_batch(batch, DEVICE)))
    if abs(ours - theirs) > AGREE[dtype] * abs(theirs):
        sys.exit(f"the losses differ: {ours} and {theirs}")
    print(f"losses before any step: ours {ours:.6f}, theirs {theirs:.6f}", file=sys.stderr)


def their_train_step(network: PlainCMAClip, batch, dtype: str, compiled: bool) -> Callable:
    """Updates as a plain loop makes them: AdamW in one fused update, gradients clipped."""
    network = copy.deepcopy(network).train()
    parameters = list(network.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, betas=(0.9, 0.98), fused=True)
    loss_of = torch.compile(network.loss) if compiled else network.loss

    def turns(count: int) -> None:
        for _ in range(count):
            with autocast(dtype):
                loss = loss_of(*batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
        wait()

    return turns


def their_inference(network: PlainCMAClip, batch, dtype: str, compiled: bool) -> Callable:
    """Probabilities on the host, from pictures and ids on the host."""
    network = copy.deepcopy(network).eval()
    answer = torch.compile(network) if compiled else network
    pictures, ids = (x.cpu() for x in batch[:2])

    def turns(count: int) -> None:
        for _ in range(count):
            with torch.inference_mode(), autocast(dtype):
                logits = answer(pictures.to(DEVICE), ids.to(DEVICE))
                _ = [x.softmax(-1).cpu().numpy() for x in logits]

    return turns


THEIRS = {"train": their_train_step, "inference": their_inference}


def autocast(dtype: str):
    """Where torch takes products in bfloat16, if that is what is measured."""
    return torch.autocast(DEVICE, torch.bfloat16, enabled=dtype == "bfloat16")


def wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def ratios(ours, theirs) -> dict[str, float]:
    """Median seconds of both, and of the rounds' ratios the median and the middle half."""
    low, middle, high = np.percentile(np.divide(ours, theirs), (25, 50, 75))
    figures = {"ours": np.median(ours), "theirs": np.median(theirs)}
    figures |= {"ratio": middle, "low": low, "high": high}
    return {name: float(value) for name, value in figures.items()}


def line(part: str, rival: str, figures, options) -> str:
    lengths = f"{options.length}/{options.their_length or options.length}"
    return (
        f"{options.size} {options.dtype} batch {options.batch} tokens {lengths} {part:10} "
        f"ours {figures['ours'] * 1e3:9.1f} ms  torch {rival:8} {figures['theirs'] * 1e3:9.1f} ms  "
        f"ratio {figures['ratio']:.3f} ({figures['low']:.3f} to {figures['high']:.3f})"
    )


def device_name() -> str:
    return f"{jax.devices()[0].device_kind}, torch on {DEVICE}"


if __name__ == "__main__":
    main()
