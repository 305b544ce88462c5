"""Landmark layouts: the number of points, the eye corners, the contours and the mirrored points.

Indices count from 0 in the order of the public annotations with that name.
"""

import dataclasses
from collections.abc import Iterable

Contour = tuple[tuple[int, ...], bool]  # the points in order, and whether the contour is closed


@dataclasses.dataclass(frozen=True)
class Layout:
    """One convention of landmarks.

    eyes: the outer corners, the one on the left of the picture first; None if the layout has none.
    contours: a point on several contours has its neighbours on the first of them.
    mirrored: the index of each point in the mirrored picture.
    parts: the parts of the face by name; each point is in one part.
    """

    name: str
    count: int
    eyes: tuple[int, int] | None
    contours: tuple[Contour, ...]
    mirrored: tuple[int, ...]
    parts: tuple[tuple[str, tuple[int, ...]], ...]


def line(first: int, last: int) -> Contour:
    """An open contour over consecutive points."""
    return tuple(range(first, last + 1)), False


def ring(first: int, last: int) -> Contour:
    """A closed contour over consecutive points."""
    return tuple(range(first, last + 1)), True


def twins(count: int, *pairs: tuple[int, int]) -> tuple[int, ...]:
    """The permutation that swaps these pairs and keeps all other points."""
    places = list(range(count))
    for one, other in pairs:
        places[one], places[other] = other, one
    return tuple(places)


def facing(first: int, last: int, other: int) -> list[tuple[int, int]]:
    """Pairs of the points from `first` to `last` with those from `other` downwards."""
    return [(point, other - number) for number, point in enumerate(range(first, last + 1))]


def parts(**points: Iterable[int]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """A layout's `parts`, in this order."""
    return tuple((name, tuple(own)) for name, own in points.items())


def without_jaw(layout: Layout, jaw: int) -> Layout:
    """The layout without its first `jaw` points, which are its first contour and part."""
    contours = layout.contours[1:]
    return Layout(
        f"ibug{layout.count - jaw}",
        layout.count - jaw,
        (layout.eyes[0] - jaw, layout.eyes[1] - jaw),
        tuple((tuple(point - jaw for point in points), closed) for points, closed in contours),
        tuple(point - jaw for point in layout.mirrored[jaw:]),
        tuple((name, tuple(point - jaw for point in points)) for name, points in layout.parts[1:]),
    )


IBUG_68 = Layout(
    "ibug68",
    68,
    (36, 45),
    (
        line(0, 16),  # jaw
        *(line(17, 21), line(22, 26)),  # brows
        *(line(27, 30), line(31, 35)),  # nose: ridge and base
        *(ring(36, 41), ring(42, 47)),  # eyes
        *(ring(48, 59), ring(60, 67)),  # lips: outer and inner
    ),
    twins(
        68,
        *(*facing(0, 7, 16), *facing(17, 21, 26), *facing(31, 32, 35)),
        *(*facing(36, 39, 45), (40, 47), (41, 46)),
        *(*facing(48, 50, 54), (59, 55), (58, 56)),
        *((60, 64), (61, 63), (67, 65)),
    ),
    parts(
        jaw=range(17),
        brows=range(17, 27),
        nose=range(27, 36),
        eyes=range(36, 48),
        lips=range(48, 68),
    ),
)

WFLW_98 = Layout(
    "wflw98",
    98,
    (60, 72),
    (
        line(0, 32),  # jaw
        *(ring(33, 41), ring(42, 50)),  # brows
        *(line(51, 54), line(55, 59)),  # nose: ridge and base
        *(ring(60, 67), ring(68, 75)),  # eyes; 96 and 97 are the pupils
        *(ring(76, 87), ring(88, 95)),  # lips: outer and inner
    ),
    twins(
        98,
        *(*facing(0, 15, 32), *facing(33, 37, 46), *facing(38, 41, 50), *facing(55, 56, 59)),
        *(*facing(60, 64, 72), *facing(65, 67, 75), (96, 97)),
        *(*facing(76, 78, 82), (87, 83), (86, 84)),
        *(*facing(88, 89, 92), (95, 93)),
    ),
    parts(
        jaw=range(33),
        brows=range(33, 51),
        nose=range(51, 60),
        eyes=(*range(60, 76), 96, 97),
        lips=range(76, 96),
    ),
)

COFW_29 = Layout(
    "cofw29",
    29,
    (8, 9),
    (
        *(((0, 4, 2, 5), True), ((1, 6, 3, 7), True)),  # brows
        *(((8, 12, 10, 13), True), ((9, 14, 11, 15), True)),  # eyes; 16 and 17 are the pupils
        ((18, 21, 19), False),  # the nose's base; 20 is its tip
        *(((22, 24, 23, 27), True), ((22, 25, 23, 26), True)),  # lips; 28 is the chin
    ),
    twins(
        29,
        *((0, 1), (2, 3), (4, 6), (5, 7)),
        *((8, 9), (10, 11), (12, 14), (13, 15), (16, 17)),
        *((18, 19), (22, 23)),
    ),
    parts(brows=range(8), eyes=range(8, 18), nose=range(18, 22), lips=range(22, 28), chin=(28,)),
)

LAYOUTS = (COFW_29, without_jaw(IBUG_68, 17), IBUG_68, WFLW_98)


def layout_of(count: int) -> Layout | None:
    """The layout with that many points, or None.

    Functions that take a layout accept None. A face's size is then the root mean square distance
    of its points from their centre, and no point is on a contour.
    """
    return next((layout for layout in LAYOUTS if layout.count == count), None)
