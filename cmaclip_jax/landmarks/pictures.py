"""Pictures of faces with their points: drawn, from a folder, or from TFDS; and batches of them."""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from cmaclip_jax.data.order import Order
from cmaclip_jax.errors import UserError
from cmaclip_jax.landmarks.faces import Faces
from cmaclip_jax.landmarks.layouts import layout_of
from cmaclip_jax.landmarks.metrics import face_sizes
from cmaclip_jax.landmarks.tracks import read_points
from cmaclip_jax.models.objectives import Batch

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
MARGIN = 0.25  # of the box around the points, on every side of it


@dataclasses.dataclass(frozen=True)
class Marked:
    """
    images: u8 [N,S,S,3].
    points: [N,P,2], x before y, 0 to 1 is the picture; NaN where unknown.
    """

    images: np.ndarray
    points: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """The distance of the outer eye corners [N], or what stands for it."""
        return face_sizes(self.points, layout_of(self.points.shape[1]))

    def with_points(self, points: np.ndarray) -> "Marked":
        """The same pictures as somebody else has marked them."""
        return dataclasses.replace(self, points=points)


def drawn_faces(faces: Faces, first: int, count: int) -> Marked:
    """Drawn stills, with the truth."""
    images, points = zip(*(faces.still(first + i) for i in range(count)), strict=True)
    return Marked(np.stack(images), np.stack(points) / faces.size)


def drawn_videos(faces: Faces, first: int, count: int, frames: int) -> list[Marked]:
    """Drawn videos, with the truth."""
    videos = (faces.video(first + i, frames) for i in range(count))
    return [Marked(images, points / faces.size) for images, points in videos]


def folder_of_faces(folder: Path, size: int) -> Marked:
    """Pictures with a `.pts` file of the same name beside each, cut around the points."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    pairs = [(file, file.with_suffix(".pts")) for file in files]
    pairs = [(file, marks) for file, marks in pairs if marks.exists()]
    if not pairs:
        raise UserError(f"{folder} holds no picture with a .pts file of its name beside it")
    marked = [
        cut_out(Image.open(file), read_points(marks).points[0], size) for file, marks in pairs
    ]
    images, points = zip(*marked, strict=True)
    return Marked(np.stack(images), np.stack(points))


def cut_out(picture: Image.Image, points: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The square around the points [P,2] in pixels, as u8 [S,S,3], and the points in it, 0 to 1."""
    low, high = np.nanmin(points, axis=0), np.nanmax(points, axis=0)
    side = max((high - low).max(), 1.0) * (1 + 2 * MARGIN)
    corner = (low + high - side) / 2
    box = (*corner, *(corner + side))
    square = picture.convert("RGB").resize((size, size), Image.BILINEAR, box=_inside(box, picture))
    corner, extent = np.array(_inside(box, picture)).reshape(2, 2)
    return np.asarray(square), (points - corner) / (extent - corner)


def _inside(box, picture: Image.Image) -> tuple[float, ...]:
    """The part of a box that the picture has."""
    left, top, right, bottom = box
    return max(left, 0), max(top, 0), min(right, picture.width), min(bottom, picture.height)


def train_batches(
    marked: Marked, seed: int, batch_size: int, start: int, rows: np.ndarray
) -> Iterator[Batch]:
    """This host's rows of the batches for step `start` and all that follow."""
    order, sizes = Order(len(marked.images), seed), marked.sizes
    for step in itertools.count(start):
        chosen = order.indices(step * batch_size + rows)
        yield batch_of(marked.images[chosen], marked.points[chosen], sizes[chosen])


def batch_of(images: np.ndarray, points: np.ndarray, sizes: np.ndarray) -> Batch:
    """The arrays that `Landmarks` takes."""
    return {
        "image": images,
        "points": points.astype(np.float32),
        "size": sizes.astype(np.float32),
        "weight": np.ones(len(images), np.float32),
    }
