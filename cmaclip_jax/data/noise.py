"""Noise on pictures and texts, to measure how much a model depends on either modality.

The kinds and their strengths are our own choice. Every function is a pure function of its
arguments and its random generator.
"""

import dataclasses
import io
import string
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from cmaclip_jax.errors import UserError

REPLACEMENTS = ("swap", "missing")  # another record's picture, or none, instead of its own
IMAGE_NOISES = ("gaussian", "blur", "jpeg", "occlusion", "blank", *REPLACEMENTS)
TEXT_NOISES = ("drop", "typos", "swap", "blank")

GREY = 128  # fills the parts of a picture that show nothing

# What a severity means for each kind. 'swap', 'blank' and 'missing' have no severity.
STRENGTHS: dict[str, dict[int, Any]] = {
    # Standard deviation in grey levels of 255. 10 belongs to a published protocol.
    "gaussian": {1: 10.0, 2: 20.0, 3: 30.0, 4: 40.0, 5: 50.0, 10: 100.0},
    # Standard deviation as a share of the picture's side.
    "blur": {1: 0.01, 2: 0.02, 3: 0.03, 4: 0.045, 5: 0.06},
    # The encoder's quality, of 100.
    "jpeg": {1: 25, 2: 18, 3: 12, 4: 7, 5: 3},
    # Share of the area that is covered.
    "occlusion": {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4, 5: 0.5},
    # Share of the words that are left out.
    "drop": {1: 0.1, 2: 0.2, 3: 0.35, 4: 0.5, 5: 0.7},
    # Share of the characters with a typo.
    "typos": {1: 0.02, 2: 0.05, 3: 0.1, 4: 0.15, 5: 0.25},
}

SLIPS = ("swap", "delete", "replace", "insert")


@dataclasses.dataclass(frozen=True)
class Noise:
    """Noise on a share of the examples: on the picture and the text of the same examples.

    image: one of IMAGE_NOISES, or '' for none; text: one of TEXT_NOISES, or ''.
    severity: 1 to 5, see STRENGTHS. 'gaussian' also has 10; then `text` must be a kind
        without severity.
    share: the probability that an example is corrupted.
    """

    image: str = ""
    text: str = ""
    severity: int = 3
    share: float = 1.0

    def __post_init__(self):
        for name, kind, kinds in (
            ("image", self.image, IMAGE_NOISES),
            ("text", self.text, TEXT_NOISES),
        ):
            if kind and kind not in kinds:
                raise UserError(f"{name} noise {kind!r} is none of {kinds}; '' is no noise")
            known = tuple(STRENGTHS.get(kind, ()))
            if known and self.severity not in known:
                raise UserError(f"{kind!r} has no severity {self.severity}; use one of {known}")
        if not 0 <= self.share <= 1:
            raise UserError(f"noise share {self.share} must lie between 0 and 1")

    def strikes(self, rng: np.random.Generator) -> bool:
        """Whether an example is corrupted. Draws exactly one random number."""
        return bool(rng.random() < self.share)


# ACML's noise on Food101: half of the examples, Gaussian noise of strength 5 or 10 on the
# picture, and no text. Neither the unit of strength nor whether picture and text of an example
# are hit together is stated where we could read it: 10 grey levels a unit, and together, are
# our reading. Public code of related work has the same unit, but draws picture and text
# separately and blanks each word with probability strength / 10; its figures would be milder.
PROTOCOLS = {
    "acml-5": Noise("gaussian", "blank", 5, 0.5),
    "acml-10": Noise("gaussian", "blank", 10, 0.5),
}


def corrupt_image(
    image: np.ndarray, kind: str, severity: int, rng: np.random.Generator
) -> np.ndarray:
    """The picture with noise, uint8 [S,S,3].

    'blank' is a grey picture. It is not a missing one: `has_image` stays true, so the model reads
    the grey pixels, whereas a missing picture is masked. REPLACEMENTS are made before the picture
    is read; see `View.other_picture`.
    """
    if kind == "blank":
        return np.full_like(image, GREY)
    if kind not in IMAGE_CORRUPTIONS:
        raise ValueError(f"corrupt_image knows {(*IMAGE_CORRUPTIONS, 'blank')}, not {kind!r}")
    return IMAGE_CORRUPTIONS[kind](image, STRENGTHS[kind][severity], rng)


def corrupt_text(text: str, kind: str, severity: int, rng: np.random.Generator) -> str:
    """The text with noise. It is empty only if it was empty before or `kind` is 'blank'.

    A blank text is a missing text: the empty string, with `has_text` false, which the model masks.
    'swap' needs the other records; see `swap_index`.
    """
    if kind == "blank":
        return ""
    if kind not in TEXT_CORRUPTIONS:
        raise ValueError(f"corrupt_text knows {(*TEXT_CORRUPTIONS, 'blank')}, not {kind!r}")
    return TEXT_CORRUPTIONS[kind](text, STRENGTHS[kind][severity], rng)


def swap_index(index: int, size: int, rng: np.random.Generator) -> int:
    """A random index below `size` other than `index`, unless `index` is the only one.

    The kind 'swap' takes that record's picture or text, which is plausible but wrong.
    """
    if size < 2:
        return index
    other = int(rng.integers(size - 1))
    return other + (other >= index)


def leave_out_words(text: str, share: float, rng: np.random.Generator) -> str:
    """Each word is left out with probability `share`, but never all of them.

    White space separates words. A text without white space is one word.
    """
    words = text.split()
    kept = rng.random(len(words)) >= share
    if not words or kept.all():
        return text
    if not kept.any():
        kept[rng.integers(len(words))] = True
    return " ".join(word for word, keep in zip(words, kept, strict=True) if keep)


def add_typos(text: str, rate: float, rng: np.random.Generator) -> str:
    """Swaps, deletes, replaces or inserts characters, at a share `rate` of the places.

    New characters are Latin letters, in any script. A text that would lose all its characters
    stays as it is, so that typos never make a text missing.
    """
    if not text.strip():
        return text  # typos add no text to an empty one
    characters = list(text)
    slips = rng.integers(len(SLIPS), size=len(text))
    letters = rng.integers(len(string.ascii_lowercase), size=len(text))
    for place in np.flatnonzero(rng.random(len(text)) < rate):
        letter = string.ascii_lowercase[letters[place]]
        _slip(characters, int(place), SLIPS[slips[place]], letter)
    return worse if (worse := "".join(characters)).strip() else text


def _slip(characters: list[str], place: int, slip: str, letter: str) -> None:
    """Makes one typo. The list keeps its length, so that later places stay valid."""
    if slip == "swap":
        # The last character is swapped with the one before; a single one stays.
        other = place + 1 if place + 1 < len(characters) else place - 1
        characters[place], characters[other] = characters[other], characters[place]
    elif slip == "delete":
        characters[place] = ""
    elif slip == "replace":
        characters[place] = letter
    else:
        characters[place] += letter


def _add_gaussian(image: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    noisy = image + deviation * rng.standard_normal(image.shape, np.float32)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def _blur(image: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    kernel = ImageFilter.GaussianBlur(share * image.shape[0])
    return np.array(Image.fromarray(image).filter(kernel))


def _compress(image: np.ndarray, quality: int, rng: np.random.Generator) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file))


def _occlude(image: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    size = image.shape[0]
    side = max(1, round(size * share**0.5))
    top, left = rng.integers(size - side + 1, size=2)
    hidden = image.copy()
    hidden[top : top + side, left : left + side] = GREY
    return hidden


IMAGE_CORRUPTIONS = {
    "gaussian": _add_gaussian,
    "blur": _blur,
    "jpeg": _compress,
    "occlusion": _occlude,
}
TEXT_CORRUPTIONS = {"drop": leave_out_words, "typos": add_typos}
