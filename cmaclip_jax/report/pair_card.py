"""A pair on a page: its picture, its words, and whether an answer is right."""

import base64
import io
import math

import numpy as np
from PIL import Image

from cmaclip_jax.report.markup import Html, element, paragraph, picture
from cmaclip_jax.report.word_heat import PairView

SIDE = 160  # pixels of a picture at most
STRENGTH = 190  # of 255: the opacity of the heat over the hottest patch
HEAT = (255, 64, 0)


def card(shown: PairView, *lines: Html) -> Html:
    """A pair, with lines about it."""
    name = element("span", f" ({shown.name})", class_="quiet")
    return element(
        "article", pair_picture(shown), paragraph(pair_words(shown), name), *lines, class_="pair"
    )


def pair_picture(shown: PairView) -> Html:
    """The picture of a pair, or the reason why there is none."""
    if shown.picture is None:
        return element("div", shown.note or "no picture", class_="none")
    return picture(jpeg(shown.picture), f"picture of {shown.name}")


def pair_words(shown: PairView) -> str:
    """The words of a pair."""
    return shown.text or element("i", "no words")


def marked_truth(truth: str, right: bool) -> Html:
    """The truth, with a mark that says whether the answer is right."""
    mark = "\N{CHECK MARK}" if right else "\N{BALLOT X}"
    return element("span", f"{mark} {truth}", class_="good" if right else "bad")


def jpeg(pixels: np.ndarray) -> str:
    """A picture u8 [H,W,3] as a small JPEG, embedded in the page."""
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return _data("jpeg", image, quality=80)


def heat_png(heat: np.ndarray) -> str:
    """The heat [P] of square patches, in rows, as an image to lay over the picture."""
    side = math.isqrt(len(heat))
    hottest = max(float(heat.max()), 1e-12)
    pixels = np.zeros((side, side, 4), np.uint8)
    pixels[..., :3] = HEAT
    pixels[..., 3] = np.round(heat.reshape(side, side) / hottest * STRENGTH)
    return _data("png", Image.fromarray(pixels))


def _data(kind: str, image: Image.Image, **options) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
