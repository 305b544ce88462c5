"""The landmarks of a video or of a set of pictures, read from files of several formats."""

import dataclasses
import zipfile
from pathlib import Path

import numpy as np

from cmaclip_jax.errors import UserError
from cmaclip_jax.landmarks.layouts import Layout, layout_of
from cmaclip_jax.landmarks.matlab_points import read_mat
from cmaclip_jax.landmarks.text_points import natural, read_pts, read_table

KINDS = "a .csv, .tsv, .npz, .mat or .pts file, or a folder of .pts or .mat files"


@dataclasses.dataclass(frozen=True)
class Track:
    """Points frame by frame.

    points: [frames, points, 2] in pixels, NaN where missing.
    valid: [frames], whether a frame has any point.
    names: of the frames, in order. named: False if the file has no names and frames are numbered.
    """

    points: np.ndarray
    valid: np.ndarray
    names: tuple[str, ...]
    named: bool = True

    @property
    def missing_frames(self) -> int:
        """The number of frames without any point."""
        return int((~self.valid).sum())

    @property
    def missing_points(self) -> int:
        """The number of missing points in frames that have at least one."""
        return int(np.isnan(self.points[self.valid]).any(-1).sum())

    @property
    def layout(self) -> Layout | None:
        """The layout with this number of points."""
        return layout_of(self.points.shape[1])


def read_points(path: str | Path) -> Track:
    """The landmarks in a file or a folder, with frames in natural order of their names."""
    path = Path(path)
    if path.is_dir():
        return _folder(path)
    if not path.exists():
        raise UserError(f"{path} is not there; name {KINDS}")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{path}: points are not read from {path.suffix or 'such'} files: {KINDS}")
    try:
        names, points = reader(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from error
    return _track(path, names, points)


def _track(path: Path, names: list[str] | None, points: np.ndarray) -> Track:
    """Sorts the frames; a point with one missing coordinate is missing."""
    named = names is not None
    names = names if named else [str(number) for number in range(len(points))]
    if not points.size:
        raise UserError(f"{path} holds no points; name {KINDS}")
    order = sorted(range(len(names)), key=lambda number: natural(names[number]))
    points = points[order].astype(np.float64)
    known = np.isfinite(points).all(-1)
    points[~known] = np.nan
    return Track(points, known.any(-1), tuple(names[number] for number in order), named)


def _folder(folder: Path) -> Track:
    """A folder of one file per frame, all of one format."""
    files = [x for x in folder.iterdir() if x.suffix.lower() in (".pts", ".mat")]
    kinds = {file.suffix.lower() for file in files}
    if not files:
        raise UserError(f"{folder} has no .pts or .mat files; name {KINDS}")
    if len(kinds) > 1:
        raise UserError(f"{folder} has both .pts and .mat files; keep those of one kind in it")
    files.sort(key=lambda file: natural(file.stem))
    frames = []
    for file in files:
        _, points = READERS[file.suffix.lower()](file)
        if len(points) != 1:
            raise UserError(f"{file} holds {len(points)} faces; name that file, not its folder")
        if frames and points.shape != frames[0].shape:
            raise UserError(
                f"{file} has {points.shape[1]} points and {files[0].name} {frames[0].shape[1]}; "
                "keep those with the same number of points in a folder"
            )
        frames.append(points)
    return _track(folder, [file.stem for file in files], np.concatenate(frames))


def _read_npz(path: Path) -> tuple[None, np.ndarray]:
    """The array `points`, or the only array with three axes; `valid` marks the valid frames."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{path} is no .npz of plain arrays; write it with np.savez") from error
    frames = [name for name, array in arrays.items() if array.ndim == 3]
    name = "points" if "points" in arrays else frames[0] if len(frames) == 1 else None
    if name is None:
        raise UserError(f"{path}: call the array of points 'points'; it has {', '.join(arrays)}")
    points = arrays[name]
    if points.ndim != 3 or points.shape[-1] != 2 or points.dtype.kind not in "fiu":
        raise UserError(
            f"{path}: {name!r} is {points.dtype} of shape {list(points.shape)}; "
            "it should be numbers of shape [frames, points, 2]"
        )
    points = points.astype(np.float64)
    if "valid" in arrays:
        if arrays["valid"].shape != points.shape[:1]:
            raise UserError(f"{path}: 'valid' should have one value a frame, {len(points)} in all")
        points[~arrays["valid"].astype(bool)] = np.nan
    return None, points


READERS = {
    ".pts": read_pts,
    ".csv": read_table,
    ".tsv": read_table,
    ".mat": read_mat,
    ".npz": _read_npz,
}
