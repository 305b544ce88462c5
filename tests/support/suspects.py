"""Invented suspects of the catalogue in support/tables.py, and how a page shows its rows."""

import numpy as np

from cmaclip_jax.auditing.suspect import Suspect
from cmaclip_jax.report.explanation import PairView


def suspect(row: int, label: str, suggestion: str, task: str = "colour", **fields) -> Suspect:
    fields = {"id": str(row), "split": "train", "likely": True, "doubt": 1 - row / 100} | fields
    return Suspect(
        row=row,
        task=task,
        label=label,
        suggestion=suggestion,
        label_probability=0.125,
        suggestion_probability=0.75,
        **fields,
    )


def show(row: int) -> PairView:
    """Every fifth row has no picture, and every seventh no words."""
    picture = None if row % 5 == 4 else np.full((32, 32, 3), 7 * row % 256, np.uint8)
    note = "no picture" if picture is None else ""
    return PairView(str(row), picture, None if row % 7 == 6 else f"words of {row}", note)
