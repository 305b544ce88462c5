"""What a page shows about a pair: the pair itself, and what its answers rest on."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

LEAST = 0.01  # An answer whose probability moves less without the picture has no heat.


@dataclasses.dataclass(frozen=True)
class PairView:
    """A pair on a page: `picture` u8 [S,S,3] as the model receives it, or None and a note."""

    name: str
    picture: np.ndarray | None
    text: str | None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Explanation:
    """A pair, the answers of all tasks, and how they depend on words and picture.

    answers: {task: Answer}, as `predict` returns them.
    truth: {task: label} for known labels.
    asked: (task, class, its probability) of every answered class.
    heats: of every answered class the heat [P] of the patches, None if its probability hardly
        depends on them. Empty if there is no heat.
    heat: the kind of these heats.
    without: (what is left out, the probabilities of the answered classes without it). Of two words
        that say the same, leaving out one changes little.
    unread: the words that the model does not read, because the text was cut before them.
    """

    shown: PairView
    answers: Mapping[str, Any]
    truth: Mapping[str, str]
    asked: Sequence[tuple[str, str, float]] = ()
    heats: Sequence[np.ndarray | None] = ()
    heat: str = ""
    without: Sequence[tuple[str, np.ndarray]] = ()
    unread: Sequence[str] = ()
