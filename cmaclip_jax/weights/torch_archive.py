"""Reads tensors from PyTorch files, without PyTorch and without running code from the file.

Such a file is a zip of raw storages and a pickled index of them. A pickle is a program. This reader
replaces the few functions and classes that an index of tensors needs by harmless ones. It refuses
all others by name, before any is called.
"""

import collections
import io
import pickle
import pickletools
import zipfile
from collections.abc import Callable
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

# The pickle opcodes that an index of tensors needs. A file with other opcodes is refused.
OPCODES = frozenset(
    """PROTO STOP MARK GLOBAL REDUCE BUILD NEWOBJ BINPERSID BINPUT LONG_BINPUT BINGET LONG_BINGET
    EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT SETITEM SETITEMS EMPTY_LIST APPEND APPENDS
    NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE
    SHORT_BINUNICODE MEMOIZE FRAME STACK_GLOBAL""".split()  # noqa: SIM905
)


class Inert:
    """An object that a file may use but not change."""

    __slots__ = ()

    def __setstate__(self, state):
        raise pickle.UnpicklingError(f"it tries to change a {type(self).__name__}")


class Storage(Inert):
    """A storage of the archive: its type and the name of its data."""

    __slots__ = ("dtype", "key")

    def __init__(self, dtype, key: str):
        self.dtype, self.key = dtype, key


class StorageType(Inert):
    """Replaces torch.FloatStorage and the like."""

    __slots__ = ("dtype",)

    def __init__(self, dtype):
        self.dtype = dtype


class StoredTensor(Inert):
    """A tensor whose shape is known. Its numbers are still in the file."""

    __slots__ = ("offset", "shape", "storage", "strides")

    def __init__(self, storage: Storage, offset: int, shape, strides):
        numbers = [offset, *shape, *strides]
        if not isinstance(storage, Storage) or any(type(n) is not int or n < 0 for n in numbers):
            raise pickle.UnpicklingError("a tensor without storage or with an odd shape")
        self.storage, self.offset = storage, offset
        self.shape, self.strides = tuple(shape), tuple(strides)

    def part_of(self, numbers: np.ndarray) -> np.ndarray:
        """The tensor, given the numbers of its storage. It must not reach beyond them."""
        if 0 in self.shape:
            return np.zeros(self.shape, numbers.dtype)
        steps = zip(self.shape, self.strides, strict=True)
        last = self.offset + sum((size - 1) * stride for size, stride in steps)
        if last >= numbers.size:
            raise pickle.UnpicklingError("a tensor reaches beyond its storage")
        strides = [stride * numbers.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(numbers[self.offset :], self.shape, strides)


class Module:
    """Replaces every class that a TorchScript archive defines; only keeps attributes."""

    def __setstate__(self, state):
        self.__dict__.update(state if isinstance(state, dict) else {})


class Function(Inert):
    """A function that a file may call. Unlike a plain function it has no attributes to change."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable):
        self._function = function

    def __call__(self, *arguments):
        return self._function(*arguments)


def _rebuild_tensor(storage, offset, shape, strides, requires_grad, hooks, metadata=None):
    if metadata:
        raise pickle.UnpicklingError(f"a tensor that is a view with {metadata}")
    return StoredTensor(storage, offset, shape, strides)


UNWRAP = Function(lambda value, *_: value)  # replaces wrappers around a value
TYPED = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist")
ALLOWED = {
    "torch._utils._rebuild_tensor_v2": Function(_rebuild_tensor),
    "torch._utils._rebuild_parameter": UNWRAP,
    "collections.OrderedDict": collections.OrderedDict,
    # Typed lists and tags of TorchScript, around plain values.
    **{f"torch.jit._pickle.{name}": UNWRAP for name in (*TYPED, "restore_type_tag")},
    **{f"torch.{name}": StorageType(dtype) for name, dtype in STORAGES.items()},
}


class TensorReader(pickle.Unpickler):
    """Reads an index of tensors. It imports nothing, and calls nothing that is not in ALLOWED."""

    def __init__(self, file, path: Path):
        super().__init__(file)
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return Module
        full_name = f"{module}.{name}"
        if full_name not in ALLOWED:
            raise UserError(
                f"{self.path} asks to run {full_name!r} and was refused; save the weights alone "
                "(torch.save(model.state_dict(), FILE)) or as safetensors"
            )
        return ALLOWED[full_name]

    def persistent_load(self, pid):
        kind, storage, key, *_ = pid
        if kind != "storage" or type(storage) is not StorageType or not isinstance(key, str):
            raise pickle.UnpicklingError("a storage of an unknown kind")
        return Storage(storage.dtype, key)


def read_torch_archive(path: Path) -> Tensors:
    """{name: tensor} of a `.bin` or `.pt` file, a state dict or TorchScript."""
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
            content = archive.read(index)
            _check_opcodes(content)
            stored = _state_dict(_attributes(TensorReader(io.BytesIO(content), path).load()))
            places = {name: (x.storage.key, x.storage.dtype) for name, x in stored.items()}
            numbers = {
                (key, dtype): np.frombuffer(archive.read(f"{prefix}data/{key}"), dtype)
                for key, dtype in set(places.values())
            }
            return {name: x.part_of(numbers[places[name]]) for name, x in stored.items()}
    except UserError:
        raise
    except zipfile.BadZipFile as error:
        raise UserError(_why_not_a_zip(path)) from error
    except Exception as error:  # a damaged file can raise any error in zip, pickle and numpy
        raise UserError(f"{path} is damaged or no file of tensors ({error!r})") from error


def _check_opcodes(content: bytes) -> None:
    """Refuses an index with other opcodes, or with memo indices that are too high."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if opcode.name not in OPCODES:
            raise pickle.UnpicklingError(f"its pickle uses {opcode.name}, which no tensor needs")
        if opcode.name == "LONG_BINPUT" and argument > count:
            raise pickle.UnpicklingError("its memo has an index that is too high")


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


def _state_dict(content: Any) -> dict[str, StoredTensor]:
    """The named tensors of a state dict, nested or wrapped as training scripts wrap it."""
    if not isinstance(content, dict):
        raise pickle.UnpicklingError("no tensors by name")
    if isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    return dict(_flatten(content))


def _flatten(content: dict, prefix: str = ""):
    for name, value in content.items():
        if isinstance(value, StoredTensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
