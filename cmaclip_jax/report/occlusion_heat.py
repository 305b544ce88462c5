"""The heat of patches by occlusion: how far an answer falls when a patch is painted over."""

import dataclasses
from collections.abc import Callable

import numpy as np

from cmaclip_jax.data.pairs import Pair
from cmaclip_jax.models.flops import patch_count
from cmaclip_jax.report.answered_classes import AnsweredClasses, probabilities
from cmaclip_jax.report.explanation import LEAST
from cmaclip_jax.serving.classifier import Classifier

AT_ONCE = 64  # pictures with a patch painted over


@dataclasses.dataclass(frozen=True)
class OcclusionHeat:
    """One prediction for every patch; all answers share these predictions.

    track: shows the progress, as `Screen.track` does.
    """

    classifier: Classifier
    track: Callable

    def __call__(self, name: str, pair: Pair, asked: AnsweredClasses) -> list[np.ndarray | None]:
        """The heat [P] of each class; None where no patch lowers its probability."""
        image, picture = self.classifier.trained.objective.model.image, np.asarray(pair.image)
        count, after = patch_count(image), []
        parts = [range(first, min(first + AT_ONCE, count)) for first in range(0, count, AT_ONCE)]
        for part in self.track(parts, what=name, total=count, unit="patches", size=len):
            painted = [painted_over(picture, patch, image.patch_size) for patch in part]
            pairs = [Pair(some, pair.text) for some in painted]
            after.append(probabilities(self.classifier, pairs, asked))  # [N,K]
        falls = probabilities(self.classifier, [pair], asked) - np.concatenate(after)  # [P,K]
        return [fall if fall.max() >= LEAST else None for fall in falls.T]


def painted_over(pictures: np.ndarray, patch: int, size: int) -> np.ndarray:
    """Pictures u8 [...,S,S,3] in which a patch has the picture's mean colour.

    patch: its number, row by row. size: its height and width in pixels.
    """
    row, column = divmod(patch, pictures.shape[-2] // size)
    rows = slice(row * size, (row + 1) * size)
    columns = slice(column * size, (column + 1) * size)
    painted = pictures.copy()
    painted[..., rows, columns, :] = pictures.mean(axis=(-3, -2), keepdims=True).round()
    return painted
