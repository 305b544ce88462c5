"""The input pipeline beside a PyTorch DataLoader and plain tf.data, on the same JPEGs.

    python tests/compare_input.py --images=FOLDER [--size=224] [--rounds=3]

Everybody reads the files, cuts a random resized window (40 to 100 % of the area), mirrors half
of them and makes batches of 64; ours tokenises a title beside each as well. Rounds are
interleaved, the best of each counts. Cores are what the processes used (`time.process_time` with
their children), so a figure is examples a second of one core.
"""

import argparse
import itertools
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
import torch
from PIL import Image

from cmaclip_jax.data.augment import Augment
from cmaclip_jax.data.bad_records import BadRecords
from cmaclip_jax.data.batches import Encoder
from cmaclip_jax.data.loading import Loader, View
from cmaclip_jax.data.order import Order
from cmaclip_jax.data.pipeline import train_batches
from cmaclip_jax.data.prepare.stored import shrink
from cmaclip_jax.data.records import Record
from cmaclip_jax.data.text import train_tokenizer
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
    encode = Encoder(Files.tasks, train_tokenizer([TITLE], 300), size, 16)
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


def cores() -> float:
    """Seconds of cores that this process and its finished children have used."""
    child = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + child.ru_utime + child.ru_stime


def measure(open_batches, examples: int) -> tuple[float, float]:
    """(examples a second of one core, of the host)."""
    batches = open_batches()
    next(batches)
    used, wall = cores(), time.perf_counter()
    for _ in range(examples // BATCH):
        next(batches)
    wall = time.perf_counter() - wall
    close = getattr(batches, "close", None)
    if close:
        close()
    del batches  # joins torch's workers, whose time counts from here on
    return examples / max(cores() - used, 1e-9), examples / wall


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--examples", type=int, default=4_096)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    paths = sorted(map(str, options.images.glob("*.jpg")))
    prepared = [shrink(Path(path).read_bytes(), options.size, 92) for path in paths[:2_048]]
    ways = {
        "ours, from files": lambda: ours(paths, options.size),
        "ours, prepared": lambda: ours(prepared, options.size),
        "torch DataLoader with PIL": lambda: torch_loader(paths, options.size),
        "plain tf.data": lambda: plain_tf_data(paths, options.size),
    }
    best = dict.fromkeys(ways, (0.0, 0.0))
    for _ in range(options.rounds):
        for name, way in ways.items():
            best[name] = tuple(map(max, best[name], measure(way, options.examples)))
    print(f"{len(paths):,} pictures to {options.size} x {options.size}, {os.cpu_count()} cores")
    reference = best["torch DataLoader with PIL"]
    for name, (core, host) in best.items():
        print(
            f"{name:28}{core:8,.0f} /s of one core{host:8,.0f} /s of the host"
            f"{host / reference[1]:7.2f} x torch"
        )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory():
        main()
