"""Drawn faces: stills and short videos whose 68 points are known exactly.

A face is a set of points in space, in iBUG's order. The points depend on the person, the expression
(brows, eyes, mouth) and the pose. A picture is painted from the projected points, so the points are
the truth and not an annotation. A face is a pure function of (seed, index). In a video the
expression and the pose change smoothly.
"""

import dataclasses

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

POINTS = 68
FINER = 3  # pictures are painted so many times larger, and then reduced
JAW, BROWS, EYES = slice(0, 17), (slice(17, 22), slice(22, 27)), (slice(36, 42), slice(42, 48))
BRIDGE, NOSTRILS = slice(27, 31), slice(31, 36)
LIPS, MOUTH = slice(48, 60), slice(60, 68)
SKINS = ((255, 219, 190), (238, 188, 150), (205, 150, 112), (150, 100, 70), (100, 66, 46))
HAIR = ((30, 24, 22), (80, 52, 34), (150, 105, 60), (205, 170, 105), (120, 120, 125))
IRISES = ((80, 50, 30), (60, 100, 140), (70, 110, 70), (40, 35, 35))


@dataclasses.dataclass(frozen=True)
class FaceGenerator:
    """Draws faces.

    size: pixels per side.
    occluded: share of the pictures in which an object hides a part of the face.
    sensor: standard deviation of the noise of every pixel, in grey levels.
    """

    seed: int
    size: int = 64
    occluded: float = 0.2
    sensor: float = 4.0

    def still(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """A picture u8 [S,S,3] and its points [68,2] in pixels, x before y."""
        random = np.random.default_rng((self.seed, index, 0))
        person, motion = Person.drawn(random), _Motion.drawn(random)
        return self._picture(person, motion.at(random.uniform()), random)

    def video(self, index: int, frames: int) -> tuple[np.ndarray, np.ndarray]:
        """Pictures [F,S,S,3] and points [F,68,2] of one person who moves."""
        random = np.random.default_rng((self.seed, index, 1))
        person, motion = Person.drawn(random), _Motion.drawn(random)
        noise = np.random.default_rng((self.seed, index, 2))
        moments = (motion.at(time) for time in np.arange(frames) / 50)
        pictures, points = zip(
            *(self._picture(person, moment, random, noise) for moment in moments), strict=True
        )
        return np.stack(pictures), np.stack(points)

    def _picture(self, person: "Person", moment: "Moment", random, noise=None):
        """Paints a picture. noise: sensor noise for a frame of a video, whose scene is fixed."""
        points = projected(person, moment, self.size)
        scene = np.random.default_rng(person.scene) if noise is not None else random
        picture = _painted(person, points, self.size)
        if scene.uniform() < self.occluded:
            _occlude(picture, points, scene, self.size)
        small = picture.filter(ImageFilter.BoxBlur(1)).resize((self.size,) * 2, Image.BOX)
        lit = np.asarray(small, np.float32) * _light(scene, self.size)
        lit += (random if noise is None else noise).normal(0, self.sensor, lit.shape)
        return np.clip(lit, 0, 255).astype(np.uint8), points


@dataclasses.dataclass(frozen=True)
class Moment:
    """Expression (0 to 1), pose (radians), position and scale (shares of the picture)."""

    mouth: float
    smile: float
    brows: float
    blink: float
    yaw: float
    pitch: float
    roll: float
    x: float
    y: float
    scale: float


# The largest change of every field, and its value at rest.
REACH = Moment(0.7, 0.8, 0.8, 0.7, 0.45, 0.25, 0.25, 0.05, 0.04, 0.05)
REST = Moment(0.15, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5, 0.42, 0.29)
ONE_SIDED = ("mouth", "smile", "blink")  # these cannot fall below their value at rest


@dataclasses.dataclass(frozen=True)
class _Motion:
    """Two waves for every field of `Moment`: a face at any time."""

    sizes: np.ndarray  # [10,2]
    speeds: np.ndarray
    phases: np.ndarray

    @classmethod
    def drawn(cls, random) -> "_Motion":
        shape = (len(dataclasses.fields(Moment)), 2)
        sizes = random.normal(0, 0.5, shape)
        return cls(sizes, random.uniform(0.3, 2.0, shape), random.uniform(0, 2 * np.pi, shape))

    def at(self, time: float) -> Moment:
        waves = np.sin(2 * np.pi * self.speeds * time + self.phases)
        height = np.clip((self.sizes * waves).sum(axis=1), -1, 1)
        values = {}
        for field, value in zip(dataclasses.fields(Moment), height, strict=True):
            share = max(value, 0.0) if field.name in ONE_SIDED else value
            values[field.name] = getattr(REST, field.name) + getattr(REACH, field.name) * share
        return Moment(**values)


@dataclasses.dataclass(frozen=True)
class Person:
    """The features of a face.

    shape: differences from the mean face by name, in standard deviations.
    skin, hair, iris, wall: colours. scene: the seed of the light and of the occluding object.
    """

    shape: dict[str, float]
    skin: np.ndarray
    hair: np.ndarray
    iris: np.ndarray
    wall: np.ndarray
    scene: int

    @classmethod
    def drawn(cls, random) -> "Person":
        names = ("wide", "long", "eyes_apart", "eye_size", "nose", "mouth_wide", "lips", "brow")
        shape = dict(zip(names, np.clip(random.normal(0, 1, len(names)), -2, 2), strict=True))

        def of(colours) -> np.ndarray:
            chosen = np.array(colours[random.integers(len(colours))], np.float32)
            return np.clip(chosen * random.uniform(0.9, 1.1), 0, 255)

        wall = random.uniform(60, 230, 3).astype(np.float32)
        return cls(shape, of(SKINS), of(HAIR), of(IRISES), wall, int(random.integers(2**31)))


def projected(person: Person, moment: Moment, size: int) -> np.ndarray:
    """The projected points: [68,2] in pixels."""
    points = _expressed(person, moment)
    turned = points @ _rotation(moment).T
    return (turned[:, :2] * moment.scale + (moment.x, moment.y)) * size


def _rotation(moment: Moment) -> np.ndarray:
    (cy, sy), (cp, sp), (cr, sr) = (
        (np.cos(angle), np.sin(angle)) for angle in (moment.yaw, moment.pitch, moment.roll)
    )
    yaw = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    pitch = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    roll = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return roll @ pitch @ yaw


def _expressed(person: Person, moment: Moment) -> np.ndarray:
    """The points [68,3] of a frontal face: x to the right, y down, z towards the viewer.

    The face is about two units wide. The mean face consists of curves and follows no real person.
    """
    shape = {name: 0.06 * value for name, value in person.shape.items()}
    points = np.zeros((POINTS, 3))
    angle = np.linspace(-1.75, 1.75, 17)
    points[JAW] = np.stack(
        [
            np.sin(angle) * (1 + shape["wide"]),
            0.22 + np.cos(angle) * (1.1 + shape["long"]),
            0.9 * np.cos(angle) - 0.75,
        ],
        axis=1,
    )
    opened = 0.32 * moment.mouth
    points[JAW][:, 1] += opened * np.clip(np.cos(angle), 0, 1) ** 2
    for side, brow, eye in zip((-1, 1), BROWS, EYES, strict=True):
        points[brow] = _brow(side, moment, shape)
        points[eye] = _eye(side, moment, shape)
    points[BRIDGE] = np.linspace((0, -0.08, 0.45), (0, 0.36 + shape["nose"], 0.85), 4)
    across = np.linspace(-1, 1, 5)
    width = 0.21 * (1 + 3 * shape["nose"])
    points[NOSTRILS] = np.stack(
        [across * width, 0.5 + shape["nose"] - 0.05 * across**2, 0.62 - 0.16 * across**2], axis=1
    )
    points[LIPS], points[MOUTH] = _mouth(moment, shape, opened)
    return points


def _brow(side: int, moment: Moment, shape) -> np.ndarray:
    """Five points, from left to right."""
    along = np.linspace(0, 1, 5)  # from the outer to the inner end
    x = 0.74 - 0.5 * along
    y = -0.36 - 0.13 * np.sin(np.pi * (0.15 + 0.8 * along)) - shape["brow"]
    brow = np.stack([x, y - 0.13 * moment.brows, 0.2 + 0.3 * along], axis=1)
    return brow * (-1, 1, 1) if side < 0 else brow[::-1]


def _eye(side: int, moment: Moment, shape) -> np.ndarray:
    """Six points in iBUG's order: the left eye from its outer corner, the right from its inner."""
    half = 0.19 * (1 + 2 * shape["eye_size"])
    height = 0.09 * (1 + 2 * shape["eye_size"]) * (1 - moment.blink + 0.15 * moment.brows)
    x = np.array([-1, -0.4, 0.4, 1, 0.4, -0.4]) * half
    y = np.array([0, -1, -1, 0, 0.8, 0.8]) * height
    z = 0.35 + 0.5 * side * -x
    return np.stack([side * (0.44 + shape["eyes_apart"]) + x, y - 0.02, z], axis=1)


def _mouth(moment: Moment, shape, opened: float) -> tuple[np.ndarray, np.ndarray]:
    """The lips' outer edge (12 points) and their inner one (8)."""
    half = 0.33 * (1 + 2 * shape["mouth_wide"]) * (1 + 0.25 * moment.smile - 0.1 * moment.mouth)
    thick, middle = 0.09 * (1 + 4 * shape["lips"]), 0.78
    corner = -0.1 * moment.smile

    def edge(count: int, reach: float, bow: float, sign: int) -> np.ndarray:
        """From the left to the right, without the corners."""
        along = np.linspace(-1, 1, count + 2)[1:-1]
        lift = (1 - along**2) * bow
        dent = 0.25 * bow * np.exp(-((along / 0.18) ** 2)) if sign < 0 and count == 5 else 0.0
        y = middle + corner * along**2 + sign * lift - sign * dent
        return np.stack([along * half * reach, y, 0.55 - 0.2 * along**2], axis=1)

    def end(side: int, reach: float) -> np.ndarray:
        return np.array([[side * half * reach, middle + corner, 0.35]])

    upper, lower = edge(5, 1, thick, -1), edge(5, 1, 1.2 * thick + opened, 1)
    inner_upper = edge(3, 0.85, 0.25 * thick, -1)
    inner_lower = edge(3, 0.85, 0.25 * thick + opened, 1)
    outer = np.concatenate([end(-1, 1), upper, end(1, 1), lower[::-1]])
    inner = np.concatenate([end(-1, 0.85), inner_upper, end(1, 0.85), inner_lower[::-1]])
    return outer, inner


def _painted(person: Person, points: np.ndarray, size: int) -> Image.Image:
    """The picture, enlarged `FINER` times, in even light."""
    large = points * FINER
    picture = Image.new("RGB", (size * FINER,) * 2, _rgb(person.wall))
    draw = ImageDraw.Draw(picture)

    def polygon(corners: np.ndarray, colour) -> None:
        draw.polygon(_flat(corners), fill=_rgb(colour))

    jaw, unit = large[JAW], np.linalg.norm(large[16] - large[0]) / 2
    for height, colour in ((1.2, person.hair), (0.85, person.skin)):
        polygon(np.concatenate([jaw, _arc(jaw[16], jaw[0], _up(large), height * unit)]), colour)
    dark, line = person.skin * 0.62, max(1, round(0.045 * unit))
    draw.line(_flat(jaw), fill=_rgb(person.skin * 0.8), width=line)
    for eye in EYES:
        polygon(large[eye], (245, 245, 245))
        _iris(draw, large[eye], person.iris)
        draw.line(_flat(large[eye][[0, 1, 2, 3, 4, 5, 0]]), fill=_rgb(dark * 0.6), width=line)
    for brow in BROWS:
        draw.line(_flat(large[brow]), fill=_rgb(person.hair * 0.8), width=2 * line, joint="curve")
    draw.line(_flat(large[BRIDGE]), fill=_rgb(person.skin * 0.85), width=line)
    draw.line(_flat(large[NOSTRILS]), fill=_rgb(dark), width=line, joint="curve")
    polygon(large[LIPS], person.skin * (0.85, 0.5, 0.5))
    polygon(large[MOUTH], (70, 20, 25))
    draw.line(_flat(large[MOUTH][[0, 1, 2, 3, 4]]), fill=(60, 20, 25), width=max(1, line // 2))
    return picture


def _up(points: np.ndarray) -> np.ndarray:
    """The unit vector from the chin to the point between the eyes."""
    away = points[27] - points[8]
    return away / np.linalg.norm(away)


def _arc(start, stop, up, height) -> np.ndarray:
    """Half a superellipse over the line from `start` to `stop`."""
    angle = np.linspace(0, np.pi, 30)[:, None]
    across, upwards = np.cos(angle), np.sin(angle)
    across = np.sign(across) * np.abs(across) ** 0.7
    middle, half = (start + stop) / 2, (start - stop) / 2
    return middle + across * half + np.abs(upwards) ** 0.7 * up * height


def _iris(draw, eye: np.ndarray, colour) -> None:
    """Draws the part of an iris that the lids do not cover."""
    centre = eye.mean(axis=0)
    half = np.linalg.norm(eye[0] - eye[3]) / 2
    tall = (np.linalg.norm(eye[1] - eye[5]) + np.linalg.norm(eye[2] - eye[4])) / 4
    across, down = 0.45 * half, min(tall, 0.45 * half)
    box = [*(centre - (across, down)), *(centre + (across, down))]
    draw.ellipse(box, fill=_rgb(colour))


def _occlude(picture: Image.Image, points: np.ndarray, random, size: int) -> None:
    """Hides up to a quarter of the face with a rectangle of one colour."""
    low, high = points.min(axis=0) * FINER, points.max(axis=0) * FINER
    extent = (high - low) * random.uniform(0.2, 0.5, 2)
    corner = low + (high - low - extent) * random.uniform(0, 1, 2)
    colour = _rgb(random.uniform(30, 220, 3))
    ImageDraw.Draw(picture).rounded_rectangle(
        [*corner, *(corner + extent)], radius=size * FINER / 30, fill=colour
    )


def _light(random, size: int) -> np.ndarray:
    """Light from one side: a factor for every pixel, [S,S,1]."""
    angle, strength = random.uniform(0, 2 * np.pi), random.uniform(0, 0.45)
    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    slope = 2 * (x * np.cos(angle) + y * np.sin(angle))
    return (random.uniform(0.75, 1.1) * (1 + strength * slope))[..., None].astype(np.float32)


def _flat(points: np.ndarray) -> list[tuple[float, float]]:
    return [tuple(point) for point in points]


def _rgb(colour) -> tuple[int, ...]:
    return tuple(int(np.clip(value, 0, 255)) for value in np.asarray(colour))
