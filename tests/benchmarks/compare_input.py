"""Our input pipeline beside a PyTorch DataLoader and plain tf.data, on the same JPEGs.

    python tests/benchmarks/compare_input.py --images=FOLDER [--size=224] [--rounds=3]

Every pipeline reads the files, cuts a random resized window (40 to 100 % of the area), mirrors half
of the pictures and makes batches of 64; ours also tokenises a title for each. Rounds are
interleaved, and the median counts. Every pipeline uses all cores. 'prepared' are pictures as
`cmaclip prepare` keeps them, their shorter side no longer than --size.
"""

import argparse
import itertools
import os
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
import torch
from PIL import Image

from cmaclip_jax.data.augment import Augment
from cmaclip_jax.data.bad_records import BadRecords
from cmaclip_jax.data.batches import BatchEncoder
from cmaclip_jax.data.loading import Loader
from cmaclip_jax.data.order import Order
from cmaclip_jax.data.pipeline import train_batches
from cmaclip_jax.data.prepare.stored import shrink
from cmaclip_jax.data.records import Record
from cmaclip_jax.data.text import train_tokenizer
from cmaclip_jax.data.view import View
from cmaclip_jax.tasks import Task

CROP, BATCH = 0.4, 64
TITLE = "turtle check men navy blue shirt"


class Files:
    """Records of pictures in a folder, each with a title and a label."""

    tasks = (Task("kind", ("a", "b")),)

    def __init__(self, pictures):
        self.pictures = pictures

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, index):
        return Record(str(index), self.pictures[index], f"{TITLE} {index}", {"kind": "a"})

    def labels(self, task):
        return ["a"] * len(self)


class TorchFiles(torch.utils.data.Dataset):
    """What torchvision's RandomResizedCrop, flip and ToTensor do, by Pillow."""

    def __init__(self, paths, size):
        self.paths, self.size = paths, size
        self.augment = Augment(crop=CROP)

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        image = Image.open(self.paths[index]).convert("RGB")
        sizes = np.array([[image.height, image.width]])
        top, left, height, width = self.augment.windows(sizes, np.random.random((1, 4)))[0]
        box = tuple(map(int, (left, top, left + width, top + height)))
        image = image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box)
        if np.random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        return tensor.float().div(255).sub(0.45).div(0.27)


def ours(pictures, size):
    encode = BatchEncoder(Files.tasks, train_tokenizer([TITLE], 300), size, 16)
    view = View(Augment(crop=CROP, flip=True, word_drop=0.1))
    load = Loader(Files(pictures), "train", encode, BadRecords(), view)
    return train_batches(load, Order(len(pictures)), batch_size=BATCH)


def torch_loader(paths, size):
    loader = torch.utils.data.DataLoader(
        TorchFiles(paths, size), BATCH, shuffle=True, num_workers=os.cpu_count()
    )
    return itertools.chain.from_iterable(iter(loader) for _ in itertools.count())


def plain_tf_data(paths, size):
    """Decode, resize, flip: no window, no words, no thought for a bad file."""

    def load(path):
        image = tf.io.decode_jpeg(tf.io.read_file(path), 3)
        image = tf.image.random_flip_left_right(tf.image.resize(image, (size, size)))
        return tf.cast(image, tf.uint8)

    dataset = tf.data.Dataset.from_tensor_slices(paths).shuffle(len(paths)).repeat()
    dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE).batch(BATCH)
    return dataset.prefetch(tf.data.AUTOTUNE).as_numpy_iterator()


def measure(open_batches, examples: int) -> float:
    """Examples a second on all cores, once the first batch is there."""
    batches = open_batches()
    next(batches)
    start = time.perf_counter()
    for _ in range(examples // BATCH):
        next(batches)
    speed = examples / (time.perf_counter() - start)
    getattr(batches, "close", lambda: None)()
    return speed


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--examples", type=int, default=6_400)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    paths = sorted(map(str, options.images.glob("*.jpg")))
    prepared = [shrink(Path(path).read_bytes(), options.size, 92) for path in paths[:2_048]]
    ways = {
        "torch DataLoader with PIL": lambda: torch_loader(paths, options.size),
        "plain tf.data": lambda: plain_tf_data(paths, options.size),
        "ours, from files": lambda: ours(paths, options.size),
        "ours, prepared": lambda: ours(prepared, options.size),
    }
    speeds = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            speeds[name].append(measure(way, options.examples))
    cores = len(os.sched_getaffinity(0))
    print(f"{len(paths):,} pictures to {options.size} x {options.size}, {cores} cores, median")
    reference = np.median(speeds["torch DataLoader with PIL"])
    for name, measured in speeds.items():
        speed = np.median(measured)
        print(
            f"{name:28}{speed:8,.0f} examples/s {speed / cores:8,.0f} a core"
            f"{speed / reference:7.2f} x torch"
        )


if __name__ == "__main__":
    main()
