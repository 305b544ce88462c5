"""How much arithmetic a pair costs, counted by hand from the modules' fields.

Multiplications and additions of matrix products and convolutions alone: the rest is some percent
of it and does not run on matrix units. It is what a device's peak is compared with.
"""

import dataclasses
import itertools
import math

from cmaclip_jax.models.attention import SequenceAttention
from cmaclip_jax.models.clip import CLIP
from cmaclip_jax.models.cma_clip import CMAClip
from cmaclip_jax.models.encoders import ImageEncoder, TextEncoder

COLOURS = 3


@dataclasses.dataclass(frozen=True)
class Part:
    """
    forward: operations of one pair.
    first: those of them on the network's input, which need no gradient of it.
    """

    forward: float
    first: float = 0.0

    def training(self, learns: bool = True, below: bool = True) -> float:
        """Forward and backward: each of what learns and of what is passed down costs as much.

        learns: whether the part's own parameters do; below: whether something before it does.
        """
        return self.forward + learns * self.forward + below * (self.forward - self.first)


def count(model: CMAClip | CLIP, text_length: int, batch: int = 1) -> dict[str, Part]:
    """{part: what it costs a pair}, parts called as their parameters are.

    batch: how many pairs the contrastive loss, if the towers have one, compares a pair with.
    """
    parts = {}
    if model.image is not None:
        parts["image"] = image_flops(model.image)
    if model.text is not None:
        parts["text"] = text_flops(model.text, text_length)
    if isinstance(model, CLIP):
        return parts | {"contrast": Part(contrast(model.image.projection, batch))}
    lengths = {
        "image": model.image and patch_count(model.image) + 1,
        "text": model.text and text_length,
    }
    lengths = {name: length for name, length in lengths.items() if length}
    width = (model.image or model.text).projection
    inner = (model.sequence.layers and model.sequence.width) or width
    parts["sequence"] = sequence_flops(model.sequence, list(lengths.values()), width)
    parts["heads"] = heads_flops(model, model.sequence.width or inner)
    return parts


def block(queries: int, keys: int, width: int, mlp_width: int) -> float:
    """A transformer layer over `keys` tokens of which `queries` are computed.

    A causal mask saves nothing here: all scores are formed.
    """
    project = 2 * width * width * (queries + 2 * keys) + 2 * width * width * queries
    attend = 2 * (2 * queries * keys * width)
    return project + attend + 2 * (2 * queries * width * mlp_width)


def patch_count(encoder: ImageEncoder) -> int:
    """The patches of a picture, without the class token."""
    return (encoder.image_size // encoder.patch_size) ** 2


def image_flops(encoder: ImageEncoder) -> Part:
    """The image tower on one picture."""
    side, channels, convolutions = encoder.image_size, COLOURS, []
    for width in encoder.stem:
        side = math.ceil(side / 2)
        convolutions.append(2 * side * side * 9 * channels * width)
        channels = width
    patch = encoder.patch_size // 2 ** len(encoder.stem)
    widths = [patch * patch * channels, *filter(None, [encoder.patch_hidden]), encoder.width]
    patches = patch_count(encoder)
    embed = [2 * patches * a * b for a, b in itertools.pairwise(widths)]
    tokens = patches + 1
    rest = encoder.layers * block(tokens, tokens, encoder.width, encoder.mlp_width)
    rest += 2 * tokens * encoder.width * encoder.projection
    entrance = [*convolutions, *embed]
    return Part(sum(entrance) + rest, first=entrance[0])


def text_flops(encoder: TextEncoder, length: int) -> Part:
    """The text tower on one text; its table is looked up, not multiplied."""
    layers = encoder.layers * block(length, length, encoder.width, encoder.mlp_width)
    return Part(layers + 2 * length * encoder.width * encoder.projection)


def sequence_flops(sequence: SequenceAttention, lengths: list[int], width: int) -> Part:
    """Sequence-wise attention; of its last layer the two read positions alone are computed."""
    inner, tokens = sequence.width or width, sum(lengths)
    enter = 2 * tokens * width * inner if inner != width else 0
    if not sequence.layers:
        return Part(enter)
    mlp = sequence.mlp_width or 4 * inner
    whole = (sequence.layers - 1) * block(tokens, tokens, inner, mlp)
    return Part(enter + whole + block(len(lengths), tokens, inner, mlp))


def heads_flops(model: CMAClip, width: int) -> Part:
    """All tasks' heads, and the vectors that weigh the modalities."""
    inputs = 2 * width if model.modality == "concat" else width
    total = 2 * 2 * width * len(model.tasks) if model.modality == "attention" else 0
    for _, classes in model.tasks:
        widths = [inputs, *[model.head_width or inputs] * model.head_layers, classes]
        total += sum(2 * a * b for a, b in itertools.pairwise(widths))
    return Part(total)


def contrast(width: int, batch: int) -> float:
    """A pair's similarities with all pictures and all texts of a batch."""
    return 2.0 * batch * width
