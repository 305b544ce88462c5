"""Whether heat lies on the right thing: a pointing game on drawn pictures.

    python tests/benchmarks/measure_heat.py --workdir=RUN [--split=test] [--pairs=2000]

RUN is a run on the drawn catalogue, as configs/quickstart.py makes it. A picture shows several
articles, and the title names one. For the answers about the colour and the pattern of the named
article, right or wrong, the script counts how often the hottest patch lies on this article, on
another one, or on the backdrop. A patch lies on an article that covers a tenth of it or more.
'chance' is the share of the patches that lie on the named article; 'of the heat' is the share of
the heat that does, where heat below 0 counts as 0. The kinds of heat:

attention of the text   in the last layer of sequence-wise attention, from the end-of-text token
attention of the word   that names the article, in the layers before
gradient, fusion alone  the gradient-weighted attention of sequence-wise attention by itself
gradient                the same with the layers of the image encoder
occlusion               the fall of the probability where the patch is painted over
"""

import argparse

import jax
import numpy as np

from cmaclip_jax.data.pairs import Pair
from cmaclip_jax.data.sources.shop import ARTICLES, Shop
from cmaclip_jax.errors import UserError
from cmaclip_jax.models.flops import patch_count
from cmaclip_jax.report.gradient_heat import make_relevance_step
from cmaclip_jax.report.occlusion_heat import painted_over
from cmaclip_jax.runs.judged import open_judged
from cmaclip_jax.serving.classifier import Classifier
from cmaclip_jax.training.workdir import saved_config

TASKS = ("colour", "pattern")
BATCH, COVERED = 64, 0.1
NAMES = {name for names in ARTICLES.values() for name in names}


class Game:
    """Counts, for every kind of heat and task, where the hottest patch lies."""

    def __init__(self):
        self.rounds: dict[tuple[str, str], list[np.ndarray]] = {}

    def play(self, kind: str, task: str, heat: np.ndarray, on: np.ndarray, named: np.ndarray):
        """heat: [N,P]. on: [N,articles,P], whether the patch lies on the article. named: [N]."""
        rows, hottest = np.arange(len(heat)), heat.argmax(axis=1)
        own, warm = on[rows, named], np.maximum(heat, 0)
        right, any_article = own[rows, hottest], on.any(axis=1)[rows, hottest]
        share = (warm * own).sum(axis=1) / np.maximum(warm.sum(axis=1), 1e-12)
        columns = [right, any_article & ~right, ~any_article, share, own.mean(axis=1)]
        self.rounds.setdefault((kind, task), []).append(np.stack(columns, axis=1))

    def show(self) -> None:
        """The table, with the number of answers and the standard error of the first share."""
        print(
            f"{'heat':24}{'task':10}{'answers':>8}{'named article':>20}{'another':>9}"
            f"{'backdrop':>10}{'of the heat':>13}{'chance':>8}"
        )
        for (kind, task), parts in self.rounds.items():
            rows = np.concatenate(parts)
            right, other, backdrop, share, chance = rows.mean(axis=0)
            error = (right * (1 - right) / len(rows)) ** 0.5
            print(
                f"{kind:24}{task:10}{len(rows):8,}{right:12.3f} ±{error:.3f} {other:9.3f}"
                f"{backdrop:10.3f}{share:13.3f}{chance:8.3f}"
            )


class Heats:
    """Every kind of heat [N,P] of a batch."""

    def __init__(self, classifier: Classifier):
        trained = classifier.trained
        self.classifier, self.model, self.params = (
            classifier,
            trained.objective.model,
            trained.params,
        )
        self.relevance = make_relevance_step(trained.objective, trained.mesh, trained.params)
        self.maps = jax.jit(
            lambda params, batch: self.model.apply({"params": params}, batch, with_maps=True)[1]
        )
        self.encode = jax.jit(
            lambda params, batch: self.model.image.apply(
                {"params": params["image"]}, batch["image"]
            )
        )

    def attention(self, batch, texts) -> dict[str, np.ndarray]:
        """The raw attention of the text as a whole, and of the word that names the article."""
        maps = np.asarray(self.maps(self.params, batch)["attention_maps"])  # [L,B,T,P]
        ends = np.asarray(self.model.text.end_position(batch["tokens"]))
        read = self.classifier.trained.encode
        heats = {"attention of the text": maps[-1, np.arange(len(ends)), ends][: len(texts)]}
        if len(maps) > 1:
            words = [read.tokenizer.places(text, read.text_length) for text in texts]
            at = [next(at for word, at in some if word.lower() in NAMES) for some in words]
            named = [maps[:-1, row, some].mean(axis=(0, 1)) for row, some in enumerate(at)]
            heats["attention of the word"] = np.stack(named)
        return heats

    def of_answers(self, batch, count: int, task: str) -> dict[str, np.ndarray]:
        """The heats of the answers to a task."""
        before = self.chances(batch, count)
        answered = before[task].argmax(axis=-1)
        question = {
            name: np.zeros((len(batch["weight"]), x.shape[1])) for name, x in before.items()
        }
        question[task][np.arange(count), answered] = 1
        asked = batch | {"question": jax.tree.map(np.float32, question)}
        encoded = {"image_tokens": np.asarray(self.encode(self.params, batch)[0])}
        size, falls = self.model.image.patch_size, []
        for patch in range(patch_count(self.model.image)):
            painted = batch | {"image": painted_over(batch["image"], patch, size)}
            fall = before[task] - self.chances(painted, count)[task]
            falls.append(fall[np.arange(count), answered])
        return {
            # Given the encoder's tokens, the model does not run the encoder.
            "gradient, fusion alone": self.classifier.outcome(
                asked | encoded, count, self.relevance
            )["heat"],
            "gradient": self.classifier.outcome(asked, count, self.relevance)["heat"],
            "occlusion": np.stack(falls, axis=1),
        }

    def chances(self, batch, count: int) -> dict[str, np.ndarray]:
        return self.classifier.outcome(batch, count)["probabilities"]


def patches_on(outlines: np.ndarray, size: int) -> np.ndarray:
    """Whether each patch lies on each article: [articles,S,S] -> [articles,P]."""
    articles, side = len(outlines), outlines.shape[1] // size
    squares = outlines.reshape(articles, side, size, side, size).mean(axis=(2, 4))
    return squares.reshape(articles, -1) >= COVERED


def complete_pairs(shop: Shop, most: int) -> list[int]:
    """The places of the pairs with both picture and title, among the first ones."""
    records = ((index, shop[index]) for index in range(min(most, len(shop))))
    return [index for index, record in records if record.image is not None and record.text]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--pairs", type=int, default=2000)
    options = parser.parse_args()
    trained = open_judged(options.workdir, saved_config(options.workdir))
    shop = trained.data.source(options.split)
    if not isinstance(shop, Shop):
        raise UserError(f"{options.workdir} is no run on the drawn catalogue (data.source='shop')")
    classifier = Classifier(trained, {})
    heats, game, places = Heats(classifier), Game(), complete_pairs(shop, options.pairs)
    for first in range(0, len(places), BATCH):
        some = places[first : first + BATCH]
        texts = [shop[place].text for place in some]
        batch, _ = classifier.read([Pair(shop[place].image, shop[place].text) for place in some])
        outlines, named = zip(*map(shop.outlines, some), strict=True)
        on = np.stack([patches_on(each, heats.model.image.patch_size) for each in outlines])
        raw = heats.attention(batch, texts)
        for task in TASKS:
            for kind, heat in (raw | heats.of_answers(batch, len(some), task)).items():
                game.play(kind, task, heat, on, np.array(named))
    print(f"{options.workdir} at step {trained.step:,}, {len(places):,} pairs of {options.split}")
    game.show()


if __name__ == "__main__":
    main()
