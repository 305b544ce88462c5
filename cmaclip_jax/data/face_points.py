"""Faces and their landmarks from the TFDS data set `the300w_lp`."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from cmaclip_jax.data.images import open_image
from cmaclip_jax.data.record_files import open_records
from cmaclip_jax.data.sources.tfds import open_builder
from cmaclip_jax.data.tfds_fields import parse
from cmaclip_jax.errors import UserError

NAME = "the300w_lp"
POINTS = "landmarks_2d"  # as seen in the picture; `landmarks_3d` follow the hidden outline


class FacePoints(Sequence):
    """Faces by index: a picture u8 [H,W,3] and its landmarks [68,2] in pixels."""

    def __init__(self, path: str):
        builder = open_builder(_data(path))
        if not {"image", POINTS} <= set(builder.info.features):
            raise UserError(
                f"the TFDS data set at {path!r} has no features image and {POINTS}; name the "
                f"folder of {NAME}"
            )
        files = builder.info.splits["train"].file_instructions
        self._records = open_records(files, builder.info.file_format.value)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        features = parse(self._records[index])
        picture = np.asarray(open_image(features["image"].bytes_list.value[0]))
        shares = np.array(features[POINTS].float_list.value, np.float64).reshape(-1, 2)
        return picture, shares * (picture.shape[1], picture.shape[0])


def _data(path: str) -> ConfigDict:
    """`config.data` for `open_builder`: `path` is TFDS's data_dir or the built data set itself."""
    built = (Path(os.path.expanduser(path)) / "dataset_info.json").exists()
    return ConfigDict({"path": path, "tfds": {"name": "" if built else NAME, "try_gcs": False}})
