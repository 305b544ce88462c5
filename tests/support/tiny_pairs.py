"""A TFDS data set of a few pixels, with every kind of feature."""

import numpy as np
import tensorflow_datasets as tfds

SIZES = {"train": 37, "validation": 5, "test": 8}
COLOURS = ("red", "green", "blue")
THINGS = ("mug", "hat", "bag")
MAKERS = ("Acme", "Bolt", "")


class TinyPairs(tfds.core.GeneratorBasedBuilder):
    """Everything that data sets have, in a few pixels."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        label = tfds.features.ClassLabel
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                    "pixels": tfds.features.Tensor(shape=(6, 4, 1), dtype=np.uint8),
                    "mask": tfds.features.Image(shape=(None, None, 1), use_colormap=True),
                    "title": tfds.features.Text(),
                    "file_name": tfds.features.Text(),
                    "maker": tfds.features.Text(),
                    "colour": label(names=COLOURS),
                    "more": {"things": tfds.features.Sequence(label(names=THINGS))},
                    "price": np.float32,
                }
            ),
        )

    def _split_generators(self, _):
        return {split: self._generate_examples(split) for split in SIZES}

    def _generate_examples(self, split):
        for index in range(SIZES[split]):
            yield index, make_example(split, index)


def make_example(split, index):
    noise = np.random.default_rng((list(SIZES).index(split), index))
    return {
        "image": noise.integers(0, 256, (5 + index % 3, 7, 3)).astype(np.uint8),
        "pixels": noise.integers(0, 256, (6, 4, 1)).astype(np.uint8),
        "mask": np.zeros((5, 7, 1), np.uint8),
        "title": "" if index % 7 == 0 else f"título {split} {index}",
        "file_name": f"{COLOURS[index % 3]}_{index}.png",
        "maker": "Unheard" if split == "test" and index == 3 else MAKERS[index % 3],
        "colour": -1 if index % 5 == 0 else index % 3,
        "more": {"things": [] if index % 4 == 0 else sorted({index % 3, index % 2})},
        "price": 1.5,
    }
