"""Landmarks in MATLAB files of version 5 and of version 7.3, which is HDF5.

300W-LP has a face per file: `pt2d`, x above y. COFW has a row per face: 29 x, 29 y and 29 flags of
hidden points, which are not used. Other files hold a video in one array, with any name and one of
several orders of axes.
"""

from pathlib import Path

import h5py
import numpy as np
from scipy.io import loadmat, whosmat

from cmaclip_jax.errors import UserError
from cmaclip_jax.landmarks.layouts import layout_of

ROWS = ("phisTr", "phisT", "phis")  # COFW: training, test, later versions
NUMBERS = ("single", "double", *(f"{u}int{bits}" for u in ("", "u") for bits in (8, 16, 32, 64)))
ORDERS = "[frames, points, 2], [2, points, frames] or [points, 2, frames]"

Named = tuple[list[str] | None, np.ndarray]  # names of the faces, if any, and [faces, points, 2]
Shapes = dict[str, tuple[int, ...]]


def read_mat(path: Path) -> Named:
    """Names of the faces, or None, and their points [faces, points, 2]."""
    try:
        hdf5 = h5py.is_hdf5(path)
        shapes = _shapes_in_hdf5(path) if hdf5 else _shapes(path)
        name = _chosen(path, shapes)
        array = _from_hdf5(path, name) if hdf5 else loadmat(path, variable_names=[name])[name]
    except UserError:
        raise
    except Exception as error:  # scipy and h5py raise many types for a broken file
        raise UserError(f"{path} cannot be read as a .mat file; get it again") from error
    if array.dtype.kind not in "fiu":
        raise UserError(f"{path}: {name} holds complex numbers; save x and y apart, as {ORDERS}")
    if name in ROWS and array.ndim == 2:
        return None, _from_rows(path, name, array)
    points = _ordered(path, name, array).astype(np.float64)
    return [path.stem] if array.ndim == 2 else None, points  # a file with one face, or a video


def _chosen(path: Path, shapes: Shapes) -> str:
    """The name of the array of points: a known name, else the only array of a possible shape."""
    for name in ("pt2d", *ROWS):
        if name in shapes:
            return name
    candidates = [name for name, shape in shapes.items() if len(shape) == 3 and 2 in shape]
    candidates = candidates or [name for name, shape in shapes.items() if _is_face(shape)]
    if len(candidates) == 1 or "points" in candidates:
        return "points" if "points" in candidates else candidates[0]
    if candidates:
        raise UserError(
            f"{path} has several arrays that could hold points ({', '.join(candidates)}); "
            "call the one that counts 'points'"
        )
    arrays = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items()) or "no numbers"
    raise UserError(f"{path} holds no points, but {arrays}; save them as {ORDERS}, under any name")


def _is_face(shape: tuple[int, ...]) -> bool:
    """Whether a matrix can be one face: [2, points] or [points, 2], with more than 2 points."""
    return len(shape) == 2 and min(shape) == 2 < max(shape)


def _ordered(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    """An array in one of `ORDERS` as [frames, points, 2]; an ambiguous shape is an error."""
    shape = list(array.shape)
    if array.ndim not in (2, 3) or 2 not in shape:
        raise UserError(f"{path}: {name} should be of shape {ORDERS}, not {shape}")
    if array.ndim == 2:  # MATLAB drops a last axis of size one, here the frames
        array = array[..., None]
    axes = {0: (2, 1, 0), 1: (2, 0, 1), 2: (0, 1, 2)}[array.shape.index(2)]
    points = array.transpose(axes)
    frames, count, _ = points.shape
    swapped = layout_of(frames) is not None and layout_of(count) is None
    if shape.count(2) > 1 or swapped:
        raise UserError(
            f"{path}: {name}, of shape {shape}, could be meant in several ways; write a table "
            "frame,x0,y0,x1,y1,... or a .npz with points [frames, points, 2]"
        )
    return points


def _from_rows(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    """COFW's rows as [faces, points, 2]."""
    if array.shape[1] % 3:
        raise UserError(
            f"{path}: a row of {name} should be all x, all y and all flags, as 3 * 29 = 87; "
            f"it has {array.shape[1]} numbers"
        )
    faces, count = len(array), array.shape[1] // 3
    return array.reshape(faces, 3, count)[:, :2].transpose(0, 2, 1).astype(np.float64)


def _shapes(path: Path) -> Shapes:
    """The arrays of numbers in a file of version 5."""
    return {name: shape for name, shape, kind in whosmat(path) if kind in NUMBERS}


def _shapes_in_hdf5(path: Path) -> Shapes:
    """The arrays of numbers in a file of version 7.3, where MATLAB stores text as numbers."""
    with h5py.File(path, "r", locking="best-effort") as file:
        arrays = {name: array for name, array in file.items() if isinstance(array, h5py.Dataset)}
        return {
            name: array.shape[::-1]
            for name, array in arrays.items()
            if array.dtype.kind in "fiu" and array.attrs.get("MATLAB_class") != b"char"
        }


def _from_hdf5(path: Path, name: str) -> np.ndarray:
    """MATLAB stores columns first: [87, faces] in HDF5 is [faces, 87] in MATLAB."""
    with h5py.File(path, "r", locking="best-effort") as file:
        return file[name][()].T
