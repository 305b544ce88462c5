"""Frozen encoders run once: their outputs are kept on disk, and batches are read from there.

If both encoders are frozen and neither augmentation nor noise changes a pair, their outputs are
the same in every epoch, and only the fusion has to run. A split is encoded when its batches are
first needed, in the order of its records, into WORKDIR/features/SPLIT: one array for every entry
of a batch except the pictures, with the token sequences in bfloat16.
"""

import dataclasses
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cmaclip_jax.data.ahead import ahead
from cmaclip_jax.data.augment import Augment
from cmaclip_jax.data.batches import Batch
from cmaclip_jax.data.pseudo import PSEUDO
from cmaclip_jax.data.table_files import file_versions
from cmaclip_jax.data.view import NO_NOISE
from cmaclip_jax.files import full_disk, naming, write_text
from cmaclip_jax.models import Classification, CMAClip
from cmaclip_jax.parallel.mesh import batch_sharding, to_device
from cmaclip_jax.parallel.rules import tree_shardings
from cmaclip_jax.runs.data import RunData
from cmaclip_jax.training.assembly import Assembly
from cmaclip_jax.training.optimizer import frozen_parameters

AHEAD = 4  # batches that are read in advance
WHOLE = "whole.json"  # written last: the arrays of a split are complete where it exists
# numpy's files know no bfloat16, so its bits are stored as unsigned integers.
BITS = np.dtype(np.uint16)
SHARE_OF_DISK = 0.8  # of the free bytes, that the arrays may take


@dataclasses.dataclass(frozen=True)
class Features:
    """Batches as `RunData` gives them, with the outputs of the encoders instead of pictures."""

    data: RunData
    model: CMAClip
    mesh: Mesh
    folder: Path
    track: Callable[[Iterable, str, int], Iterable]

    def train_batches(self, start: int, params: Any) -> Iterator[Batch]:
        """The batches of step `start` and all that follow."""
        size, order = self.data.config.train.batch_size, self.data.order
        splits = [self.data.config.data.split, *([PSEUDO] if self.data.pseudo is not None else [])]
        parts = [self._arrays(split, params) for split in splits]

        def load(step: int) -> Batch:
            return _rows(parts, np.array(order.indices(range(step * size, (step + 1) * size))))

        return ahead(load, itertools.count(start), AHEAD)

    def eval_batches(self, split: str, params: Any) -> Iterator[Batch]:
        """Every pair of a split once; the last batch padded with rows of weight 0."""
        size, arrays = self.data.config.eval.batch_size, self._arrays(split, params)
        pairs = len(arrays["weight",])

        def load(first: int) -> Batch:
            batch = _rows([arrays], np.arange(first, first + size).clip(max=pairs - 1))
            batch["weight"][pairs - first :] = 0
            return batch

        return ahead(load, range(0, pairs, size), AHEAD)

    def too_large(self, shapes: Any) -> str:
        """The reason if the disk has no room for the sequences of all splits; '' if it has."""
        rows = self.data.config.eval.batch_size
        batch = jax.eval_shape(self._encoder(shapes), shapes, self.data.encode.empty(rows))
        size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(batch))
        sources = [*self.data.sources.values(), self.data.pseudo or ()]
        needed = size / rows * sum(map(len, sources))
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder.parent).free
        if self.folder.exists() or needed < SHARE_OF_DISK * free:
            return ""
        return f"their sequences need {needed / 1e9:,.1f} GB of the {free / 1e9:,.1f} GB free"

    def _arrays(self, split: str, params: Any) -> dict[tuple[str, ...], np.ndarray]:
        """A split's arrays, mapped from disk; encoded first where they are missing."""
        folder = self.folder / split
        whole = folder / WHOLE
        known = json.loads(whole.read_text()) if whole.exists() else {}
        if any(known.get(name) != value for name, value in self._of_split(split).items()):
            try:
                self._encode(split, params, folder)
            except OSError:  # for example a full disk: these arrays would keep it full
                shutil.rmtree(folder, ignore_errors=True)
                raise
        files = json.loads(whole.read_text())["files"]
        return {
            tuple(name.split("/")): np.load(folder / file, mmap_mode="r")
            for name, file in files.items()
        }

    def _encode(self, split: str, params: Any, folder: Path) -> None:
        """Runs the encoders over a split, and writes their outputs and the rest of the batches."""
        folder.mkdir(parents=True, exist_ok=True)
        sharding, pairs = batch_sharding(self.mesh), len(self.data.source(split))
        encode, files = self._encoder(params), {}
        batches = self.data.eval_batches(split, params)
        size = self.data.config.eval.batch_size
        for number, batch in enumerate(
            self.track(batches, f"encoding {split} once", -(-pairs // size))
        ):
            inputs = to_device({name: batch[name] for name in ("image", "tokens")}, sharding)
            sequences = jax.device_get(encode(params, inputs))
            for path, rows in flatten_dict({**batch, **sequences}).items():
                if path == ("image",):
                    continue
                rows = rows.view(BITS) if rows.dtype == ml_dtypes.bfloat16 else rows
                if path not in files:
                    shape, file = (pairs, *rows.shape[1:]), folder / f"{len(files)}.npy"
                    files[path] = _reserved(file, rows.dtype, shape)
                place = files[path][number * size : (number + 1) * size]
                place[:] = rows[: len(place)]
        for array in files.values():
            array.flush()
        names = {"/".join(path): Path(array.filename).name for path, array in files.items()}
        about = self._of_split(split) | {"files": names}
        write_text(folder / WHOLE, json.dumps(about, indent=1))

    def _of_split(self, split: str) -> dict[str, Any]:
        """What a split's arrays depend on and a run's config does not fix."""
        about: dict[str, Any] = {"pairs": len(self.data.source(split))}
        if split == PSEUDO:  # such a table is easily written anew
            about["table"] = file_versions(self.data.config.train.pseudo)
        return about

    def _encoder(self, params: Any) -> Callable:
        """`(params, batch) -> {image_tokens, text_tokens}` in bfloat16, jitted over the mesh."""
        towers = {"image": (self.model.image, "image"), "text": (self.model.text, "tokens")}

        def encode(params, batch):
            return {
                f"{name}_tokens": tower.apply({"params": params[name]}, batch[source])[0].astype(
                    jnp.bfloat16
                )
                for name, (tower, source) in towers.items()
                if tower is not None
            }

        return jax.jit(
            encode,
            in_shardings=(tree_shardings(params, self.mesh), batch_sharding(self.mesh)),
            out_shardings=NamedSharding(self.mesh, PartitionSpec()),
        )


def _reserved(file: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.memmap:
    """A new array in a file whose bytes are reserved on the disk.

    Without the reservation, writing to the array on a full disk would end the process by a signal.
    """
    with naming(file):
        array = np.lib.format.open_memmap(file, "w+", dtype, shape)
        with file.open("r+b") as opened:
            try:
                os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
            except OSError as error:
                if full_disk(error):
                    raise
            except AttributeError:  # not on this system
                pass
    return array


def with_features(
    data: RunData, assembly: Assembly, folder: Path, track: Callable
) -> tuple[RunData | Features, str]:
    """Where a run reads its batches, and a line with the reason; '' if not both are frozen."""
    objective, settings = assembly.objective, assembly.config.train
    if not isinstance(objective, Classification):
        return data, ""
    shapes = assembly.parameter_shapes
    frozen = flatten_dict(frozen_parameters(settings, shapes))
    if not all(still for path, still in frozen.items() if path[0] in ("image", "text")):
        return data, ""
    features = Features(data, objective.model, assembly.mesh, folder, track)
    why_not = _why_not_kept(data) or features.too_large(shapes)
    if why_not:
        return data, f"the encoders are frozen, yet run at every step: {why_not}"
    return features, f"the encoders are frozen: each pair goes through them once, into {folder}"


def _why_not_kept(data: RunData) -> str:
    """The reason if frozen encoders do not return the same every time; '' if they do."""
    view = data.view(training=True)
    if view.augment != Augment(magnitude=view.augment.magnitude):
        return "data.augment shows every pair differently each time"
    if data.config.model.tower_dropout:
        return "model.tower_dropout drops something else each time"
    if (view.noise, data.view(training=False).noise) != (NO_NOISE, NO_NOISE):
        return "data.noise changes what the encoders see"
    return "there are several hosts" if jax.process_count() > 1 else ""


def _rows(parts: Sequence[dict[tuple[str, ...], np.ndarray]], indices: np.ndarray) -> Batch:
    """These rows of all arrays, as a batch. indices: counted through all parts."""
    rows, first = {}, 0
    for arrays in parts:
        end = first + len(arrays["weight",])
        here = (indices >= first) & (indices < end)
        for path, array in arrays.items():
            if path not in rows:
                rows[path] = np.empty((len(indices), *array.shape[1:]), array.dtype)
            rows[path][here] = array[indices[here] - first]
        first = end
    for path in rows:
        if path[0].endswith("_tokens"):
            rows[path] = rows[path].view(ml_dtypes.bfloat16)
    return unflatten_dict(rows)
