"""The section of explained pairs: answers, heat of the words, and changes without a word."""

from collections.abc import Iterable, Sequence

import numpy as np

from cmaclip_jax.report.markup import (
    Html,
    element,
    figure,
    folded,
    join,
    paragraph,
    picture,
    share,
    table,
)
from cmaclip_jax.report.pair_card import heat_png, jpeg, marked_truth, pair_picture, pair_words
from cmaclip_jax.report.word_heat import Explanation, WordHeat

PROOF = "Attention says where the model looked; it does not prove why the answer is what it is."
READING_HEAT = (
    "The redder a patch, the more attention the word gives it, within one picture: the reddest is "
    "that word's own most. The percentage is the share of the word's attention that falls on the "
    "patches; the rest goes to the words and to the picture's class token. It is a mean over the "
    "word's tokens, the heads and all layers but the last: no answer reads the words of the last "
    "layer. “all of it” is the attention, in the last layer, of the token that the whole text "
    f"is read out at. {PROOF}"
)
READING_HEAT_OF_ALL = (
    "The redder a patch, the more attention the text as a whole gives it, within one picture. The "
    "percentage is the share of that attention that falls on the patches; the rest goes to the "
    "words and to the picture's class token. It is the attention of the token that the text is "
    "read out at. The model has one layer of sequence-wise attention, and what its words attend to "
    f"there reaches no answer, so single words have no heat. {PROOF}"
)
READING_PROBABILITIES = (
    "Probabilities are scaled by the temperature that was chosen with each task's thresholds. An "
    "answer is accepted where its probability reaches the threshold."
)
READING_CHANGES = (
    "How far the answer's probability moves when a word, all words or the picture is left out: "
    "measured, not guessed. Of two words that say the same, neither may seem to matter."
)


def explained(pair: Explanation) -> Html:
    """A pair with its answers, the heat of its words, and how the answers change without them."""
    shown = pair.shown
    note = [paragraph(shown.note, class_="quiet")] if shown.note else []
    return element(
        "article",
        element("h3", shown.name),
        element(
            "div",
            element(
                "div", pair_picture(shown), paragraph(pair_words(shown)), *note, class_="pair first"
            ),
            element("div", answer_table(pair)),
            class_="both",
        ),
        *heats(pair),
        *changes(pair),
        class_="whole",
    )


def answer_table(pair: Explanation) -> Html:
    """The answers of every task to a pair."""
    truth = ["truth"] if pair.truth else []
    head = ["task", "answer", *truth, "probability", "accepted", "picture : words"]
    rows = [list(_answer_row(pair, task)) for task in pair.answers]
    return table(f"Answers on {pair.shown.name}", head, rows, words=("answer", "truth"))


def _answer_row(pair: Explanation, task: str) -> Iterable[str]:
    answer = pair.answers[task]
    yield task
    label = _listed(answer.label)
    yield label
    if pair.truth:
        truth = pair.truth.get(task)
        yield marked_truth(truth, truth == label) if truth else "?"
    yield _listed(answer.probability, "{:.3f}".format)
    yield _listed(answer.accepted, lambda accepted: "yes" if accepted else "no")
    both = answer.weights["image"], answer.weights["text"]
    yield share(*both) if any(both) else "-"


def _listed(value, form=str) -> str:
    """One value or several; '-' for none."""
    values = value if isinstance(value, tuple) else () if value is None else (value,)
    return ", ".join(map(form, values)) or "-"


def heats(pair: Explanation) -> list[Html]:
    """A small picture with the heat of each word, and one of the whole text."""
    if pair.shown.picture is None or pair.sentence is None:
        return []
    source = jpeg(pair.shown.picture)
    every = [*pair.words, WordHeat("all of it", pair.sentence)]
    shown = [_heat(source, word) for word in every if word.heat is not None]
    unread = [word.text for word in pair.words if not word.read]
    more = [paragraph(f"Not read, the text was cut: {' '.join(unread)}")] if unread else []
    title = "Where each word looks" if len(shown) > 1 else "Where the text as a whole looks"
    return [element("h4", title), element("div", *shown, class_="heats"), *more]


def _heat(source: str, word: WordHeat) -> Html:
    total = f"{float(word.heat.sum()):.0%}"
    overlay = picture(heat_png(word.heat), "")
    description = f"Heat of “{word.text}” over the picture; {total} of its attention"
    caption = element("figcaption", element("b", word.text), f" {total}")
    return element(
        "figure", element("div", picture(source, description), overlay, class_="heat"), caption
    )


def changes(pair: Explanation) -> list[Html]:
    """The change of each answer's probability when a word is left out."""
    if not pair.without:
        return []
    names = [element("span", f"{task}: ", element("b", label)) for task, label, _ in pair.asked]
    before = ["as it is", *[figure(probability) for _, _, probability in pair.asked]]
    rows = [[name, *_differences(pair, after)] for name, after in pair.without]
    caption = f"What changes on {pair.shown.name} when something is left out"
    return [
        folded(
            "What changes when a word is left out", table(caption, ["", *names], [before, *rows])
        )
    ]


def _differences(pair: Explanation, after: np.ndarray) -> Iterable[Html]:
    for (_, _, probability), now in zip(pair.asked, after, strict=True):
        change = float(now) - probability
        part = f"--part:{min(abs(change), 1) * 0.6:.2f}"
        yield element("td", f"{change:+.3f}", class_="rise" if change > 0 else "fall", style=part)


def explained_pairs(pairs: Sequence[Explanation], why_no_heat: str) -> Html:
    """Explained pairs, after texts on how to read them."""
    if any(pair.sentence is not None for pair in pairs):
        of_words = any(word.heat is not None for pair in pairs for word in pair.words)
        reading = [paragraph(READING_HEAT if of_words else READING_HEAT_OF_ALL)]
    else:
        why = why_no_heat or "none of these has both a picture and words"
        reading = [paragraph(f"No heat: {why}.")]
    answers = [answer for pair in pairs for answer in pair.answers.values()]
    if any(answer.accepted is not None for answer in answers):
        reading.append(paragraph(READING_PROBABILITIES))
    if any(pair.without for pair in pairs):
        reading.append(paragraph(READING_CHANGES))
    return join([*reading, *map(explained, pairs)])
