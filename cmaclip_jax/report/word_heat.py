"""The heat of words over picture patches, and the types of an explained pair.

Attention shows where the model looked, not why it answered: the layers also compute other things
with a patch. The change without a word is measured. If two words say the same, leaving out one of
them changes little.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cmaclip_jax.models.objectives import Classification, Objective
from cmaclip_jax.parallel.mesh import batch_sharding
from cmaclip_jax.parallel.rules import tree_shardings


@dataclasses.dataclass(frozen=True)
class PairView:
    """A pair on a page: `picture` u8 [S,S,3] as the model receives it, or None and a note."""

    name: str
    picture: np.ndarray | None
    text: str | None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class WordHeat:
    """A word and its attention to each patch.

    heat: [P]; its sum is the share of attention on the picture. None if there is no picture, if the
        word's attention reaches no answer, or if the word is not read.
    read: whether the model reads the word; it does not if the text was cut before the word.
    """

    text: str
    heat: np.ndarray | None
    read: bool = True


@dataclasses.dataclass(frozen=True)
class Explanation:
    """A pair, the answers of all tasks, and how they depend on words and picture.

    answers: {task: Answer}, as `predict` returns them.
    truth: {task: label} for known labels.
    words: the words with their heat; empty if the model has no attention maps.
    sentence: the heat of the whole text, at the token that is read out.
    asked: (task, class, its probability), the columns of `without`.
    without: (what is left out, the probabilities without it).
    """

    shown: PairView
    answers: Mapping[str, Any]
    truth: Mapping[str, str]
    words: Sequence[WordHeat] = ()
    sentence: np.ndarray | None = None
    asked: Sequence[tuple[str, str, float]] = ()
    without: Sequence[tuple[str, np.ndarray]] = ()


def why_no_maps(objective: Objective) -> str:
    """The reason why a model has no heat; '' if it has."""
    if not isinstance(objective, Classification):
        return "this model compares pictures with sentences and has no sequence-wise attention"
    model = objective.model
    if model.image is None or model.text is None:
        return "this model reads one modality, so that no words look at a picture"
    if not model.sequence.layers:
        return "this model has no sequence-wise attention (model.sequence_layers=0)"
    return ""


def make_map_step(objective: Any, mesh: Mesh, param_shapes) -> Callable:
    """`(params, batch) -> outcome`, jitted: like `predict`, with `attention_maps` [B,L,T,P]."""
    return jax.jit(
        lambda params, batch: objective.predict(params, batch, with_maps=True),
        in_shardings=(tree_shardings(param_shapes, mesh), batch_sharding(mesh)),
        out_shardings=NamedSharding(mesh, PartitionSpec()),
    )


def word_heat(maps: np.ndarray, places: Sequence[int]) -> np.ndarray | None:
    """A word's attention to each patch [P], from one pair's `maps` [L,T,P].

    The mean over its tokens and over all layers but the last. In the last layer the attention of
    words reaches no answer, because their tokens are not read out. None if there is one layer.
    """
    return maps[:-1, list(places)].mean(axis=(0, 1)) if len(maps) > 1 and places else None


def sentence_heat(maps: np.ndarray, end: int) -> np.ndarray:
    """The attention, in the last layer, of the token that is read out: [L,T,P] -> [P]."""
    return maps[-1, end]
