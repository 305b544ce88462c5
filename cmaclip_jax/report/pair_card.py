"""A pair on a page: its picture, its words, and whether an answer is right."""

import base64
import io
import math

import numpy as np
from PIL import Image

from cmaclip_jax.report.explanation import PairView
from cmaclip_jax.report.markup import Html, element, paragraph, picture

SIDE = 160  # pixels of a picture at most
VEIL = (128, 128, 128, 205)  # colour and opacity of what lies over a patch without heat


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
    """The heat [P] of square patches, in rows, as a veil to lay over the picture.

    The veil is thinner over hotter patches. So colours stay what they are, unlike under a red heat.
    """
    side = math.isqrt(len(heat))
    warm = np.maximum(heat, 0).reshape(side, side)
    veil = np.full((side, side, 4), VEIL, np.uint8)
    veil[..., 3] = np.round((1 - warm / max(warm.max(), 1e-12)) * VEIL[3])
    return _data("png", Image.fromarray(veil))


def _data(kind: str, image: Image.Image, **options) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
