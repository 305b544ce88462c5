"""The two encoders of CLIP and of SigLIP, exactly as these define them, and their sizes.

Both return `(tokens [B,S,D], pooled [B,D])`: every position after the tower's last LayerNorm and
projection, and the one position that is the embedding.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cmaclip_jax.errors import UserError
from cmaclip_jax.models.cpu_products import Dense
from cmaclip_jax.models.transformer import ACTIVATIONS, AttentionPool, Transformer

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


# The values of `pooling`: where an encoder has the embedding of a picture or of a text.
CLASS, ATTENTION = "class", "attention"
HIGHEST, FIRST_END, LAST = "argmax", "first_end", "last"


class ImageEncoder(Transformer):
    """The vision transformer of CLIP, or of SigLIP.

    projection: the width of the output, shared with the text encoder.
    pooling: 'class': CLIP's class token, with a norm before the layers and a projection after
        them. 'attention': SigLIP's: the patches have a bias and no class token, and attention
        pooling makes the embedding. This embedding becomes the first of the returned tokens, in
        the place of CLIP's class token: sequence-wise attention reads the picture there.
    patch_hidden: 0: CLIP's linear patch embedding. More: a layer of that width with a GELU before
        the embedding, which helps very small towers that are trained from scratch.
    stem: widths of 3x3 convolutions before the picture is cut into patches. Each halves the
        picture. A small tower needs much data to learn local features without them.
    mean, deviation: of each colour, to normalise uint8 pictures with.
    """

    image_size: int = 224
    patch_size: int = 32
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_width: int = 3072
    projection: int = 512
    pooling: str = CLASS
    patch_hidden: int = 0
    stem: tuple[int, ...] = ()
    mean: tuple[float, ...] = CLIP_MEAN
    deviation: tuple[float, ...] = CLIP_DEVIATION

    @nn.compact
    def __call__(self, image, train: bool = False):
        """`image` [B,H,W,3]: uint8 (normalised here) or float (already normalised)."""
        if image.dtype == jnp.uint8:
            image = (image / 255.0 - jnp.array(self.mean)) / jnp.array(self.deviation)
        x = image.astype(self.dtype)
        for index, width in enumerate(self.stem):
            x = nn.Conv(width, (3, 3), strides=2, dtype=self.dtype, name=f"stem_{index}")(x)
            x = ACTIVATIONS["gelu"](x)  # [B,H/2,W/2,width]
        x = patches(x, self.patch_size // 2 ** len(self.stem))  # [B,P,p*p*C]
        if self.patch_hidden:
            x = Dense(self.patch_hidden, dtype=self.dtype, name="patch_hidden")(x)
            x = ACTIVATIONS["gelu"](x)
        has_class, init = self.pooling == CLASS, nn.initializers.normal(self.width**-0.5)
        x = Dense(self.width, use_bias=not has_class, dtype=self.dtype, name="patch_embedding")(x)
        if has_class:
            class_token = self.param("class_token", init, (self.width,))
            class_tokens = jnp.broadcast_to(class_token, (x.shape[0], 1, self.width))
            x = jnp.concatenate([class_tokens.astype(x.dtype), x], axis=1)  # [B,P+1,Di]
        positions = self.param("position_embedding", init, (x.shape[1], self.width))
        x = x + positions.astype(x.dtype)
        if has_class:
            x = nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="pre_norm")(x)
        x, _ = self.make_stack(self.layers, self.layer_spec())(x, train=train)
        x = nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="post_norm")(x)
        if has_class:
            tokens = projection(self.projection, self.width, self.dtype)(x)  # [B,P+1,D]
        else:
            assert self.projection == self.width, "attention pooling has no projection"
            pooled = AttentionPool(self.layer_spec(), name="pool")(x)  # [B,1,D]
            tokens = jnp.concatenate([pooled, x], axis=1)  # [B,P+1,D]
        return tokens, tokens[:, 0]


class TextEncoder(Transformer):
    """The text transformer of CLIP, or of SigLIP.

    pooling: the position of a text's embedding. 'argmax': of its highest token id (OpenAI's rule,
        and Hugging Face's where `eos_token_id` is 2). 'first_end': of the first `end_token`.
        'last': SigLIP's: the last of all `length` positions, which is padding in most texts. Such
        a tower is not causal and its projection has a bias. It was trained on texts that are
        padded to `length` and with every position visible. So each text has exactly this length,
        and sequence-wise attention sees the padding too.
    """

    vocabulary: int = 49408
    length: int = 77
    width: int = 512
    layers: int = 12
    heads: int = 8
    mlp_width: int = 2048
    projection: int = 512
    pooling: str = HIGHEST
    end_token: int = 49407

    @nn.compact
    def __call__(self, token_ids, train: bool = False):
        """`token_ids` int [B,T], T up to `length`; in CLIP, tokens after the end have no effect."""
        x = nn.Embed(
            self.vocabulary,
            self.width,
            embedding_init=nn.initializers.normal(0.02),
            dtype=self.dtype,
            name="token_embedding",
        )(token_ids)  # [B,T,Dt]
        positions = self.param(
            "position_embedding", nn.initializers.normal(0.01), (self.length, self.width)
        )
        x = x + positions[: x.shape[1]].astype(x.dtype)
        of_clip = self.pooling != LAST
        x, _ = self.make_stack(self.layers, self.layer_spec(causal=of_clip))(x, train=train)
        x = nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="post_norm")(x)
        tokens = projection(self.projection, self.width, self.dtype, bias=not of_clip)(x)  # [B,T,D]
        return tokens, take_position(tokens, self.end_position(token_ids))

    def end_position(self, token_ids):
        """The position at which every text ends [B], by the field `pooling`."""
        if self.pooling == LAST:
            return jnp.zeros_like(token_ids[:, 0]) + token_ids.shape[1] - 1
        if self.pooling == HIGHEST:
            return jnp.argmax(token_ids, axis=-1)
        return jnp.argmax(token_ids == self.end_token, axis=-1)


def patches(image, size: int):
    """Non-overlapping squares of `image` [B,H,W,C], row by row: [B,P,size*size*C].

    Pixels at the right and lower edge that fill no square are left out, as SigLIP's So400m/14 does
    with 6 of 384.
    """
    batch, height, width, channels = image.shape
    rows, columns = height // size, width // size
    x = image[:, : rows * size, : columns * size]
    x = x.reshape(batch, rows, size, columns, size, channels)
    return x.swapaxes(2, 3).reshape(batch, rows * columns, size * size * channels)


def projection(features: int, width: int, dtype, bias: bool = False) -> nn.Dense:
    """The linear map into the width that the two towers share; CLIP's has no bias."""
    init = nn.initializers.normal(width**-0.5)
    return Dense(features, use_bias=bias, kernel_init=init, dtype=dtype, name="projection")


def take_position(tokens, position):
    """`tokens` [B,S,D] at `position` [B]: [B,D]."""
    return jnp.take_along_axis(tokens, position[:, None, None], axis=1)[:, 0]


def unit(x):
    """`x` scaled to length 1, in float32. A zero vector stays zero and has gradient zero."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-12)


@dataclasses.dataclass(frozen=True)
class Size:
    """The fields of the two towers of a CLIP model."""

    projection: int
    image: dict[str, Any]
    text: dict[str, Any]


def _tower(width: int, layers: int, heads: int, mlp_width: int = 0, **other) -> dict[str, Any]:
    mlp_width = mlp_width or 4 * width
    return dict(width=width, layers=layers, heads=heads, mlp_width=mlp_width, **other)


def _siglip(
    patch_size: int, image_size: int, width: int, layers: int, heads: int, mlp_width: int = 0
) -> Size:
    """A published size of SigLIP and of SigLIP 2; both towers have the same layers."""
    layer = _tower(width, layers, heads, mlp_width, activation="gelu_pytorch_tanh", epsilon=1e-6)
    image = dict(patch_size=patch_size, image_size=image_size, pooling=ATTENTION)
    pixels = dict(mean=(0.5,) * 3, deviation=(0.5,) * 3)
    text = dict(length=64, vocabulary=32_000, pooling=LAST, end_token=1)
    return Size(width, {**layer, **image, **pixels}, {**layer, **text})


# Heads are 64 wide, except in H/14 (80) and bigG/14 (104): their published weights are so.
# OpenAI's sizes use QuickGELU; H/14 and bigG/14, which only OpenCLIP trained, use the exact GELU.
SIZES: dict[str, Size] = {
    "B/32": Size(512, _tower(768, 12, 12, patch_size=32), _tower(512, 12, 8)),
    "B/16": Size(512, _tower(768, 12, 12, patch_size=16), _tower(512, 12, 8)),
    "L/14": Size(768, _tower(1024, 24, 16, patch_size=14), _tower(768, 12, 12)),
    "L/14-336": Size(768, _tower(1024, 24, 16, patch_size=14, image_size=336), _tower(768, 12, 12)),
    "H/14": Size(
        1024,
        _tower(1280, 32, 16, patch_size=14, activation="gelu"),
        _tower(1024, 24, 16, activation="gelu"),
    ),
    "bigG/14": Size(
        1280,
        _tower(1664, 48, 16, 8192, patch_size=14, activation="gelu"),
        _tower(1280, 32, 20, activation="gelu"),
    ),
    # Other picture sizes of SigLIP, 256 to 512, are a matter of `data.image_size`.
    "SigLIP-B/32": _siglip(32, 256, 768, 12, 12),
    "SigLIP-B/16": _siglip(16, 224, 768, 12, 12),
    "SigLIP-L/16": _siglip(16, 256, 1024, 24, 16),
    "SigLIP-So400m/14": _siglip(14, 224, 1152, 27, 16, 4304),
    "SigLIP-So400m/14-384": _siglip(14, 384, 1152, 27, 16, 4304),
    # Sizes to train from scratch, for drawn pictures and tests; no published weights exist.
    "tiny/12": Size(
        64,
        _tower(64, 2, 4, patch_size=12, image_size=48, patch_hidden=128, activation="gelu"),
        _tower(64, 2, 4, length=24, activation="gelu"),
    ),
    "small/12": Size(
        128,
        _tower(128, 4, 4, patch_size=12, image_size=72, patch_hidden=192, activation="gelu"),
        _tower(128, 2, 4, length=24, activation="gelu"),
    ),
    "small/16": Size(
        96,
        _tower(96, 3, 3, patch_size=16, image_size=64, stem=(24, 48, 96), activation="gelu"),
        _tower(96, 1, 3, length=24, activation="gelu"),
    ),
    "test/8": Size(
        32,
        _tower(32, 2, 2, patch_size=8, image_size=16),
        _tower(32, 2, 2, length=12),
    ),
}


def size(name: str) -> Size:
    """The size called `name`, with or without CLIP's 'ViT-' in front."""
    plain = name.removeprefix("ViT-")
    if plain not in SIZES:
        raise UserError(f"unknown encoder size {name!r}; choose one of {', '.join(SIZES)}")
    return SIZES[plain]


def image_encoder(name: str, **fields) -> ImageEncoder:
    """The image tower of size `name`; `fields` replace those of the size."""
    chosen = size(name)
    return ImageEncoder(**{"projection": chosen.projection, **chosen.image, **fields})


def text_encoder(name: str, **fields) -> TextEncoder:
    """The text tower that belongs to size `name`; `fields` replace those of the size."""
    chosen = size(name)
    return TextEncoder(**{"projection": chosen.projection, **chosen.text, **fields})
