"""A small UPMC Food-101 in each of its five layouts."""

import json

from PIL import Image

from cmaclip_jax.data.records import hash_share
from cmaclip_jax.data.sources.food101 import VAL_SHARE

CLASSES = ("apple_pie", "miso_soup")
TRAIN = [f"{label}_{n}.jpg" for label in CLASSES for n in range(60)]
TEST = [f"{label}_{n}.jpg" for label in CLASSES for n in range(100, 103)]
HELD_OUT = [name for name in TRAIN if hash_share(name) < VAL_SHARE]


def label_of(name):
    return name.rpartition("_")[0]


def title_of(name):
    return f"A title, of {name}"


def write(root, path, content):
    """A file and its folders; returns the file's path."""
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(content if isinstance(content, bytes) else content.encode())
    return root / path


def write_images(root):
    for folder, names in {"train": TRAIN, "test": TEST}.items():
        for name in names:
            path = write(root, f"images/{folder}/{label_of(name)}/{name}", b"")
            Image.new("RGB", (8, 8), (len(name), 90, 10)).save(path)


def write_kaggle(root):
    for split, names in {"train": TRAIN, "test": TEST}.items():
        lines = [f'{name},"{title_of(name)}",{label_of(name)}\n' for name in names]
        write(root, f"texts/{split}_titles.csv", "".join(lines))


def write_unis_mmc(root):
    for split, names in {"train": TRAIN, "test": TEST}.items():
        lines = [
            f'{name},"{title_of(name)}",{label_of(name)},{CLASSES.index(label_of(name))}\n'
            for name in names
        ]
        write(root, f"{split}.csv", "id,text,annotation,label\n" + "".join(lines))


def write_split_file(root):
    val = TRAIN[:4]
    splits = {"train": TRAIN[4:], "val": val, "test": TEST}
    write(root, "class_idx.json", json.dumps({label: i for i, label in enumerate(CLASSES)}))
    write(root, "split.json", json.dumps(splits))
    write(root, "text.json", json.dumps({name: title_of(name) for name in TRAIN + TEST}))


def write_jsonl(root):
    for split, names in {"train": TRAIN[4:], "dev": TRAIN[:4], "test": TEST}.items():
        folder = "test" if split == "test" else "train"
        lines = [
            {
                "id": f"{label_of(name)}_{name}",
                "label": label_of(name),
                "text": title_of(name),
                "img": f"images/{folder}/{label_of(name)}/{name}",
            }
            for name in names
        ]
        write(root, f"{split}.jsonl", "\n".join(map(json.dumps, lines)) + "\n")


def write_folders(root):
    for name in TRAIN + TEST:
        stem = name.removesuffix(".jpg")
        write(root, f"texts_txt/{label_of(name)}/{stem}.txt", f"\n {title_of(name)}\n")


LAYOUTS = {  # how it is written, and which of TRAIN are for validation
    "kaggle": (write_kaggle, HELD_OUT),
    "unis_mmc": (write_unis_mmc, HELD_OUT),
    "split_file": (write_split_file, TRAIN[:4]),
    "jsonl": (write_jsonl, TRAIN[:4]),
    "folders": (write_folders, HELD_OUT),
}
