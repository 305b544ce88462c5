"""Our steps in float32 and in bfloat16, compared on the devices of this machine.

    python tests/benchmarks/compare_types.py --config=configs/attributes.py
    python tests/benchmarks/compare_types.py --config=FILE --width=256 --config.train.batch_size=16

Both run in turn, A B A B, in one process. The result is the time in bfloat16 as a share of the time
in float32 in the same round: below 1, bfloat16 is faster. The processor's time, over all cores,
says more than the clock where other programs run. `model.dtype='auto'` rests on these figures.
"""

import argparse
import time
from collections.abc import Callable

from cmaclip_jax import process

# isort: split
if __name__ == "__main__":  # as our command does, before JAX is imported
    process.restart_with_huge_pages()
process.prepare()

import jax
import numpy as np

from cmaclip_jax.commands.arguments import named_tasks, read_named_config
from cmaclip_jax.config import with_changes
from cmaclip_jax.measuring.clock import interleaved
from cmaclip_jax.measuring.parts import PARTS
from cmaclip_jax.models.encoders import SIZES, Size, size

TYPES = ("float32", "bfloat16")
HEAD_WIDTH = 64


def main() -> None:
    options, rest = read_arguments()
    config, name = read_named_config(rest)
    config = with_changes(config, {"model.pretrained": ""})
    if options.width:
        SIZES["other"] = with_width(size(config.model.image), options.width)
        config = with_changes(config, {"model.image": "other", "model.text": "other"})
    tasks = named_tasks(options.tasks)
    for part in options.parts.split(","):
        ways, spent = {}, {}
        for dtype in TYPES:
            typed = with_changes(config, {"model.dtype": dtype})
            ways[dtype], spent[dtype] = counted(PARTS[part](typed, tasks, jax.devices()).turns)
        timings = interleaved(ways, options.seconds, options.rounds)
        width = options.width or size(config.model.image).image["width"]
        print(f"{name}, {width} wide, {part}")
        print("  clock    ", line(*(timings[dtype].blocks for dtype in TYPES)))
        rounds = (spent[dtype][-options.rounds :] for dtype in TYPES)
        print("  processor", line(*rounds), flush=True)


def read_arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--width", type=int, default=0, help="of both towers, if another")
    parser.add_argument("--parts", default="train,inference")
    parser.add_argument("--tasks", default="dish:101")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=20, help="of each type, in all")
    return parser.parse_known_args()


def with_width(known: Size, width: int) -> Size:
    """The size with towers, and an embedding, of another width, and heads of 64."""
    other = dict(width=width, heads=max(width // HEAD_WIDTH, 1), mlp_width=4 * width)
    return Size(width, known.image | other, known.text | other)


def counted(way: Callable[[int], None]) -> tuple[Callable[[int], None], list[float]]:
    """The same work, and a list that gets the processor's seconds of a turn after every call."""
    spent: list[float] = []

    def turns(count: int) -> None:
        start = time.process_time()
        way(count)
        spent.append((time.process_time() - start) / count)

    return turns, spent


def line(float32, bfloat16) -> str:
    """Median milliseconds of both, and of the rounds' ratios the median and the middle half."""
    low, middle, high = np.percentile(np.divide(bfloat16, float32), (25, 50, 75))
    return (
        f"float32 {np.median(float32) * 1e3:9.2f} ms  bfloat16 {np.median(bfloat16) * 1e3:9.2f} ms"
        f"  ratio {middle:.3f} ({low:.3f} to {high:.3f})"
    )


if __name__ == "__main__":
    main()
