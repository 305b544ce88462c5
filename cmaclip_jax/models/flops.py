"""Floating-point operations of a pair, counted from the fields of the modules.

Only matrix products and convolutions count. All other operations add a few percent and do not run
on matrix units. A device's peak rate is compared with this count.
"""

import dataclasses
import itertools
import math
from typing import Any

from cmaclip_jax.models.attention import SequenceAttention
from cmaclip_jax.models.clip import CLIP
from cmaclip_jax.models.cma_clip import SIDE_BY_SIDE, WEIGHED, CMAClip
from cmaclip_jax.models.encoders import CLASS, ImageEncoder, TextEncoder

COLOURS = 3


@dataclasses.dataclass(frozen=True)
class PartFlops:
    """Operations of one part of a model.

    forward: operations of one pair.
    first: the operations on the network's input, which need no gradient of their input.
    adapters: operations of one pair in adapters, which always learn.
    """

    forward: float
    first: float = 0.0
    adapters: float = 0.0

    def training(self, learns: bool = True, below: bool = True) -> float:
        """Forward and backward. Each of the two gradients costs as much as the forward pass.

        learns: whether the gradient of the part's own parameters is computed.
        below: whether the gradient of its input is computed, because a part before it learns.
        """
        own = self.forward + learns * self.forward + below * (self.forward - self.first)
        return own + 3 * self.adapters


def count(model: CMAClip | CLIP, text_length: int, batch: int = 1) -> dict[str, PartFlops]:
    """{part: operations of a pair}; the parts are named after their parameters.

    batch: the number of pairs that a contrastive loss compares a pair with.
    """
    parts = {}
    if model.image is not None:
        parts["image"] = image_flops(model.image)
    if model.text is not None:
        parts["text"] = text_flops(model.text, text_length)
    if isinstance(model, CLIP):
        return parts | {"contrast": PartFlops(contrast(model.image.projection, batch))}
    lengths: dict[str, Any] = {
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
    """A transformer layer over `keys` tokens that computes the results of `queries` of them.

    A causal mask saves nothing: all scores are computed.
    """
    project = 2 * width * width * (queries + 2 * keys) + 2 * width * width * queries
    attend = 2 * (2 * queries * keys * width)
    return project + attend + 2 * (2 * queries * width * mlp_width)


def patch_count(encoder: ImageEncoder) -> int:
    """The patches of a picture, without the class token or the pooled one."""
    return (encoder.image_size // encoder.patch_size) ** 2


def image_flops(encoder: ImageEncoder) -> PartFlops:
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
    has_class = encoder.pooling == CLASS
    tokens = patches + has_class
    rest = encoder.layers * block(tokens, tokens, encoder.width, encoder.mlp_width)
    if has_class:
        rest += 2 * tokens * encoder.width * encoder.projection
    else:  # the probe is computed as a key and a value too, and then masked
        rest += block(1, patches + 1, encoder.width, encoder.mlp_width)
    entrance = [*convolutions, *embed]
    if encoder.adapter:
        # Nothing learns below the layers.
        return PartFlops(sum(entrance) + rest, sum(entrance), adapter_flops(encoder, tokens))
    return PartFlops(sum(entrance) + rest, first=entrance[0])


def text_flops(encoder: TextEncoder, length: int) -> PartFlops:
    """The text tower on one text. A look-up in the token table costs no product."""
    layers = encoder.layers * block(length, length, encoder.width, encoder.mlp_width)
    forward = layers + 2 * length * encoder.width * encoder.projection
    if encoder.adapter:
        return PartFlops(forward, adapters=adapter_flops(encoder, length))
    return PartFlops(forward)


def adapter_flops(encoder: ImageEncoder | TextEncoder, tokens: int) -> float:
    """Operations of a tower's adapters on this many tokens."""
    adapter, width = encoder.adapter, encoder.width
    assert adapter is not None
    sides = [
        width + (encoder.mlp_width if product.startswith("mlp") else width)
        for product in adapter.products
    ]
    return encoder.layers * 2 * tokens * adapter.rank * sum(sides)


def sequence_flops(sequence: SequenceAttention, lengths: list[int], width: int) -> PartFlops:
    """Sequence-wise attention; its last layer computes only the positions of the embeddings."""
    inner, tokens = sequence.width or width, sum(lengths)
    enter = 2 * tokens * width * inner if inner != width else 0
    if not sequence.layers:
        return PartFlops(enter)
    mlp = sequence.mlp_width or 4 * inner
    whole = (sequence.layers - 1) * block(tokens, tokens, inner, mlp)
    return PartFlops(enter + whole + block(len(lengths), tokens, inner, mlp))


def heads_flops(model: CMAClip, width: int) -> PartFlops:
    """The heads of all tasks, and modality-wise attention."""
    inputs = 2 * width if model.modality in SIDE_BY_SIDE else width
    total = 2 * 2 * width * len(model.tasks) if model.modality in WEIGHED else 0
    for _, classes in model.tasks:
        widths = [inputs, *[model.head_width or inputs] * model.head_layers, classes]
        total += sum(2 * a * b for a, b in itertools.pairwise(widths))
    return PartFlops(total)


def contrast(width: int, batch: int) -> float:
    """The similarities of a pair with all pictures and all texts of a batch."""
    return 2.0 * batch * width
