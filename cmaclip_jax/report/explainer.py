"""Explains the answers to single pairs: heat of the patches, and changes without a word."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from cmaclip_jax.data.pairs import Pair
from cmaclip_jax.report.answered_classes import AnsweredClasses, answered_classes, probabilities
from cmaclip_jax.report.explanation import Explanation, PairView
from cmaclip_jax.report.patch_heat import open_heat
from cmaclip_jax.serving.classifier import Classifier


def untracked(parts: Iterable, **_) -> Iterable:
    """The parts, without showing any progress."""
    return parts


class Explainer:
    """Explains pairs.

    heat: the kind of heat: 'gradient' or 'occlusion'; '': the best that the model has.
    track: shows the progress of the heat of a pair, as `Screen.track` does.
    why_no_heat: the reason if the model has no heat, else ''.
    """

    def __init__(self, classifier: Classifier, heat: str = "", track: Callable = untracked):
        self.classifier = classifier
        self.heat, self._heats = open_heat(classifier, heat, track)
        inputs = classifier.trained.config.model.inputs
        self.why_no_heat = "this model reads no picture" if inputs == "text" else ""

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
        asked = answered_classes(self.classifier.tasks, answers)
        seen = Pair(picture, pair.text)
        before = probabilities(self.classifier, [seen], asked)[0] if asked else ()
        has_heat = picture is not None and asked and not self.why_no_heat
        heats = self._heats(name, seen, asked) if has_heat else []
        return Explanation(
            shown=shown,
            answers=answers,
            truth=truth,
            asked=[(*some[:2], float(x)) for some, x in zip(asked, before, strict=True)],
            heats=heats,
            heat=self.heat if heats else "",
            without=self._without(pair, picture, places, asked),
            unread=[word for word, at in places if not at],
        )

    def _places(self, text: str | None) -> list[tuple[str, list[int]]]:
        encode = self.classifier.trained.encode
        return encode.tokenizer.places(text, encode.text_length)

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
        chances = probabilities(self.classifier, [variant for _, variant in variants], asked)
        return [(name, row) for (name, _), row in zip(variants, chances, strict=True)]


def _pictures(batch) -> Iterator[np.ndarray | None]:
    """The picture of each pair of a batch, None if it has none."""
    for there, picture in zip(batch["has_image"], batch["image"], strict=True):
        yield picture if there else None


def _pair_view(name: str, pair: Pair, picture: np.ndarray | None, note: str) -> PairView:
    return PairView(name, picture, pair.text, note)
