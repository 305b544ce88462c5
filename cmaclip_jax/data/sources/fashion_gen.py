"""Fashion-Gen: photos of products with their descriptions, in two HDF5 files.

The folder `data.path` holds `fashiongen_256_256_train.h5`, `fashiongen_256_256_validation.h5`
or both. The validation file is our `test`, because published figures are measured on it. `val` is
5 % of the products in the training file, chosen by a hash of the product's id. About four pictures
share a product and its description, so a product is never divided between splits.

Labels, texts and products are read when the data is opened. Pictures are read later, a whole chunk
at a time.
"""

import collections
import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence

import h5py
import numpy as np
from ml_collections import ConfigDict

from cmaclip_jax.data.bad_records import BadRecords
from cmaclip_jax.data.group_cache import GroupCache
from cmaclip_jax.data.records import Label, Record, RecordError, Sources, hash_share
from cmaclip_jax.errors import UserError
from cmaclip_jax.tasks import Task

FILES = {"train": "fashiongen_256_256_train.h5", "test": "fashiongen_256_256_validation.h5"}
TASKS = ("category", "subcategory")
VAL_SHARE = 0.05  # of the training file's products
CACHE_BYTES = 256 * 2**20  # of decompressed pictures for each file; at least two chunks
UNCHUNKED = 16  # pictures read at once from a file without chunks
ROWS_AT_ONCE = 16_384  # of a column of strings


@dataclasses.dataclass(frozen=True)
class FashionGen:
    """The pictures of one split, in the order of their file.

    A chunk of `block_size` pictures is decompressed as a whole, so reading is fast if pictures of
    the same chunk are read one after the other. `chunks` has the chunk of every picture.
    """

    name: str  # of the file, in ids
    rows: np.ndarray  # int [N], rows of the file, ascending
    products: np.ndarray  # str [N]
    texts: np.ndarray  # str or None [N]
    classes: dict[str, np.ndarray]  # {task: str or None [N]}
    tasks: tuple[Task, ...]
    images: "ChunkedImages | None"

    @property
    def block_size(self) -> int:
        """The number of pictures in a chunk; 1 without pictures."""
        return self.images.block_size if self.images else 1

    @property
    def chunks(self) -> np.ndarray | None:
        """The number of the chunk in which each record's picture lies; None without pictures."""
        return self.rows // self.block_size if self.images else None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Record:
        row = int(self.rows[index])
        return Record(
            id=f"{self.name}-{row}",
            image=self.images[row] if self.images else None,
            text=self.texts[index],
            labels={task: self.classes[task][index] for task in TASKS},
        )

    def text(self, index: int) -> str | None:
        return self.texts[index]

    def labels(self, task: str) -> list[Label]:
        return self.classes[task].tolist()


class ChunkedImages:
    """The pictures of one file by row, for any thread and any forked process.

    The chunks that were read last stay decompressed. Every process makes its own handle, lock and
    cache at its first read, since none of the three survives a fork.
    """

    def __init__(self, path: str, key: str, block_size: int, blocks: int):
        self.path = path
        self.key = key
        self.block_size = block_size
        self.blocks = blocks  # the most decompressed chunks in memory
        self._readers: dict[int, BlockReader] = {}  # by process id

    def __getitem__(self, row: int) -> np.ndarray:
        """uint8 [H,W,3], a copy that its caller may change."""
        process = os.getpid()
        reader = self._readers.get(process)
        if reader is None:  # if several threads make one, all use the first
            reader = self._readers.setdefault(process, BlockReader(self))
        number, place = divmod(row, self.block_size)
        return reader.block(number)[place].copy()


class BlockReader:
    """One process's handle on a file, and its cache. The cache's lock guards both."""

    def __init__(self, images: ChunkedImages):
        self._images = images
        self._file: h5py.File | None = None
        self._cache = GroupCache(0, images.blocks)

    def block(self, number: int) -> np.ndarray:
        """The pictures of one chunk: uint8 [block_size or fewer,H,W,3]."""
        return self._cache.get(number, lambda: self._read(number))

    def _read(self, number: int) -> np.ndarray:
        size = self._images.block_size
        try:
            if self._file is None:
                self._file = h5py.File(self._images.path, "r", locking="best-effort")
            return self._file[self._images.key][number * size : (number + 1) * size]
        except (OSError, KeyError) as error:
            raise RecordError(f"chunk {number} of {self._images.path}: {error}") from error


def open_splits(data: ConfigDict, bad: BadRecords) -> Sources:
    """Train and val from the training file, test from the other, of the files that exist.

    The classes are those of training, or of the validation file if it is the only one.
    """
    paths = {split: os.path.join(data.path, file) for split, file in FILES.items()}
    paths = {split: path for split, path in paths.items() if os.path.exists(path)}
    if not paths:
        raise UserError(
            f"no {' or '.join(FILES.values())} in data.path={data.path!r}; let it be the local "
            "folder that holds them"
        )
    splits = {split: read_file(path, split, data) for split, path in paths.items()}
    if "train" in splits:
        whole = splits["train"]
        held_out = held_out_products(whole.products)
        splits |= {"train": subset(whole, ~held_out), "val": subset(whole, held_out)}
    tasks = find_tasks(splits["train" if "train" in splits else "test"])
    return {
        split: with_tasks(splits[split], split, tasks, bad)
        for split in ("train", "val", "test")
        if split in splits and len(splits[split])
    }


def read_file(path: str, name: str, data: ConfigDict) -> FashionGen:
    """All rows of one file, still without tasks."""
    with opened(path) as file:
        products = read_column(file, "productID")
        classes = {task: read_column(file, task) for task in TASKS}
        columns = [read_column(file, key) for key in text_keys(file, data.text)]
        images = None if data.image == "none" else find_images(file, data.image, len(products))
    texts = [" ".join(filter(None, parts)) or None for parts in zip(*columns, strict=True)]
    source = FashionGen(
        name=name,
        rows=np.arange(len(products)),
        products=products,
        texts=as_objects(texts or [None] * len(products)),
        classes=classes,
        tasks=(),
        images=images,
    )
    lengths = {len(values) for values in (products, source.texts, *classes.values())}
    if len(lengths) > 1:
        raise UserError(f"{path}: its columns differ in length ({lengths}); get the file again")
    return source


@contextlib.contextmanager
def opened(path: str) -> Iterator[h5py.File]:
    """Opens a file to read it. Raises UserError if it is broken."""
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            yield file
    except OSError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read ({reason}); get the file again") from error


def find(file: h5py.File, name: str) -> h5py.Dataset:
    """The file's data set `input_NAME`."""
    key = f"input_{name.removeprefix('input_')}"
    if key not in file:
        known = ", ".join(sorted(key for key in file if key.startswith("input_"))) or "no input_*"
        raise UserError(
            f"{file.filename} has no key {key!r}, only {known}; get the whole file, or name "
            "another key in data.text or data.image"
        )
    return file[key]


def text_keys(file: h5py.File, names: str) -> list[str]:
    """The columns that make the text: those of `data.text`, or the usual ones."""
    if names:
        return [] if names == "none" else [name.strip() for name in names.split(",")]
    if "input_concat_description" in file:
        return ["concat_description"]
    return ["name", "description"]


def read_column(file: h5py.File, name: str) -> np.ndarray:
    """A column as str, or None where it is empty: [N]. Equal values are one object."""
    dataset = find(file, name)
    decode_once = functools.cache(decode)
    values: list = []
    for start in range(0, len(dataset), ROWS_AT_ONCE):
        rows = dataset[start : start + ROWS_AT_ONCE]
        values += map(decode_once, rows.reshape(len(rows), -1)[:, 0].tolist())
    return as_objects(values)


def decode(value) -> str | None:
    """A cell as text, in UTF-8 or else Latin-1; its encoding is not documented."""
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:
            value = value.decode("latin-1")
    return str(value).strip() or None


def as_objects(values: Sequence[str | None]) -> np.ndarray:
    """An array of Python objects, since strings differ in length."""
    array = np.empty(len(values), object)
    array[:] = values
    return array


def find_images(file: h5py.File, name: str, rows: int) -> ChunkedImages:
    """The file's pictures."""
    images = find(file, name or "image")
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[::3] != (rows, 3):
        raise UserError(
            f"{file.filename}: {images.name} is {images.dtype} {images.shape}, not uint8 "
            f"({rows}, H, W, 3); name the pictures' key in data.image"
        )
    block_size = images.chunks[0] if images.chunks else UNCHUNKED
    blocks = max(2, CACHE_BYTES // (block_size * int(np.prod(images.shape[1:]))))
    return ChunkedImages(file.filename, images.name, block_size, blocks)


def held_out_products(products: np.ndarray) -> np.ndarray:
    """Which rows belong to val: bool [N], a function of the product's id alone."""
    chosen = {product: hash_share(str(product)) < VAL_SHARE for product in set(products.tolist())}
    return np.array([chosen[product] for product in products.tolist()], bool)


def subset(source: FashionGen, chosen: np.ndarray) -> FashionGen:
    """The rows where `chosen` is true. Parts of a file share the cache of its pictures."""
    return dataclasses.replace(
        source,
        rows=source.rows[chosen],
        products=source.products[chosen],
        texts=source.texts[chosen],
        classes={task: values[chosen] for task, values in source.classes.items()},
    )


def find_tasks(source: FashionGen) -> tuple[Task, ...]:
    """Category and subcategory with the classes that occur, sorted."""
    return tuple(
        Task(task, tuple(sorted(set(source.classes[task].tolist()) - {None}))) for task in TASKS
    )


def with_tasks(
    source: FashionGen, split: str, tasks: tuple[Task, ...], bad: BadRecords
) -> FashionGen:
    """The rows with tasks. A class that training lacks becomes an unknown label, and is listed."""
    classes = {task: values.copy() for task, values in source.classes.items()}
    unknown = collections.defaultdict(list)
    for task in tasks:
        values, known = classes[task.name], {None, *task.classes}
        for index, value in enumerate(values.tolist()):
            if value not in known:
                unknown[index].append(f"{task.name} {value}")
                values[index] = None
    for index, names in sorted(unknown.items()):
        bad.note(split, f"{source.name}-{source.rows[index]}", "unknown class", ", ".join(names))
    return dataclasses.replace(source, classes=classes, tasks=tasks)
