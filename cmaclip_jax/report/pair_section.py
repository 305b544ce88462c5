"""Pairs on a page: the picture, the words, what was answered, and where the words look."""

import base64
import io
import math
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

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
from cmaclip_jax.report.word_heat import Explanation, PairView, WordHeat

SIDE = 160  # pixels of a picture at most
STRENGTH = 190  # of 255: what covers the hottest patch
HEAT = (255, 64, 0)
PROOF = "Attention says what was looked at; it does not prove why the answer is what it is."
READING_HEAT = (
    "The redder a patch, the more attention the word gives it, within one picture: the reddest is "
    "that word's own most. The percentage is the share of the word's attention that falls on the "
    "patches; the rest goes to the words and to the picture's class token. It is the attention of "
    "the word's tokens, the mean over heads and over the layers but the last, whose words nobody "
    "reads any more; “all of it” is the last layer's, of the token that the whole text is read out "
    f"at. {PROOF}"
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


def jpeg(pixels: np.ndarray) -> str:
    """A picture u8 [H,W,3] as a small JPEG in a page."""
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return _data("jpeg", image, quality=80)


def heat_png(heat: np.ndarray) -> str:
    """A heat [P] over square patches, in rows, as what is laid over a picture."""
    side = math.isqrt(len(heat))
    hottest = max(float(heat.max()), 1e-12)
    pixels = np.zeros((side, side, 4), np.uint8)
    pixels[..., :3] = HEAT
    pixels[..., 3] = np.round(heat.reshape(side, side) / hottest * STRENGTH)
    return _data("png", Image.fromarray(pixels))


def card(shown: PairView, *lines: Html) -> Html:
    """A pair with a few lines on it."""
    name = element("span", f" ({shown.name})", class_="quiet")
    return element("article", seen(shown), paragraph(words(shown), name), *lines, class_="pair")


def seen(shown: PairView) -> Html:
    """The picture of a pair, or why there is none."""
    if shown.picture is None:
        return element("div", shown.note or "no picture", class_="none")
    return picture(jpeg(shown.picture), f"picture of {shown.name}")


def words(shown: PairView) -> str:
    """The words of a pair."""
    return shown.text or element("i", "no words")


def explained(pair: Explanation) -> Html:
    """A pair with all its answers, the heat of its words, and what changes without them."""
    shown = pair.shown
    note = [paragraph(shown.note, class_="quiet")] if shown.note else []
    return element(
        "article",
        element("h3", shown.name),
        element(
            "div",
            element("div", seen(shown), paragraph(words(shown)), *note, class_="pair first"),
            element("div", answer_table(pair)),
            class_="both",
        ),
        *heats(pair),
        *changes(pair),
        class_="whole",
    )


def judged(truth: str, right: bool) -> Html:
    """The truth, marked by whether the answer was it."""
    mark = "\N{CHECK MARK}" if right else "\N{BALLOT X}"
    return element("span", f"{mark} {truth}", class_="good" if right else "bad")


def answer_table(pair: Explanation) -> Html:
    """What every task says about a pair."""
    truth = ["truth"] if pair.truth else []
    head = ["task", "answer", *truth, "probability", "accepted", "picture : words"]
    rows = [list(_answer_row(pair, task)) for task in pair.answers]
    return table(f"Answers on {pair.shown.name}", head, rows, words=("answer", "truth"))


def _answer_row(pair: Explanation, task: str) -> Iterable[str]:
    answer = pair.answers[task]
    yield task
    said = _listed(answer.label)
    yield said
    if pair.truth:
        truth = pair.truth.get(task)
        yield judged(truth, truth == said) if truth else "?"
    yield _listed(answer.probability, "{:.3f}".format)
    yield _listed(answer.accepted, lambda stands: "yes" if stands else "no")
    both = answer.weights["image"], answer.weights["text"]
    yield share(*both) if any(both) else "-"


def _listed(value, form=str) -> str:
    """One value or several; '-' for none."""
    values = value if isinstance(value, tuple) else () if value is None else (value,)
    return ", ".join(map(form, values)) or "-"


def heats(pair: Explanation) -> list[Html]:
    """A small picture for each word, and one for the whole text."""
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
    said = f"Heat of “{word.text}” over the picture; {total} of its attention"
    caption = element("figcaption", element("b", word.text), f" {total}")
    return element("figure", element("div", picture(source, said), overlay, class_="heat"), caption)


def changes(pair: Explanation) -> list[Html]:
    """What happens to each answer's probability without a word."""
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
    """Pairs with what they rest on, and how to read it."""
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


def _data(kind: str, image: Image.Image, **options) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
