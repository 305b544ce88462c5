"""Training examples in other guises: pictures cropped and recoloured, texts with words left out.

Everything is a pure function of the random numbers it is given.
"""

import dataclasses

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from cmaclip_jax.data.noise import GREY, leave_out_words
from cmaclip_jax.errors import UserError

ASPECTS = (3 / 4, 4 / 3)  # width / height of a random crop, narrowest and widest
STRONGEST = 30  # the magnitude at which the operations below reach their limits
FILL = (GREY, GREY, GREY)  # what comes in at the edges of a moved picture


@dataclasses.dataclass(frozen=True)
class Augment:
    """What is done to training examples; as it stands by default, nothing.

    crop: smallest share of the area that a random crop takes; 1 is no random crop.
    flip: whether every other picture is mirrored, which whoever resizes it does.
    jitter: how far brightness, contrast and saturation move, 0 to 1.
    randaugment: how many random operations a picture goes through.
    magnitude: how strong these are, 0 to 30.
    word_drop: the probability of a word to be left out.
    """

    crop: float = 1.0
    flip: bool = False
    jitter: float = 0.0
    randaugment: int = 0
    magnitude: int = 9
    word_drop: float = 0.0

    def __post_init__(self):
        if not 0 <= self.magnitude <= STRONGEST:
            raise UserError(f"magnitude {self.magnitude} must lie between 0 and {STRONGEST}")

    @property
    def alters_colour(self) -> bool:
        """Whether `colour` does anything; it is slow, so where it does not, leave it out."""
        return self.jitter > 0 or self.randaugment > 0

    def windows(self, sizes: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        """Where to cut pictures of `sizes` [R,2] (height, width); always inside of them.

        uniforms: [R,4] in [0,1): the area, the aspect, and the place from top and from left.
        Returns int32 [R,4]: top, left, height, width. Without random crops (crop=1), that is
        the largest square in the middle.
        """
        if self.crop == 1:
            shapes = np.repeat(sizes.min(1, keepdims=True), 2, 1)
            corners = (sizes - shapes) // 2
        else:
            shapes = _random_shapes(sizes, self.crop, uniforms[:, 0], uniforms[:, 1])
            room = sizes - shapes
            # The second minimum is for a uniform that rounds up to 1.
            corners = np.minimum((uniforms[:, 2:] * (room + 1)).astype(int), room)
        return np.concatenate([corners, shapes], 1).astype(np.int32)

    def colour(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A uint8 [S,S,3] of the same size after jitter and then the random operations."""
        picture = Image.fromarray(image)
        if self.jitter:
            factors = rng.uniform(1 - self.jitter, 1 + self.jitter, len(JITTERED))
            for enhance, factor in zip(JITTERED, factors, strict=True):
                picture = enhance(picture).enhance(float(factor))
        for operation in rng.integers(len(OPERATIONS), size=self.randaugment):
            strength = self.magnitude / STRONGEST * rng.choice((-1.0, 1.0))
            picture = tuple(OPERATIONS.values())[operation](picture, float(strength))
        return np.array(picture)

    def drop_words(self, text: str, rng: np.random.Generator) -> str:
        """Each word left out with probability `word_drop`, but never all of them."""
        return leave_out_words(text, self.word_drop, rng) if self.word_drop else text


def _random_shapes(
    sizes: np.ndarray, crop: float, for_area: np.ndarray, for_aspect: np.ndarray
) -> np.ndarray:
    """Heights and widths [R,2]: area uniform in [crop,1] of the picture, aspect log-uniform.

    The aspect is drawn among those of ASPECTS at which a window of that area fits, so that
    large areas come as often as small ones. In a picture so long that none does, the aspect
    stays within ASPECTS and the window is as large as can be, or smaller.
    """
    height, width = sizes[:, 0], sizes[:, 1]
    share = np.maximum(crop + (1 - crop) * for_area, 1e-9)
    low = np.clip(share * width / height, *ASPECTS)
    high = np.clip(width / height / share, *ASPECTS)
    aspect = low * (high / low) ** for_aspect
    area = share * height * width
    shapes = np.stack([np.sqrt(area / aspect), np.sqrt(area * aspect)], 1)  # [R,2]
    shapes *= np.minimum(1.0, (sizes / shapes).min(1, keepdims=True))
    return np.clip(np.rint(shapes).astype(int), 1, sizes)


def _enhanced(enhance):
    """An operation that moves one property by up to 90 % to either side."""
    return lambda picture, strength: enhance(picture).enhance(1 + 0.9 * strength)


def _moved(matrix):
    """An operation that maps a pixel's place by `matrix(strength, side)`."""

    def move(picture: Image.Image, strength: float) -> Image.Image:
        return picture.transform(
            picture.size,
            Image.Transform.AFFINE,
            matrix(strength, picture.width),
            Image.Resampling.BILINEAR,
            fillcolor=FILL,
        )

    return move


def _rotated(picture: Image.Image, strength: float) -> Image.Image:
    return picture.rotate(30 * strength, Image.Resampling.BILINEAR, fillcolor=FILL)


JITTERED = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)

# RandAugment's operations on (picture, strength from -1 to 1); those that know no direction
# take its size. Their limits are ours: 30 degrees, a shear of 0.3, 0.3 of the side.
OPERATIONS = {
    "identity": lambda picture, strength: picture,
    "autocontrast": lambda picture, strength: ImageOps.autocontrast(picture),
    "equalize": lambda picture, strength: ImageOps.equalize(picture),
    "rotate": _rotated,
    "solarize": lambda picture, strength: ImageOps.solarize(picture, 256 * (1 - abs(strength))),
    "colour": _enhanced(ImageEnhance.Color),
    "posterize": lambda picture, strength: ImageOps.posterize(
        picture, 8 - round(4 * abs(strength))
    ),
    "contrast": _enhanced(ImageEnhance.Contrast),
    "brightness": _enhanced(ImageEnhance.Brightness),
    "sharpness": _enhanced(ImageEnhance.Sharpness),
    "shear_x": _moved(lambda strength, side: (1, 0.3 * strength, -0.15 * strength * side, 0, 1, 0)),
    "shear_y": _moved(lambda strength, side: (1, 0, 0, 0.3 * strength, 1, -0.15 * strength * side)),
    "translate_x": _moved(lambda strength, side: (1, 0, 0.3 * strength * side, 0, 1, 0)),
    "translate_y": _moved(lambda strength, side: (1, 0, 0, 0, 1, 0.3 * strength * side)),
}
