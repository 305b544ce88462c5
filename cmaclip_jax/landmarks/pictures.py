"""Pictures of faces with their points, drawn or cut out of larger ones; and batches of them."""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from cmaclip_jax.data.images import open_image
from cmaclip_jax.data.order import Order
from cmaclip_jax.errors import UserError
from cmaclip_jax.landmarks.face_generator import FaceGenerator
from cmaclip_jax.landmarks.layouts import layout_of
from cmaclip_jax.landmarks.metrics import face_sizes
from cmaclip_jax.landmarks.tracks import read_points
from cmaclip_jax.models.objectives import Batch

MARGIN = 0.25  # of the box around the points, on every side of it


@dataclasses.dataclass(frozen=True)
class AnnotatedFaces:
    """
    images: u8 [N,S,S,3].
    points: [N,P,2], x before y, 0 to 1 is the picture; NaN where unknown.
    """

    images: np.ndarray
    points: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """How large every face is, in units of the outer eye distance of the median face: [N].

        From the spread of all points: an eye corner that somebody put in the wrong place would
        make a face seem small, and its errors count many times over.
        """
        spreads = face_sizes(self.points, None)
        eyes = face_sizes(self.points, layout_of(self.points.shape[1]))
        return spreads * np.nanmedian(eyes / spreads)

    def first(self, count: int) -> "AnnotatedFaces":
        """The first so many of them."""
        return AnnotatedFaces(self.images[:count], self.points[:count])

    def with_points(self, points: np.ndarray) -> "AnnotatedFaces":
        """The same pictures as somebody else has marked them."""
        return dataclasses.replace(self, points=points)


def drawn_faces(generator: FaceGenerator, first: int, count: int) -> AnnotatedFaces:
    """Drawn stills, with the truth."""
    images, points = zip(*(generator.still(first + i) for i in range(count)), strict=True)
    return AnnotatedFaces(np.stack(images), np.stack(points) / generator.size)


def drawn_videos(
    generator: FaceGenerator, first: int, count: int, frames: int
) -> list[AnnotatedFaces]:
    """Drawn videos, with the truth."""
    videos = (generator.video(first + i, frames) for i in range(count))
    return [AnnotatedFaces(images, points / generator.size) for images, points in videos]


def read_face(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """A picture u8 [H,W,3], and the points [P,2] in pixels of the `.pts` file beside it."""
    marks = file.with_suffix(".pts")
    track = read_points(marks)
    if track.missing_frames:
        raise UserError(f"{marks} holds no points; take it away, or the picture's name from it")
    return np.asarray(open_image(file)), track.points[0]


def cut_out(picture: np.ndarray, points: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The square around the points [P,2] in pixels, as u8 [S,S,3], and the points in it, 0 to 1.

    Where it leaves the picture, the picture's edge repeats.
    """
    low, high = np.nanmin(points, axis=0), np.nanmax(points, axis=0)
    side = max((high - low).max(), 1.0) * (1 + 2 * MARGIN)
    corner = (low + high - side) / 2
    height, width = picture.shape[:2]
    before = np.maximum(np.ceil(-corner), 0).astype(int)
    after = np.maximum(np.ceil(corner + side - (width, height)), 0).astype(int)
    (left, top), (right, bottom) = before, after
    padded = np.pad(picture, ((top, bottom), (left, right), (0, 0)), mode="edge")
    box = (*(corner + before), *(corner + before + side))
    square = Image.fromarray(padded).resize((size, size), Image.BILINEAR, box=box)
    return np.asarray(square), (points - corner) / side


def train_batches(
    faces: AnnotatedFaces, seed: int, batch_size: int, start: int, rows: np.ndarray
) -> Iterator[Batch]:
    """This host's rows of the batches for step `start` and all that follow."""
    order, sizes = Order(len(faces.images), seed), faces.sizes
    for step in itertools.count(start):
        chosen = order.indices(step * batch_size + rows)
        yield batch_of(faces.images[chosen], faces.points[chosen], sizes[chosen])


def batch_of(images: np.ndarray, points: np.ndarray, sizes: np.ndarray) -> Batch:
    """The arrays that `Landmarks` takes."""
    return {
        "image": images,
        "points": points.astype(np.float32),
        "size": sizes.astype(np.float32),
        "weight": np.ones(len(images), np.float32),
    }
