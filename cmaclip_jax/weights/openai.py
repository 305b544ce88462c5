"""OpenAI's tensor names, which OpenCLIP also uses; and the network that tensor shapes imply."""

from cmaclip_jax.errors import UserError
from cmaclip_jax.models.clip import CLIP
from cmaclip_jax.models.encoders import SIZES, ImageEncoder, TextEncoder
from cmaclip_jax.weights.layout import (
    FUSED_QKV_BIAS,
    FUSED_QKV_KERNEL,
    OUT_KERNEL,
    PATCHES,
    SAME,
    Pairing,
    Tensors,
    dense_pairings,
    norm_pairings,
)

# Numbers that only OpenAI's files store besides the weights.
STATED = ("input_resolution", "context_length", "vocab_size")
IGNORED = (*STATED, "attn_mask", "position_ids")

TRAINED = ("B/32", "L/14", "H/14", "bigG/14")  # one size of every width
WIDER = {1408: 16, 1792: 16}  # OpenCLIP's g/14 and EVA's e/14; other widths have 64 a head


def tower_pairings(ours: str, theirs: str) -> list[Pairing]:
    """The layers of a tower."""
    block, layer = f"{ours}/stack/blocks", f"{theirs}.resblocks.{{layer}}"
    return [
        Pairing(
            f"{block}/attention/qkv/kernel", (f"{layer}.attn.in_proj_weight",), FUSED_QKV_KERNEL
        ),
        Pairing(f"{block}/attention/qkv/bias", (f"{layer}.attn.in_proj_bias",), FUSED_QKV_BIAS),
        *dense_pairings(f"{block}/attention/out", f"{layer}.attn.out_proj", OUT_KERNEL),
        *norm_pairings(f"{block}/attention_norm", f"{layer}.ln_1"),
        *norm_pairings(f"{block}/mlp_norm", f"{layer}.ln_2"),
        *dense_pairings(f"{block}/mlp_up", f"{layer}.mlp.c_fc"),
        *dense_pairings(f"{block}/mlp_down", f"{layer}.mlp.c_proj"),
    ]


PAIRINGS = [
    Pairing("logit_scale", ("logit_scale",), SAME),
    Pairing("image/class_token", ("visual.class_embedding",), SAME),
    Pairing("image/patch_embedding/kernel", ("visual.conv1.weight",), PATCHES),
    Pairing("image/position_embedding", ("visual.positional_embedding",), SAME),
    *norm_pairings("image/pre_norm", "visual.ln_pre"),
    *tower_pairings("image", "visual.transformer"),
    *norm_pairings("image/post_norm", "visual.ln_post"),
    Pairing("image/projection/kernel", ("visual.proj",), SAME),
    Pairing("text/token_embedding/embedding", ("token_embedding.weight",), SAME),
    Pairing("text/position_embedding", ("positional_embedding",), SAME),
    *tower_pairings("text", "transformer"),
    *norm_pairings("text/post_norm", "ln_final"),
    Pairing("text/projection/kernel", ("text_projection",), SAME),
]
BIAS = "logit_bias"  # of models that were trained with the sigmoid loss


def model_of(tensors: Tensors, activation: str) -> CLIP:
    """The network of tensors with OpenAI's names, if there is no config."""
    kernel, positions = tensors["visual.conv1.weight"], tensors["positional_embedding"]
    patch_size, rows = kernel.shape[-1], tensors["visual.positional_embedding"].shape[0]
    image = ImageEncoder(
        image_size=patch_size * round((rows - 1) ** 0.5),
        patch_size=patch_size,
        **_tower_fields(tensors, "visual.transformer", activation, "image"),
        projection=tensors["visual.proj"].shape[-1],
    )
    vocabulary = tensors["token_embedding.weight"].shape[0]
    text = TextEncoder(
        vocabulary=vocabulary,
        length=positions.shape[0],
        end_token=vocabulary - 1,
        **_tower_fields(tensors, "transformer", activation, "text"),
        projection=tensors["text_projection"].shape[-1],
    )
    return CLIP(image=image, text=text, bias=BIAS in tensors)


def pairings_of(clip: CLIP) -> list[Pairing]:
    """The pairings of this network."""
    return [*PAIRINGS, Pairing(BIAS, (BIAS,), SAME)] if clip.bias else PAIRINGS


def _tower_fields(tensors: Tensors, tower: str, activation: str, side: str) -> dict:
    mlp_width, width = tensors[f"{tower}.resblocks.0.mlp.c_fc.weight"].shape
    layers = sum(
        name.startswith(f"{tower}.resblocks.") and name.endswith(".ln_1.weight") for name in tensors
    )
    # No tensor shape shows the number of heads. It follows from the width in published sizes.
    trained = [getattr(SIZES[name], side) for name in TRAINED]
    known = {size["width"]: size["heads"] for size in trained} | WIDER
    if width not in known and width % 64:
        raise UserError(f"{tower}: {width} does not divide into heads of 64; give its config too")
    return {
        "width": width,
        "layers": layers,
        "heads": known.get(width) or width // 64,
        "mlp_width": mlp_width,
        "activation": activation,
    }
