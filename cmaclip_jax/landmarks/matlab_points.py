"""Landmarks in MATLAB's files, of version 5 and of version 7.3, which is HDF5.

300W-LP keeps a face per file: `pt2d`, x above y. COFW keeps a row per face: 29 x, 29 y, and
29 flags of what is hidden, which are not used.
"""

from pathlib import Path

import h5py
import numpy as np
from scipy.io import loadmat

from cmaclip_jax.errors import UserError

ROWS = ("phisTr", "phisT", "phis")  # COFW: in training, in the test, in its later versions
KEYS = ("pt2d", *ROWS)


def read_mat(path: Path) -> tuple[list[str] | None, np.ndarray]:
    """Names of the faces, if it has them, and their points [faces, points, 2]."""
    name, array = _array(path)
    if array.dtype.kind not in "fiu" or array.ndim != 2:
        raise UserError(f"{path}: {name} should be a matrix of numbers; get the file again")
    if name == "pt2d":
        if len(array) != 2:
            raise UserError(f"{path}: pt2d should be of shape [2, points], not {array.shape}")
        return [path.stem], array.T[None].astype(np.float64)
    if array.shape[1] % 3:
        raise UserError(
            f"{path}: a row of {name} should be all x, all y and all flags, as 3 * 29 = 87; "
            f"it has {array.shape[1]} numbers"
        )
    faces, count = len(array), array.shape[1] // 3
    points = array.reshape(faces, 3, count)[:, :2].transpose(0, 2, 1)  # [faces, points, 2]
    return None, points.astype(np.float64)


def _array(path: Path) -> tuple[str, np.ndarray]:
    """The first of KEYS that the file has, and its matrix as MATLAB shows it."""
    try:
        found = _from_hdf5(path) if h5py.is_hdf5(path) else loadmat(path, variable_names=KEYS)
    except Exception as error:  # a broken file fails in many ways
        raise UserError(f"{path} is no .mat file that can be read; get it again") from error
    for name in KEYS:
        if name in found:
            return name, np.asarray(found[name])
    raise UserError(f"{path} has none of {', '.join(KEYS)}; save the points under one of them")


def _from_hdf5(path: Path) -> dict[str, np.ndarray]:
    """MATLAB stores columns first: what HDF5 calls [87, faces] is [faces, 87] there."""
    with h5py.File(path, "r", locking="best-effort") as file:
        return {name: file[name][()].T for name in KEYS if name in file}
