"""How augmentation and noise change records on their way into batches."""

import dataclasses

import numpy as np

from cmaclip_jax.data.augment import Augment
from cmaclip_jax.data.images import Picture
from cmaclip_jax.data.noise import REPLACEMENTS, Noise, corrupt_image, corrupt_text, swap_index
from cmaclip_jax.data.records import Record, Source

# The independent random streams of one position.
CORRUPTED, TEXT, PICTURE, COLOUR = range(4)
NO_AUGMENT, NO_NOISE = Augment(), Noise()


@dataclasses.dataclass(frozen=True)
class View:
    """Augmentation and noise. Their randomness depends on `seed` and a record's position alone.

    The position is that in the endless order of a run (order.py), or that in an evaluated split.
    """

    augment: Augment = NO_AUGMENT
    noise: Noise = NO_NOISE
    seed: int = 0

    @property
    def crops(self) -> bool:
        """Whether pictures are cropped at random."""
        return self.augment.crop < 1

    @property
    def changes_pixels(self) -> bool:
        """Whether pictures change after they were cropped and resized."""
        return self.augment.alters_colour or self._corrupts_pixels

    @property
    def _corrupts_pixels(self) -> bool:
        return self.noise.image not in ("", *REPLACEMENTS)

    def random(self, stream: int, position: int) -> np.random.Generator:
        """The random numbers of one purpose at one position."""
        return np.random.default_rng((self.seed, stream, position))

    def is_corrupted(self, position: int) -> bool:
        """Whether noise changes the record at a position: its picture and its text alike."""
        return self.noise.strikes(self.random(CORRUPTED, position))

    def replaces_picture(self, position: int) -> bool:
        """Whether the record at a position gets another record's picture, or none."""
        return self.noise.image in REPLACEMENTS and self.is_corrupted(position)

    def other_picture(self, source: Source, index: int, position: int) -> Picture | None:
        """What replaces the picture of the record at `index`; None if it shall be missing."""
        if self.noise.image == "missing":
            return None
        return self.other(source, index, position, PICTURE).image

    def other(self, source: Source, index: int, position: int, stream: int) -> Record:
        """A random record other than the one at `index`, whose picture or text replaces its own."""
        return source[swap_index(index, len(source), self.random(stream, position))]

    def change_text(self, text: str, source: Source, index: int, position: int) -> str | None:
        """A text after augmentation and noise; None where it got that of a record without text."""
        if self.augment.word_drop:
            text = self.augment.drop_words(text, self.random(TEXT, position))
        if not (text and self.noise.text and self.is_corrupted(position)):
            return text
        if self.noise.text == "swap":
            return self.other(source, index, position, TEXT).text
        random = self.random(TEXT, position)
        return corrupt_text(text, self.noise.text, self.noise.severity, random)

    def change_pictures(self, pictures: np.ndarray, has_image, positions) -> np.ndarray:
        """Resized pictures [B,S,S,3] after augmentation of their colours and noise."""
        rows = zip(pictures, has_image, positions, strict=True)
        return np.stack([self._change(p, int(at)) if has else p for p, has, at in rows])

    def _change(self, picture: np.ndarray, position: int) -> np.ndarray:
        if self.augment.alters_colour:
            picture = self.augment.colour(picture, self.random(COLOUR, position))
        if self._corrupts_pixels and self.is_corrupted(position):
            random = self.random(PICTURE, position)
            picture = corrupt_image(picture, self.noise.image, self.noise.severity, random)
        return picture
