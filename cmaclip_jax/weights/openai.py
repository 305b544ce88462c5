"""OpenAI's tensor names, which OpenCLIP kept; and a network told from tensor shapes alone."""

from cmaclip_jax.errors import UserError
from cmaclip_jax.models.clip import CLIP
from cmaclip_jax.models.encoders import SIZES, ImageEncoder, TextEncoder
from cmaclip_jax.weights.layout import (
    FUSED_QKV_BIAS,
    FUSED_QKV_KERNEL,
    OUT_KERNEL,
    PATCHES,
    SAME,
    Row,
    Tensors,
    dense_rows,
    norm_rows,
)

# Numbers that OpenAI's files store beside the weights; only theirs have them.
STATED = ("input_resolution", "context_length", "vocab_size")
IGNORED = (*STATED, "attn_mask", "position_ids")

TRAINED = ("B/32", "L/14", "H/14", "bigG/14")  # one size of every width
WIDER = {1408: 16, 1792: 16}  # OpenCLIP's g/14 and EVA's e/14; whatever is not here has 64 a head


def _tower_rows(ours: str, theirs: str) -> list[Row]:
    block, layer = f"{ours}/stack/blocks", f"{theirs}.resblocks.{{layer}}"
    return [
        Row(f"{block}/attention/qkv/kernel", (f"{layer}.attn.in_proj_weight",), FUSED_QKV_KERNEL),
        Row(f"{block}/attention/qkv/bias", (f"{layer}.attn.in_proj_bias",), FUSED_QKV_BIAS),
        *dense_rows(f"{block}/attention/out", f"{layer}.attn.out_proj", OUT_KERNEL),
        *norm_rows(f"{block}/attention_norm", f"{layer}.ln_1"),
        *norm_rows(f"{block}/mlp_norm", f"{layer}.ln_2"),
        *dense_rows(f"{block}/mlp_up", f"{layer}.mlp.c_fc"),
        *dense_rows(f"{block}/mlp_down", f"{layer}.mlp.c_proj"),
    ]


ROWS = [
    Row("logit_scale", ("logit_scale",), SAME),
    Row("image/class_token", ("visual.class_embedding",), SAME),
    Row("image/patch_embedding/kernel", ("visual.conv1.weight",), PATCHES),
    Row("image/position_embedding", ("visual.positional_embedding",), SAME),
    *norm_rows("image/pre_norm", "visual.ln_pre"),
    *_tower_rows("image", "visual.transformer"),
    *norm_rows("image/post_norm", "visual.ln_post"),
    Row("image/projection/kernel", ("visual.proj",), SAME),
    Row("text/token_embedding/embedding", ("token_embedding.weight",), SAME),
    Row("text/position_embedding", ("positional_embedding",), SAME),
    *_tower_rows("text", "transformer"),
    *norm_rows("text/post_norm", "ln_final"),
    Row("text/projection/kernel", ("text_projection",), SAME),
]
BIAS = "logit_bias"  # of models that were trained with the sigmoid loss


def model_of(tensors: Tensors, activation: str) -> CLIP:
    """The network that tensors under OpenAI's names make up, where no config describes it."""
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


def rows_of(clip: CLIP) -> list[Row]:
    """The rows of this very network."""
    return [*ROWS, Row(BIAS, (BIAS,), SAME)] if clip.bias else ROWS


def _tower_fields(tensors: Tensors, tower: str, activation: str, side: str) -> dict:
    mlp_width, width = tensors[f"{tower}.resblocks.0.mlp.c_fc.weight"].shape
    layers = sum(
        name.startswith(f"{tower}.resblocks.") and name.endswith(".ln_1.weight") for name in tensors
    )
    # No tensor tells the heads; the sizes that people trained do.
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


def add_text_prefix(name: str) -> str:
    """OpenCLIP's other name for a tensor of the text tower, which some of its files use."""
    is_text = not name.startswith("visual.") and not name.startswith("logit_")
    return f"text.{name}" if is_text else name
