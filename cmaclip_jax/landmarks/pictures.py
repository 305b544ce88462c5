"""Pictures of faces with their points, drawn or cut out of photographs; and their batches."""

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

MARGIN = 0.25  # on every side, in shares of the box around the points


@dataclasses.dataclass(frozen=True)
class AnnotatedFaces:
    """Pictures of faces and their points.

    images: u8 [N,S,S,3].
    points: [N,P,2], x before y; 0 to 1 spans the picture; NaN is unknown.
    """

    images: np.ndarray
    points: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """The sizes of the faces, scaled to the outer eye distance of the median face: [N].

        They come from the spread of all points. A misplaced eye corner would make a face seem small
        by its eye distance, so that its errors would weigh too much.
        """
        spreads = face_sizes(self.points, None)
        eyes = face_sizes(self.points, layout_of(self.points.shape[1]))
        return spreads * np.nanmedian(eyes / spreads)

    def first(self, count: int) -> "AnnotatedFaces":
        """The first `count` faces."""
        return AnnotatedFaces(self.images[:count], self.points[:count])

    def with_points(self, points: np.ndarray) -> "AnnotatedFaces":
        """The same pictures with other points."""
        return dataclasses.replace(self, points=points)


def drawn_faces(generator: FaceGenerator, first: int, count: int) -> AnnotatedFaces:
    """Drawn stills with their true points."""
    images, points = zip(*(generator.still(first + i) for i in range(count)), strict=True)
    return AnnotatedFaces(np.stack(images), np.stack(points) / generator.size)


def drawn_videos(
    generator: FaceGenerator, first: int, count: int, frames: int
) -> list[AnnotatedFaces]:
    """Drawn videos with their true points."""
    videos = (generator.video(first + i, frames) for i in range(count))
    return [AnnotatedFaces(images, points / generator.size) for images, points in videos]


def read_face(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """A picture u8 [H,W,3], and the points [P,2] in pixels of the `.pts` file beside it."""
    marks = file.with_suffix(".pts")
    track = read_points(marks)
    if track.missing_frames:
        raise UserError(f"{marks} holds no points; delete it, so that the picture is skipped")
    return np.asarray(open_image(file)), track.points[0]


def cut_out(picture: np.ndarray, points: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts out a square around the points [P,2] (in pixels).

    Returns it as u8 [S,S,3], and the points in it (0 to 1). Outside the picture its edge repeats.
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
    """This host's rows of the batches from step `start` on."""
    order, sizes = Order(len(faces.images), seed), faces.sizes
    for step in itertools.count(start):
        chosen = order.indices(step * batch_size + rows)
        yield batch_of(faces.images[chosen], faces.points[chosen], sizes[chosen])


def batch_of(images: np.ndarray, points: np.ndarray, sizes: np.ndarray) -> Batch:
    """A batch for the objective `Landmarks`."""
    return {
        "image": images,
        "points": points.astype(np.float32),
        "size": sizes.astype(np.float32),
        "weight": np.ones(len(images), np.float32),
    }
