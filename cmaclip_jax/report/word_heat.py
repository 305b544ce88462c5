"""The heat of words over picture patches, and the types of an explained pair.

Attention shows where the model looked, not why it answered: it does not show what else the layers
do with a patch. The change when a word is left out is measured, but if two words say the same,
leaving out either one changes little.
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
    """A pair as a page shows it: `picture` u8 [S,S,3] as the model gets it, or None and a note."""

    name: str
    picture: np.ndarray | None
    text: str | None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class WordHeat:
    """A word and its attention to each patch [P], which adds up to what fell on the picture.

    heat: None where there is no picture, where no answer rests on a word's attention, and of
        words that are not read.
    read: whether the run reads the word; it does not where the text was cut.
    """

    text: str
    heat: np.ndarray | None
    read: bool = True


@dataclasses.dataclass(frozen=True)
class Explanation:
    """A pair, every task's answer, and what they rest on.

    answers: {task: an Answer}, as `predict` gives it.
    truth: {task: the label}, of pairs whose labels are known.
    words: with their heat; empty where the model has no maps.
    sentence: the heat of the whole text, at the token that is read out.
    asked: (task, class, its probability), the columns of `without`.
    without: (what was left out, the probabilities then).
    """

    shown: PairView
    answers: Mapping[str, Any]
    truth: Mapping[str, str]
    words: Sequence[WordHeat] = ()
    sentence: np.ndarray | None = None
    asked: Sequence[tuple[str, str, float]] = ()
    without: Sequence[tuple[str, np.ndarray]] = ()


def why_no_maps(objective: Objective) -> str:
    """Why a model has no heat to show; '' where it has."""
    if not isinstance(objective, Classification):
        return "this model compares pictures with sentences and has no sequence-wise attention"
    model = objective.model
    if model.image is None or model.text is None:
        return "this model reads one modality, so that no words look at a picture"
    if not model.sequence.layers:
        return "this model has no sequence-wise attention (model.sequence_layers=0)"
    return ""


def make_map_step(objective: Any, mesh: Mesh, param_shapes) -> Callable:
    """`(params, batch) -> outcome`, jitted: as `predict`, and `attention_maps` [B,L,T,P]."""
    return jax.jit(
        lambda params, batch: objective.predict(params, batch, with_maps=True),
        in_shardings=(tree_shardings(param_shapes, mesh), batch_sharding(mesh)),
        out_shardings=NamedSharding(mesh, PartitionSpec()),
    )


def word_heat(maps: np.ndarray, places: Sequence[int]) -> np.ndarray | None:
    """A word's attention to each patch [P], from one pair's `maps` [L,T,P].

    The mean over its tokens and over all layers but the last. What words attend to in the last
    layer reaches no answer, since their tokens are not read out; None where it is the only one.
    """
    return maps[:-1, list(places)].mean(axis=(0, 1)) if len(maps) > 1 and places else None


def sentence_heat(maps: np.ndarray, end: int) -> np.ndarray:
    """The last layer's attention of the token that the text is read out at: [L,T,P] -> [P]."""
    return maps[-1, end]
