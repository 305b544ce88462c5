"""The section of explained pairs: answers, heat of the patches, and changes without a word."""

from collections.abc import Iterable, Sequence

import numpy as np

from cmaclip_jax.report.explanation import LEAST, Explanation
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
from cmaclip_jax.report.patch_heat import GRADIENT, OCCLUSION, POINTED

READING_HEAT = {
    GRADIENT: "The clearer a patch, the more the answer rests on it, compared with the clearest "
    "patch of the same picture: the attention of the image encoder and of sequence-wise attention, "
    "weighted by the gradient of the answer (Chefer, Gur and Wolf, 2021). ",
    OCCLUSION: "The clearer a patch, the more the probability of the answer falls when the patch "
    "is painted over with the picture's mean colour, compared with the clearest patch of the same "
    "picture. ",
}
HOW_GOOD = (
    "On drawn pictures of two articles, where the named one is known, the clearest patch lay on "
    "that article for {right} of the answers about its colour and pattern, depending on the task "
    "and on the training run; a patch at random does for {chance}. This is no proof for real "
    "pictures, nor for this model."
)
READING_PROBABILITIES = (
    "Probabilities are scaled by the temperature that was chosen with each task's thresholds. An "
    "answer is accepted where its probability reaches the threshold."
)
NO_HEAT = {
    GRADIENT: f"Not shown, because they move by less than {LEAST} without the picture: ",
    OCCLUSION: f"Not shown, because no patch lowers them by {LEAST} or more: ",
}
READING_CHANGES = (
    "How far the answer's probability moves when a word, all words or the picture is left out: "
    "measured, not guessed. Of two words that say the same, neither may seem to matter."
)


def explained(pair: Explanation) -> Html:
    """A pair with its answers, the heat of its patches, and the answers without its words."""
    shown, unread = pair.shown, " ".join(pair.unread)
    cut = f"Not read, the text was cut: {unread}" if unread else ""
    notes = [paragraph(note, class_="quiet") for note in (shown.note, cut) if note]
    return element(
        "article",
        element("h3", shown.name),
        element(
            "div",
            element(
                "div",
                pair_picture(shown),
                paragraph(pair_words(shown)),
                *notes,
                class_="pair first",
            ),
            element("div", answer_table(pair)),
            class_="both",
        ),
        *heats(pair),
        *changes(pair),
        class_="whole",
    )


def answer_table(pair: Explanation) -> Html:
    """The answers of every task to a pair; with what is accepted if the run has thresholds."""
    truth = ["truth"] if pair.truth else []
    accepted = ["accepted"] if has_thresholds(pair) else []
    head = ["task", "answer", *truth, "probability", *accepted, "picture : words"]
    rows = [list(_answer_row(pair, task)) for task in pair.answers]
    return table(f"Answers on {pair.shown.name}", head, rows, words=("answer", "truth"))


def has_thresholds(pair: Explanation) -> bool:
    """Whether thresholds say which answers are accepted."""
    return any(answer.accepted is not None for answer in pair.answers.values())


def _answer_row(pair: Explanation, task: str) -> Iterable[str]:
    answer = pair.answers[task]
    yield task
    label = _listed(answer.label)
    yield label
    if pair.truth:
        truth = pair.truth.get(task)
        yield marked_truth(truth, truth == label) if truth else "?"
    yield _listed(answer.probability, "{:.3f}".format)
    if has_thresholds(pair):
        yield _listed(answer.accepted, lambda accepted: "yes" if accepted else "no")
    both = answer.weights["image"], answer.weights["text"]
    yield share(*both) if any(both) else "-"


def _listed(value, form=str) -> str:
    """One value or several; '-' for none."""
    values = value if isinstance(value, tuple) else () if value is None else (value,)
    return ", ".join(map(form, values)) or "-"


def heats(pair: Explanation) -> list[Html]:
    """The picture for each answer, with the patches that the answer rests on."""
    if not pair.heats:
        return []
    source, asked = jpeg(pair.shown.picture), zip(pair.asked, pair.heats, strict=True)
    shown, others = [], []
    for (task, label, _), heat in asked:
        if heat is None:
            others.append(f"{task}: {label}")
        else:
            shown.append(_heat(source, task, label, heat))
    lines = [element("div", *shown, class_="heats")] if shown else []
    if others:
        lines.append(paragraph(NO_HEAT[pair.heat], "; ".join(others), class_="quiet"))
    return [element("h4", "Where the model looks for each answer"), *lines]


def _heat(source: str, task: str, label: str, heat: np.ndarray) -> Html:
    overlay = picture(heat_png(heat), "")
    seen = element(
        "div", picture(source, f"Patches behind {task}: {label}"), overlay, class_="heat"
    )
    return element("figure", seen, element("figcaption", f"{task}: ", element("b", label)))


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
    return join([*reading(pairs, why_no_heat), *map(explained, pairs)])


def explained_pair(pair: Explanation, why_no_heat: str) -> Html:
    """One explained pair, before texts on how to read it, which are folded."""
    how = folded("How to read this", *reading([pair], why_no_heat))
    return join([explained(pair), how])


def reading(pairs: Sequence[Explanation], why_no_heat: str) -> list[Html]:
    """Texts on how to read explained pairs."""
    kinds = {pair.heat for pair in pairs if any(heat is not None for heat in pair.heats)}
    texts = [paragraph(READING_HEAT[kind] + HOW_GOOD.format(**POINTED[kind])) for kind in kinds]
    if not any(pair.heats for pair in pairs):
        texts = [paragraph(f"No heat: {why_no_heat or 'none of these has a picture'}.")]
    if any(map(has_thresholds, pairs)):
        texts.append(paragraph(READING_PROBABILITIES))
    if any(pair.without for pair in pairs):
        texts.append(paragraph(READING_CHANGES))
    return texts
