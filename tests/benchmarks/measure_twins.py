"""How many planted twins are found, what else is found, and what it costs.

    python tests/benchmarks/measure_twins.py --table=FOLDER [--text=title] [--planted=300]
        [--rows=N] [--clip=RUN] [--found=PAIRS.npz]

Adds to all rows of a table copies of --planted random rows, of each of five kinds: recompressed
(JPEG, quality 40), cropped (95 % of each side are left, at a random place), mirrored, reworded (a
word less, and the others in another order), and cropped and reworded; the copies are JPEGs of
quality 90. Prints the share of copies that are found as twins of their rows, by all evidence and by
pixels alone; the rows and pairs of the table itself that are found, with examples to look at; the
rows of val with a twin in train; seconds by stage; and the memory at its peak. --rows takes a
sample of the table's rows. With --clip, the
embeddings of its pictures are used as well. --found saves the pairs of the table.
"""

import argparse
import collections
import dataclasses
import io
import resource
import time

import numpy as np
from PIL import ImageOps

from cmaclip_jax.auditing.neighbours import neighbours
from cmaclip_jax.auditing.twins import EVIDENCE, find_twins, leaks, twin_groups
from cmaclip_jax.config import base_config
from cmaclip_jax.data.bad_records import BadRecords
from cmaclip_jax.data.gathered import Gathered
from cmaclip_jax.data.images import open_image
from cmaclip_jax.data.records import Record
from cmaclip_jax.data.sources import open_sources
from cmaclip_jax.serving.embedding import load_clip

QUALITY, LEFT = 90, 0.95
EXAMPLES = 20
RATE_ROWS = 16_384


@dataclasses.dataclass
class Copies:
    """Changed copies of records, as a source."""

    records: list
    tasks: tuple

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        return self.records[index]

    def text(self, index):
        return self.records[index].text


def saved(image, quality=QUALITY) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def cropped(image, random):
    width, height = image.size
    across, down = round(LEFT * width), round(LEFT * height)
    left, top = random.integers(width - across + 1), random.integers(height - down + 1)
    return image.crop((left, top, left + across, top + down))


def reworded(text, random):
    words = (text or "").split()
    kept = random.permutation(len(words))[1:] if len(words) > 1 else range(len(words))
    return " ".join(words[place] for place in kept)


KINDS = {
    "recompressed": lambda image, text, random: (saved(image, 40), text),
    "cropped": lambda image, text, random: (saved(cropped(image, random)), text),
    "mirrored": lambda image, text, random: (saved(ImageOps.mirror(image)), text),
    "reworded": lambda image, text, random: (saved(image), reworded(text, random)),
    "cropped and reworded": lambda image, text, random: (
        saved(cropped(image, random)),
        reworded(text, random),
    ),
}


class Stages:
    """Shows no progress, but counts the seconds of each stage."""

    def __init__(self):
        self.seconds = collections.Counter()

    def __call__(self, items, what, total):
        last = time.perf_counter()
        for item in items:
            yield item
            now = time.perf_counter()
            self.seconds[what] += now - last
            last = now


def plant(source, count):
    """The source with copies at its end, and the row that each copy was made from."""
    random, records, rows = np.random.default_rng(0), [], []
    for kind, change in KINDS.items():
        for row in random.choice(len(source), count, replace=False).tolist():
            record = source[row]
            image, text = change(open_image(record.image), record.text, random)
            records.append(Record(f"{kind} {row}", image, text, {}))
            rows.append(row)
    return Gathered([source, Copies(records, source.tasks)]), np.array(rows)


def embedded(source, path):
    """The embeddings of all pictures."""
    clip, parts = load_clip(path), []
    for start in range(0, len(source), 1_024):
        rows = range(start, min(start + 1_024, len(source)))
        parts.append(clip.embed_images([source[row].image for row in rows]))
    return np.concatenate(parts)


def print_recall(twins, rows, size, count):
    """The share of the copies, by kind, that are linked to or grouped with their rows."""
    by_pixels = twins.chosen(twins.evidence[:, 0])
    total = size + len(rows)
    shares = [
        (groups[size:] == groups[rows]).reshape(-1, count).mean(axis=1)
        for groups in (twin_groups(twins, total), twin_groups(by_pixels, total))
    ]
    print(f"{'copies':22}found  by pixels alone")
    for kind, whole, alone in zip(KINDS, *shares, strict=True):
        print(f"{kind:22}{whole:.3f}  {alone:.3f}")


def print_found(twins, source, splits, size, path):
    """The pairs among the table's own rows, and the leaks."""
    twins = twins.chosen(twins.second < size)
    groups = np.bincount(twin_groups(twins, size))
    count, alone = groups[groups > 1].sum(), twins.evidence.sum(axis=1) == 1
    print(f"\nthe table itself: {len(twins):,} pairs; {count:,} of {size:,} rows have a twin,")
    print(f"in {(groups > 1).sum():,} groups, the largest of {groups.max()}")
    for name, column in zip(EVIDENCE, twins.evidence.T, strict=True):
        print(f"  by {name:10}{column.sum():6,}; by nothing else {(column & alone).sum():,}")
    leaked = leaks(twins, splits)
    print(f"rows of val with a twin in train: {leaked.sum():,} of {(splits == 'val').sum():,}")
    for pair in np.random.default_rng(0).permutation(len(twins))[:EXAMPLES]:
        a, b = twins.first[pair], twins.second[pair]
        why = "+".join(n for n, x in zip(EVIDENCE, twins.evidence[pair], strict=True) if x)
        print(f"  {twins.similarity[pair]:.3f} {why:22} {source[a].id} {source.text(a)!r}", end=" ")
        print(f"{source[b].id} {source.text(b)!r}")
    if path:
        np.savez(
            path,
            leaked=leaked,
            **{f.name: getattr(twins, f.name) for f in dataclasses.fields(twins)},
        )


def print_rate(width):
    """The speed of the product with the choice of the best, for sums on paper."""
    keys = np.random.default_rng(0).normal(size=(RATE_ROWS, width)).astype(np.float32)
    neighbours(keys, 16)
    start = time.perf_counter()
    neighbours(keys, 16)
    seconds = time.perf_counter() - start
    rate = 2 * width * RATE_ROWS**2 / seconds / 1e9
    print(f"\nneighbours of {RATE_ROWS:,} rows of {width}: {seconds:.1f} s, {rate:.0f} GFLOP/s")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", required=True)
    parser.add_argument("--text", default="title")
    parser.add_argument("--planted", type=int, default=300)
    parser.add_argument("--rows", type=int, default=0)
    parser.add_argument("--clip", default="")
    parser.add_argument("--found", default="")
    options = parser.parse_args()
    config = base_config()
    config.data.source, config.data.path, config.data.text = "table", options.table, options.text
    sources = open_sources(config.data, BadRecords())
    splits = np.repeat(list(sources), [len(part) for part in sources.values()])
    chosen = np.arange(len(splits))
    if options.rows:
        chosen = np.sort(np.random.default_rng(1).choice(chosen, options.rows, replace=False))
    source, splits = Gathered(list(sources.values()), chosen), splits[chosen]
    both, rows = plant(source, options.planted)
    stages, embeddings = Stages(), embedded(both, options.clip) if options.clip else None
    start, before = time.perf_counter(), time.process_time()
    twins = find_twins(both, embeddings, track=stages)
    seconds = time.perf_counter() - start
    print_recall(twins, rows, len(source), options.planted)
    print_found(twins, source, splits, len(source), options.found)
    used = resource.getrusage(resource.RUSAGE_SELF)
    processor = used.ru_utime + used.ru_stime - before
    print(f"\n{len(both):,} rows in {seconds:.0f} s; {processor:.0f} s of processor time")
    for what, part in stages.seconds.items():
        print(f"  {part:6.1f} s  {what}")
    print(f"memory at its peak: {used.ru_maxrss / 2**20:.1f} GiB")
    print_rate(432)


if __name__ == "__main__":
    main()
