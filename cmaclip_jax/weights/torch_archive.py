"""Tensors out of PyTorch's files, without PyTorch and without running what they ask for.

Such a file is a zip of raw storages and a pickled index over them. A pickle is a small
program; the reader here knows the few words that tensors are made of, gives harmless
stand-ins for them, and refuses any other by name before it could be called.
"""

import collections
import pickle
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from cmaclip_jax.errors import UserError
from cmaclip_jax.weights.layout import Tensors

STORAGES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


class Stored:
    """A tensor that is still in its file: its shape is known, its numbers are not read."""

    def __init__(self, storage, offset: int, shape, strides):
        self.storage, self.offset = storage, int(offset)
        self.shape = tuple(int(size) for size in shape)
        self.strides = tuple(int(stride) for stride in strides)

    def read(self, archive: zipfile.ZipFile, prefix: str) -> np.ndarray:
        """The numbers; a tensor that reaches beyond its storage is refused."""
        dtype, key = self.storage
        flat = np.frombuffer(archive.read(f"{prefix}data/{key}"), dtype)
        last = self.offset + sum(
            (size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True)
        )
        if 0 in self.shape:
            return np.zeros(self.shape, dtype)
        if self.offset < 0 or min(self.strides, default=0) < 0 or last >= flat.size:
            raise UserError(f"a tensor reaches beyond storage {key}; the file is damaged")
        strides = [stride * flat.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, strides)


class Module:
    """What stands in for any class that a TorchScript archive defines: a bag of attributes."""

    def __setstate__(self, state):
        self.__dict__.update(state if isinstance(state, dict) else {})


class StorageType:
    """What stands in for torch.FloatStorage and its kin."""

    def __init__(self, dtype):
        self.dtype = dtype


def _tensor(storage, offset, shape, strides, *_) -> Stored:
    return Stored(storage, offset, shape, strides)


def _first(value, *_):
    return value


WORDS = {
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _first,
    "collections.OrderedDict": collections.OrderedDict,
    # Typed lists and tags of TorchScript, around plain values.
    "torch.jit._pickle.build_intlist": _first,
    "torch.jit._pickle.build_doublelist": _first,
    "torch.jit._pickle.build_boollist": _first,
    "torch.jit._pickle.build_tensorlist": _first,
    "torch.jit._pickle.restore_type_tag": _first,
    **{f"torch.{name}": StorageType(dtype) for name, dtype in STORAGES.items()},
}


class TensorReader(pickle.Unpickler):
    """Reads an index of tensors; it never imports and never calls anything but WORDS."""

    def __init__(self, file, path: Path):
        super().__init__(file)
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return Module
        word = f"{module}.{name}"
        if word not in WORDS:
            raise UserError(
                f"{self.path} asks to run {word!r} and was refused; save the weights alone "
                "(torch.save(model.state_dict(), FILE)) or as safetensors"
            )
        return WORDS[word]

    def persistent_load(self, pid):
        kind, storage, key, *_ = pid
        if kind != "storage" or not isinstance(storage, StorageType):
            raise UserError(f"{self.path} holds a {kind!r}, not a tensor storage")
        return storage.dtype, str(key)


def read_torch_archive(path: Path) -> Tensors:
    """Every tensor of a `.bin` or `.pt` file by name, state dict or TorchScript."""
    try:
        with zipfile.ZipFile(path) as archive:
            index = next(
                (name for name in archive.namelist() if name.split("/")[1:] == ["data.pkl"]), None
            )
            if index is None:
                raise UserError(f"{path} is a zip file without PyTorch's data.pkl in it")
            prefix = index.removesuffix("data.pkl")
            order = f"{prefix}byteorder"
            if order in archive.namelist() and archive.read(order) != b"little":
                raise UserError(f"{path} was saved on a big-endian machine; convert it there")
            with archive.open(index) as file:
                content = TensorReader(file, path).load()
            stored = _state_dict(_attributes(content))
            return {name: x.read(archive, prefix) for name, x in stored.items()}
    except zipfile.BadZipFile as error:
        raise UserError(_why_not_a_zip(path)) from error
    except (
        pickle.UnpicklingError,
        EOFError,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
    ) as error:
        raise UserError(f"{path} is damaged or no file of tensors ({error})") from error


def _why_not_a_zip(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith(b"PK"):
        return f"{path} is cut short or damaged; fetch it again"
    if start.startswith(b"\x80"):
        return (
            f"{path} is in PyTorch's format of before version 1.6; load it there once and save it "
            "again with torch.save, or as safetensors"
        )
    return f"{path} is no PyTorch file"


def _attributes(content: Any) -> Any:
    """A TorchScript module as nested dicts."""
    if isinstance(content, Module):
        return {name: _attributes(value) for name, value in vars(content).items()}
    return content


def _state_dict(content: Any) -> dict[str, Stored]:
    """The named tensors of a state dict, nested or wrapped as training scripts wrap it."""
    if not isinstance(content, dict):
        raise UserError("the file holds no tensors by name")
    if isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    flat = dict(_flatten(content))
    if all(name.startswith("module.") for name in flat):
        flat = {name.removeprefix("module."): x for name, x in flat.items()}
    return flat


def _flatten(content: dict, prefix: str = ""):
    for name, value in content.items():
        if isinstance(value, Stored):
            yield f"{prefix}{name}", value
        elif isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
