"""Explains the answers to single pairs: heat of the words, and changes without a word."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from cmaclip_jax.data.pairs import Pair
from cmaclip_jax.report.word_heat import (
    Explanation,
    PairView,
    WordHeat,
    make_map_step,
    sentence_heat,
    why_no_maps,
    word_heat,
)
from cmaclip_jax.serving.classifier import Answer, Classifier

AnsweredClasses = list[tuple[str, str, int]]  # (task, class, its index)


class Explainer:
    """Explains pairs. `why_no_maps` is the reason if there is no heat, else ''."""

    def __init__(self, classifier: Classifier):
        self.classifier = classifier
        self.why_no_maps = why_no_maps(classifier.trained.objective)

    def show(self, names: Sequence[str], pairs: Sequence[Pair]) -> list[PairView]:
        """The pairs as the model receives them, to be shown on a page."""
        most, shown = self.classifier.most, []
        for start in range(0, len(pairs), most):
            some = pairs[start : start + most]
            batch, notes = self.classifier.read(some)
            shown += map(_pair_view, names[start : start + most], some, _pictures(batch), notes)
        return shown

    def explain(
        self,
        names: Sequence[str],
        pairs: Sequence[Pair],
        truths: Sequence[Mapping[str, str]] | None = None,
    ) -> Iterator[Explanation]:
        """The explanation of each pair, one at a time."""
        for name, pair, truth in zip(names, pairs, truths or [{}] * len(pairs), strict=True):
            yield self._explain(name, pair, truth)

    def _explain(self, name: str, pair: Pair, truth: Mapping[str, str]) -> Explanation:
        batch, notes = self.classifier.read([pair])
        picture = next(_pictures(batch))
        answers = self.classifier.answer(batch, notes)[0]
        shown = _pair_view(name, pair, picture, notes[0])
        places = self._places(pair.text)
        words, sentence = (), None
        if not self.why_no_maps and picture is not None and pair.text:
            words, sentence = self._heats(batch, places)
        asked = self._asked(answers)
        before = self._probabilities([Pair(picture, pair.text)], asked)[0] if asked else []
        return Explanation(
            shown=shown,
            answers=answers,
            truth=truth,
            words=words,
            sentence=sentence,
            asked=[(*some[:2], float(x)) for some, x in zip(asked, before, strict=True)],
            without=self._without(pair, picture, places, asked),
        )

    def _places(self, text: str | None) -> list[tuple[str, list[int]]]:
        encode = self.classifier.trained.encode
        return encode.tokenizer.places(text, encode.text_length)

    @functools.cached_property
    def _map_step(self) -> Callable:
        trained = self.classifier.trained
        return make_map_step(trained.objective, trained.mesh, trained.params)

    def _heats(self, batch, places) -> tuple[list[WordHeat], np.ndarray]:
        """The heat of each word and of the whole text, for the first pair of a batch."""
        maps = self.classifier.outcome(batch, 1, self._map_step)["attention_maps"][0]  # [L,T,P]
        words = [WordHeat(word, word_heat(maps, at), read=bool(at)) for word, at in places]
        end = 1 + max((position for _, at in places for position in at), default=0)
        return words, sentence_heat(maps, end)

    def _asked(self, answers: Mapping[str, Answer]) -> AnsweredClasses:
        """The classes that the answers name."""
        asked = []
        for task in self.classifier.tasks:
            label = answers[task.name].label
            labels = label if isinstance(label, tuple) else () if label is None else (label,)
            asked += [(task.name, name, task.classes.index(name)) for name in labels]
        return asked

    def _without(
        self, pair: Pair, picture, places, asked: AnsweredClasses
    ) -> list[tuple[str, np.ndarray]]:
        """The probabilities of the answered classes when a word or a modality is left out."""
        words, inputs = [word for word, _ in places], self.classifier.trained.config.model.inputs
        variants = [
            (word, Pair(picture, " ".join(words[:number] + words[number + 1 :])))
            for number, (word, at) in enumerate(places)
            if at and len(words) > 1 and inputs != "image"
        ]
        if words and picture is not None and inputs == "both":
            variants += [("all words", Pair(picture, None)), ("the picture", Pair(None, pair.text))]
        if not asked or not variants:
            return []
        chances = self._probabilities([variant for _, variant in variants], asked)
        return [(name, row) for (name, _), row in zip(variants, chances, strict=True)]

    def _probabilities(self, pairs: Sequence[Pair], asked: AnsweredClasses) -> np.ndarray:
        """The probabilities [N,K] of these classes."""
        most, rows = self.classifier.most, []
        for start in range(0, len(pairs), most):
            batch, notes = self.classifier.read(pairs[start : start + most])
            outcome = self.classifier.outcome(batch, len(notes))
            scaled = {task: self.classifier.scaled(outcome, task) for task, _, _ in asked}
            rows.append(np.stack([scaled[task][:, place] for task, _, place in asked], axis=1))
        return np.concatenate(rows)


def _pictures(batch) -> Iterator[np.ndarray | None]:
    """The picture of each pair of a batch, None if it has none."""
    for there, picture in zip(batch["has_image"], batch["image"], strict=True):
        yield picture if there else None


def _pair_view(name: str, pair: Pair, picture: np.ndarray | None, note: str) -> PairView:
    return PairView(name, picture, pair.text, note)
