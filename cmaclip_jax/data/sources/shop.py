"""The procedural catalogue: pictures and titles drawn on the fly, nothing to download.

A picture shows several articles, each with its own colour and pattern, on a backdrop. The title
names one of them and a material. The text says which article is meant, and the picture shows what
it looks like, so its colour and pattern need both:

    category   text (the picture shows several articles)
    colour     both: of the article that the title names
    pattern    both: likewise
    material   text
    backdrop   image
    contents   image; many labels: every article in the picture

A pair is a pure function of (seed, split, index). As in a real catalogue, some labels, pictures
and titles are missing.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image, ImageDraw

from cmaclip_jax.data.bad_records import BadRecords
from cmaclip_jax.data.records import SPLITS, Label, Record, Sources
from cmaclip_jax.tasks import Task

# Names by which a title may call an article.
ARTICLES = {
    "mug": ("mug", "cup", "tumbler"),
    "hat": ("hat", "cap", "fedora"),
    "shirt": ("shirt", "tee", "top"),
    "shoe": ("shoe", "boot", "sneaker"),
    "bag": ("bag", "tote", "purse"),
    "lamp": ("lamp", "light", "lantern"),
    "clock": ("clock", "timer", "timepiece"),
    "chair": ("chair", "stool", "seat"),
}
COLOURS = {
    "red": (205, 35, 40),
    "orange": (245, 130, 25),
    "yellow": (240, 210, 40),
    "green": (40, 150, 65),
    "blue": (35, 80, 200),
    "purple": (125, 45, 160),
    "pink": (240, 110, 175),
    "brown": (110, 65, 30),
}
PATTERNS = ("plain", "striped", "dotted", "checked")
MATERIALS = {
    "cotton": ("cotton", "denim", "canvas"),
    "leather": ("leather", "suede", "nappa"),
    "wood": ("wood", "oak", "bamboo"),
    "steel": ("steel", "metal", "chrome"),
    "glass": ("glass", "crystal"),
    "wool": ("wool", "felt", "merino"),
}
BACKDROPS = {
    "studio": (200, 203, 206),
    "slate": (95, 102, 114),
    "sand": (222, 202, 162),
    "mint": (176, 222, 202),
    "rose": (238, 200, 206),
}
OPENINGS = (
    "",
    "brand new",
    "classic",
    "the",
    "our favourite",
    "hand made",
    "sale :",
    "a",
    "premium",
)
ENDINGS = ("", "free shipping", "for every day", "- limited offer", "as a gift", "in stock", "!")
SHADES_OF_WHITE = {"plain": 0.0, "striped": 0.85, "dotted": 0.9, "checked": 0.85}

TASKS = (
    Task("category", tuple(ARTICLES)),
    Task("colour", tuple(COLOURS)),
    Task("pattern", PATTERNS),
    Task("material", tuple(MATERIALS)),
    Task("backdrop", tuple(BACKDROPS)),
    Task("contents", tuple(ARTICLES), many=True),
)


def open_splits(data: ConfigDict, bad: BadRecords) -> Sources:
    """The catalogue that `data.shop` describes."""
    shop = data.shop
    return {
        split: Shop(
            split=split,
            size=shop[f"{split}_size"],
            seed=shop.seed,
            image_size=data.image_size,
            articles=shop.articles,
            single_share=shop.single_share if split == "train" else 0.0,
            missing_labels=shop.missing_labels,
            missing_images=shop.missing_images,
            missing_texts=shop.missing_texts,
        )
        for split in SPLITS
    }


@dataclasses.dataclass(frozen=True)
class Shop:
    """`size` pairs of one split.

    articles: how many a picture shows, in a grid of two columns or more.
    single_share: the share of pictures that show only the named article.
    missing_labels, missing_images, missing_texts: shares that are absent; a pair never
        lacks both its picture and its title.
    """

    split: str
    size: int
    seed: int = 0
    image_size: int = 48
    articles: int = 2
    single_share: float = 0.0
    missing_labels: float = 0.05
    missing_images: float = 0.05
    missing_texts: float = 0.05
    tasks: tuple[Task, ...] = TASKS
    _drawn: dict[int, Record] = dataclasses.field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Record:
        """The pair at `index`. It is drawn once and stays in memory: 7 KB at 48 pixels."""
        if index not in self._drawn:
            self._drawn[index] = self.draw(index)
        return self._drawn[index]

    def text(self, index: int) -> str | None:
        """The title alone, without painting the picture."""
        drawn = self._drawn.get(index)
        return drawn.text if drawn else self.draw(index, painted=False).text

    def labels(self, task: str) -> list[Label]:
        return [self[index].labels[task] for index in range(self.size)]

    def draw(self, index: int, painted: bool = True) -> Record:
        """The pair at `index`, a function of seed, split and index.

        painted: whether it gets its picture.
        """
        random = self._random(index)
        scene, material = self._sketch(random)
        named = scene.things[scene.named]
        labels: dict[str, Any] = {
            "category": named.article,
            "colour": named.colour,
            "pattern": named.pattern,
            "material": material,
            "backdrop": scene.backdrop,
            "contents": tuple(thing.article for thing in scene.things),
        }
        image = paint(scene, self.image_size) if painted else None
        text = write_title(random, named.article, material)
        absence = random.random()  # low: no picture, high: no title
        unknown = random.random(len(labels)) < self.missing_labels
        return Record(
            id=f"{self.split}-{index}",
            image=None if absence < self.missing_images else image,
            text=None if absence > 1 - self.missing_texts else text,
            labels={
                name: None if is_unknown else label
                for (name, label), is_unknown in zip(labels.items(), unknown, strict=True)
            },
        )

    def outlines(self, index: int) -> tuple[np.ndarray, int]:
        """How much of each pixel every article covers, float32 [N,S,S], and the named one's place.

        A benchmark needs them; no record holds them.
        """
        scene, _ = self._sketch(self._random(index))
        covers = np.zeros((len(scene.things), self.image_size, self.image_size), np.float32)
        for cover, (window, mask) in zip(covers, windows(scene, self.image_size), strict=True):
            cover[window] = mask
        return covers, scene.named

    def _random(self, index: int) -> np.random.Generator:
        return np.random.default_rng((SPLITS.index(self.split), index, self.seed))

    def _sketch(self, random: np.random.Generator) -> "tuple[Scene, str]":
        """The scene of a picture, and the material of the named article."""
        shown = 1 if random.random() < self.single_share else self.articles
        things, named = draw_things(random, shown), int(random.integers(shown))
        backdrop, material = pick(random, BACKDROPS), pick(random, MATERIALS)
        return draw_scene(random, things, named, backdrop, self.articles), material


@dataclasses.dataclass(frozen=True)
class Thing:
    """One article as it is drawn."""

    article: str
    colour: str
    pattern: str


def pick(random: np.random.Generator, choices) -> str:
    """One of the names, all equally likely."""
    names = tuple(choices)
    return names[random.integers(len(names))]


def draw_things(random: np.random.Generator, count: int) -> list[Thing]:
    """Different articles. Colours and patterns repeat only if there are too few of them.

    So only the title says which of the colours is the label.
    """
    columns = []
    for choices in (ARTICLES, COLOURS, PATTERNS):
        names = tuple(choices)
        order = np.concatenate(
            [random.permutation(len(names)) for _ in range(0, count, len(names))]
        )
        columns.append([names[i] for i in order[:count]])
    return [Thing(*row) for row in zip(*columns, strict=True)]


def write_title(random: np.random.Generator, article: str, material: str) -> str:
    """A title as sellers write it: a synonym of the article, a material, and filler words."""
    name, stuff = pick(random, ARTICLES[article]), pick(random, MATERIALS[material])
    middle = f"{stuff} {name}" if random.random() < 0.5 else f"{name} made of {stuff}"
    title = f"{pick(random, OPENINGS)} {middle} {pick(random, ENDINGS)}".strip()
    return title.upper() if random.random() < 0.1 else title


@dataclasses.dataclass(frozen=True)
class Scene:
    """The random choices of a picture.

    named: the place of the thing that the title names.
    grid: rows and columns of cells; slope: of the light, down and across; places: for every
        thing its cell, its distance from the corner of the cell, and the change of its colour.
    """

    things: list[Thing]
    named: int
    backdrop: str
    grid: tuple[int, int]
    slope: np.ndarray
    places: list[tuple[int, np.ndarray, np.ndarray]]


def draw_scene(random, things: list[Thing], named: int, backdrop: str, articles: int) -> Scene:
    """The things in random cells of the grid that `articles` needs."""
    columns = int(np.ceil(np.sqrt(articles)))
    rows = int(np.ceil(articles / columns))
    slope = random.uniform(-10, 10, 2).astype(np.float32)
    cells = random.permutation(rows * columns)[: len(things)]
    places = [(int(cell), random.integers(0, 3, 2), random.integers(-12, 13, 3)) for cell in cells]
    return Scene(things, named, backdrop, (rows, columns), slope, places)


def paint(scene: Scene, size: int) -> np.ndarray:
    """The scene as uint8 [size,size,3]."""
    canvas = paint_backdrop(scene.backdrop, scene.slope, size)
    drawn = zip(scene.things, scene.places, windows(scene, size), strict=True)
    for thing, (_, _, tint), (window, mask) in drawn:
        colour = np.array(COLOURS[thing.colour], np.float32) + tint
        white = pattern(thing.pattern, len(mask))[..., None] * SHADES_OF_WHITE[thing.pattern]
        surface = colour + white * (252 - colour)
        canvas[window] += mask[..., None] * (surface - canvas[window])
    return np.clip(canvas, 0, 255).astype(np.uint8)


def windows(scene: Scene, size: int) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
    """Of every thing its square of the picture, and its silhouette there [side,side]."""
    rows, columns = scene.grid
    cell = size // columns
    side = cell - 2
    top = (size - rows * cell) // 2
    for thing, (position, shift, _) in zip(scene.things, scene.places, strict=True):
        y, x = divmod(position, columns)
        y, x = (top + y * cell, x * cell) + shift
        yield (slice(y, y + side), slice(x, x + side)), silhouette(thing.article, side)


def paint_backdrop(name: str, slope: np.ndarray, size: int) -> np.ndarray:
    """float32 [size,size,3]: the backdrop's colour under light from one side."""
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    light = slope[0] * ramp[:, None] + slope[1] * ramp[None, :]
    return np.array(BACKDROPS[name], np.float32) + light[..., None]


@functools.cache
def pattern(name: str, side: int) -> np.ndarray:
    """Where a pattern is light: float32 [side,side] of 0 and 1."""
    y, x = np.mgrid[:side, :side]
    shapes = {
        "plain": np.zeros((side, side), bool),
        "striped": y % 6 < 3,
        "dotted": (y % 6 - 2.5) ** 2 + (x % 6 - 2.5) ** 2 < 3.4,
        "checked": (y // 4 + x // 4) % 2 == 0,
    }
    return shapes[name].astype(np.float32)


@functools.cache
def silhouette(article: str, side: int) -> np.ndarray:
    """How much of each pixel an article covers: float32 [side,side] in 0..1."""
    fine = 8 * side
    image = Image.new("L", (fine, fine))
    draw = ImageDraw.Draw(image)
    for kind, fill, *points in OUTLINES[article]:
        scaled = [(x * fine / 100, y * fine / 100) for x, y in points]
        paint = draw.ellipse if kind == "ellipse" else draw.polygon
        paint(scaled, fill=255 if fill else 0)
    return np.asarray(image.resize((side, side), Image.Resampling.BOX), np.float32) / 255


# Outlines on a square of 100: (kind, filled or cut out, corner points).
OUTLINES = {
    "mug": (
        ("ellipse", True, (50, 28), (98, 76)),
        ("ellipse", False, (62, 40), (86, 64)),
        ("polygon", True, (4, 12), (70, 12), (70, 92), (4, 92)),
    ),
    "hat": (
        ("ellipse", True, (0, 58), (100, 92)),
        ("polygon", True, (24, 16), (76, 16), (80, 74), (20, 74)),
    ),
    "shirt": (
        ("polygon", True, (30, 6), (70, 6), (100, 34), (84, 50), (74, 42), (74, 96), (26, 96))
        + ((26, 42), (16, 50), (0, 34)),
        ("ellipse", False, (38, -8), (62, 18)),
    ),
    "shoe": (
        ("polygon", True, (4, 14), (42, 14), (46, 42), (82, 56), (98, 72), (98, 88), (4, 88)),
    ),
    "bag": (
        ("ellipse", True, (24, 2), (76, 70)),
        ("ellipse", False, (34, 12), (66, 60)),
        ("polygon", True, (8, 38), (92, 38), (100, 98), (0, 98)),
    ),
    "lamp": (
        ("polygon", True, (30, 4), (70, 4), (96, 52), (4, 52)),
        ("polygon", True, (44, 50), (56, 50), (56, 86), (44, 86)),
        ("polygon", True, (20, 86), (80, 86), (80, 98), (20, 98)),
    ),
    "clock": (
        ("ellipse", True, (2, 2), (98, 98)),
        ("polygon", False, (46, 18), (54, 18), (54, 46), (78, 46), (78, 54), (46, 54)),
    ),
    "chair": (
        ("polygon", True, (6, 0), (32, 0), (32, 98), (6, 98)),
        ("polygon", True, (6, 40), (94, 40), (94, 66), (6, 66)),
        ("polygon", True, (68, 40), (94, 40), (94, 98), (68, 98)),
    ),
}
