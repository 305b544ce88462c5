"""The faces of a study: drawn, from a folder, or from TFDS's `the300w_lp`.

No video of real faces comes with exactly known points. So their videos are simulated: a camera that
moves a little films a still, and the motion of its points is known exactly. That choice is ours.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from cmaclip_jax.errors import UserError
from cmaclip_jax.landmarks.face_generator import FaceGenerator
from cmaclip_jax.landmarks.layouts import layout_of
from cmaclip_jax.landmarks.pictures import (
    AnnotatedFaces,
    cut_out,
    drawn_faces,
    drawn_videos,
    read_face,
)
from cmaclip_jax.landmarks.study import StudyFaces, check_names
from cmaclip_jax.landmarks.training import open_encoder

SOURCES = ("drawn", "folder", "the300w_lp")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
FIRST_TEST_FACE = 10**6  # index of a drawn face; training faces begin at 0
# The camera's largest motion: shares of the picture, radians, and a share of the scale.
SWAY = {"x": 0.04, "y": 0.04, "roll": 0.12, "zoom": 0.05}
SPEED = (0.3, 2.0)  # swings per second at 50 frames per second, as for drawn faces


def open_faces(config: ConfigDict, count: int) -> StudyFaces:
    """The faces of `config.landmarks.source` at the encoder's picture size.

    count: the number of training faces.
    """
    fields = config.landmarks
    size = open_encoder(config)[0].image_size
    check_names(SOURCES, (fields.source,), "source")
    if fields.source == "drawn":
        drawn = FaceGenerator(0, size, fields.occluded, fields.sensor)
        return StudyFaces(
            drawn_faces(drawn, 0, count),
            drawn_faces(drawn, FIRST_TEST_FACE, fields.test),
            drawn_videos(drawn, FIRST_TEST_FACE, fields.videos, fields.frames),
        )
    if not fields.path:
        raise UserError(
            f"config.landmarks.source={fields.source!r} needs a folder; add "
            "--config.landmarks.path=FOLDER"
        )
    if fields.source == "folder":
        files = _Files(Path(os.path.expanduser(fields.path)))
    else:
        from cmaclip_jax.data.face_points import FacePoints  # imports TensorFlow

        files = FacePoints(fields.path)
    return _real_faces(fields, files, size, count)


class _Files(Sequence):
    """The pictures in a folder tree that have a `.pts` file of the same name beside them."""

    def __init__(self, folder: Path):
        files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
        self._files = [file for file in files if file.with_suffix(".pts").exists()]
        if not self._files:
            raise UserError(f"{folder} holds no picture with a .pts file of its name beside it")

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return read_face(self._files[index])


def _real_faces(fields: ConfigDict, faces: Sequence, size: int, count: int) -> StudyFaces:
    """Faces in a fixed random order: the first `fields.test` for tests, the next `count` to train.

    If a photograph occurs several times, as in `the300w_lp` (several poses each), a test face may
    resemble a training face. Arms can be compared with each other, but not with other papers.
    """
    wanted = fields.test + count
    if len(faces) < wanted:
        raise UserError(
            f"{fields.path} holds {len(faces):,} faces, and landmarks.train and landmarks.test "
            f"need {wanted:,}; lower them"
        )
    order = np.random.default_rng(0).permutation(len(faces))[:wanted]
    chosen = (faces[int(number)] for number in order)
    cut = [cut_out(picture, points, size) for picture, points in chosen]
    if len({points.shape for _, points in cut}) > 1:
        raise UserError(
            f"{fields.path} has faces with different numbers of points; keep those with one number"
        )
    images, points = (np.stack(part) for part in zip(*cut, strict=True))
    if layout_of(points.shape[1]) is None:
        raise UserError(
            f"{fields.path} has faces of {points.shape[1]} points, which is no known layout"
        )
    test = AnnotatedFaces(images[: fields.test], points[: fields.test])
    videos = [
        filmed(test.images[number], test.points[number], fields.frames, number, fields.sensor)
        for number in range(min(fields.videos, fields.test))
    ]
    return StudyFaces(AnnotatedFaces(images[fields.test :], points[fields.test :]), test, videos)


def filmed(
    image: np.ndarray, points: np.ndarray, frames: int, seed: int, sensor: float = 0.0
) -> AnnotatedFaces:
    """A video of a still u8 [S,S,3] with points [P,2], from a moving camera; edges repeat.

    sensor: standard deviation of the noise of every pixel, in grey levels.
    """
    random, size = np.random.default_rng((seed, 3)), len(image)
    times = np.arange(frames) / 50
    swings = {
        name: reach
        * np.sin(2 * np.pi * random.uniform(*SPEED) * times + random.uniform(0, 2 * np.pi))
        for name, reach in SWAY.items()
    }
    margin = math.ceil(size / 4)
    wide = Image.fromarray(np.pad(image, ((margin, margin), (margin, margin), (0, 0)), "edge"))
    images, moved = [], []
    for x, y, roll, zoom in zip(*swings.values(), strict=True):
        turn = (1 + zoom) * np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
        moved.append((points - 0.5) @ turn.T + 0.5 + (x, y))
        back = np.linalg.inv(turn)  # from a pixel of the frame to one of the still
        start = size / 2 + margin - back @ (np.array([0.5 + x, 0.5 + y]) * size)
        places = (*back[0], start[0], *back[1], start[1])
        frame = wide.transform((size, size), Image.AFFINE, places, resample=Image.BILINEAR)
        images.append(np.asarray(frame, np.float32) + random.normal(0, sensor, image.shape))
    return AnnotatedFaces(np.clip(np.round(images), 0, 255).astype(np.uint8), np.stack(moved))
