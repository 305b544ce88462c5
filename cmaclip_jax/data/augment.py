"""Augmentation of training examples: crops and colours of pictures, dropped words of texts.

Every function is a pure function of the random numbers that it is given.
"""

import dataclasses

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from cmaclip_jax.data.noise import GREY, leave_out_words
from cmaclip_jax.errors import UserError

ASPECTS = (3 / 4, 4 / 3)  # width / height of a random crop, narrowest and widest
STRONGEST = 30  # the magnitude at which the operations below reach their limits
FILL = (GREY, GREY, GREY)  # the colour beyond the edges of a moved picture


@dataclasses.dataclass(frozen=True)
class Augment:
    """The augmentation of training examples. By default there is none.

    crop: the smallest share of the area that a random crop keeps; 1: no random crops.
    flip: whether half of the pictures are mirrored. `decode_all` does that.
    jitter: how far brightness, contrast and saturation move, 0 to 1.
    randaugment: the number of random operations on a picture.
    magnitude: how strong these are, 0 to 30.
    word_drop: the probability that a word is left out.
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
        """Whether `colour` changes anything. It is slow, and should not be called for nothing."""
        return self.jitter > 0 or self.randaugment > 0

    def windows(self, sizes: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        """Random crops of pictures of `sizes` [R,2] (height, width), all inside the pictures.

        uniforms: [R,4] in [0,1), for the area, the aspect, and the distance from top and left.
        Returns int32 [R,4]: top, left, height, width. Without random crops (crop=1) it is the
        largest square in the middle.
        """
        if self.crop == 1:
            shapes = np.repeat(sizes.min(1, keepdims=True), 2, 1)
            corners = (sizes - shapes) // 2
        else:
            shapes = _random_shapes(sizes, self.crop, uniforms[:, 0], uniforms[:, 1])
            room = sizes - shapes
            # The minimum matters for a uniform that rounds up to 1.
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

    The aspect is drawn from the part of ASPECTS in which a window of that area fits, so that large
    areas are as frequent as small ones. In a picture too long for any, the aspect stays within
    ASPECTS and the window becomes smaller.
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
    """An operation that changes one property by up to 90 % in either direction."""
    return lambda picture, strength: enhance(picture).enhance(1 + 0.9 * strength)


def _moved(matrix):
    """An operation that moves every pixel by the affine `matrix(strength, side)`."""

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

# RandAugment's operations on (picture, strength from -1 to 1). Operations without a direction use
# the absolute strength. The limits are our choice: 30 degrees, a shear of 0.3, 0.3 of the side.
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
