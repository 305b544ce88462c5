"""Hugging Face's CLIP and MetaCLIP 2: the names of their tensors, and their config files."""

import json
from pathlib import Path
from typing import Any

from cmaclip_jax.errors import UserError
from cmaclip_jax.models.clip import CLIP
from cmaclip_jax.models.encoders import (
    CLIP_DEVIATION,
    CLIP_MEAN,
    FIRST_END,
    HIGHEST,
    ImageEncoder,
    TextEncoder,
)
from cmaclip_jax.models.transformer import ACTIVATIONS
from cmaclip_jax.weights.layout import (
    OUT_KERNEL,
    PATCHES,
    QKV_BIAS,
    QKV_KERNEL,
    SAME,
    TRANSPOSED,
    Pairing,
    Tensors,
    dense_pairings,
    norm_pairings,
)

IGNORED = (".position_ids",)  # stored by older versions; they are 0, 1, 2, ...
# Old configs of CLIP have eos_token_id=2, which is not the end token. For them, Hugging Face's CLIP
# pools at the highest token id. MetaCLIP 2 is the same network, but its end token really is 2.
POOLS_AT_HIGHEST = 2
OF_CLIP, OF_METACLIP, OF_NAFLEX = "clip", "metaclip_2", "siglip2"  # values of `model_type`


def tower_pairings(ours: str, theirs: str) -> list[Pairing]:
    """The layers of a tower."""
    block, layer = f"{ours}/stack/blocks", f"{theirs}.encoder.layers.{{layer}}"
    qkv = [f"{layer}.self_attn.{which}_proj" for which in "qkv"]
    return [
        Pairing(f"{block}/attention/qkv/kernel", tuple(f"{x}.weight" for x in qkv), QKV_KERNEL),
        Pairing(f"{block}/attention/qkv/bias", tuple(f"{x}.bias" for x in qkv), QKV_BIAS),
        *dense_pairings(f"{block}/attention/out", f"{layer}.self_attn.out_proj", OUT_KERNEL),
        *norm_pairings(f"{block}/attention_norm", f"{layer}.layer_norm1"),
        *norm_pairings(f"{block}/mlp_norm", f"{layer}.layer_norm2"),
        *dense_pairings(f"{block}/mlp_up", f"{layer}.mlp.fc1"),
        *dense_pairings(f"{block}/mlp_down", f"{layer}.mlp.fc2"),
    ]


VISION, TEXT = "vision_model.embeddings", "text_model.embeddings"
PAIRINGS = [
    Pairing("logit_scale", ("logit_scale",), SAME),
    Pairing("image/class_token", (f"{VISION}.class_embedding",), SAME),
    Pairing("image/patch_embedding/kernel", (f"{VISION}.patch_embedding.weight",), PATCHES),
    Pairing("image/position_embedding", (f"{VISION}.position_embedding.weight",), SAME),
    *norm_pairings("image/pre_norm", "vision_model.pre_layrnorm"),  # their spelling
    *tower_pairings("image", "vision_model"),
    *norm_pairings("image/post_norm", "vision_model.post_layernorm"),
    Pairing("image/projection/kernel", ("visual_projection.weight",), TRANSPOSED),
    Pairing("text/token_embedding/embedding", (f"{TEXT}.token_embedding.weight",), SAME),
    Pairing("text/position_embedding", (f"{TEXT}.position_embedding.weight",), SAME),
    *tower_pairings("text", "text_model"),
    *norm_pairings("text/post_norm", "text_model.final_layer_norm"),
    Pairing("text/projection/kernel", ("text_projection.weight",), TRANSPOSED),
]


def kind_of(folder: Path) -> str:
    """The `model_type` in a folder's config.json."""
    file = folder / "config.json"
    if not file.exists():
        raise UserError(f"{folder} has Hugging Face's tensors but no config.json; copy it there")
    kind = json.loads(file.read_text()).get("model_type", OF_CLIP)
    if kind == OF_NAFLEX:
        raise UserError(
            f"{file} describes SigLIP 2 NaFlex (model_type {kind!r}), which takes pictures of any "
            "shape; take a checkpoint of a fixed size, as google/siglip2-base-patch16-224"
        )
    return kind


def model_of(folder: Path) -> CLIP:
    """The network that a folder's config.json describes."""
    from transformers import CONFIG_MAPPING  # takes seconds to import

    file, kind = folder / "config.json", kind_of(folder)
    if kind not in (OF_CLIP, OF_METACLIP):
        raise UserError(f"{file} describes no CLIP (model_type is {kind!r}, not 'clip')")
    config = CONFIG_MAPPING[kind].from_pretrained(folder)
    vision, text = config.vision_config, config.text_config
    if not (isinstance(text.eos_token_id, int) and 0 <= text.eos_token_id < text.vocab_size):
        raise UserError(
            f"{file}: text_config.eos_token_id={text.eos_token_id} is none of the "
            f"{text.vocab_size} tokens"
        )
    at_highest = kind == OF_CLIP and text.eos_token_id == POOLS_AT_HIGHEST
    return CLIP(
        image=ImageEncoder(
            image_size=vision.image_size,
            patch_size=vision.patch_size,
            projection=config.projection_dim,
            **tower_fields(vision),
            **pixel_statistics(folder, CLIP_MEAN, CLIP_DEVIATION),
        ),
        text=TextEncoder(
            vocabulary=text.vocab_size,
            length=text.max_position_embeddings,
            projection=config.projection_dim,
            pooling=HIGHEST if at_highest else FIRST_END,
            end_token=text.vocab_size - 1 if at_highest else text.eos_token_id,
            **tower_fields(text),
        ),
    )


def tower_fields(config) -> dict[str, Any]:
    """The fields of a tower that its part of config.json states."""
    if config.hidden_act not in ACTIVATIONS:
        raise UserError(
            f"config.json: hidden_act={config.hidden_act!r} is none of {list(ACTIVATIONS)}"
        )
    return {
        "width": config.hidden_size,
        "layers": config.num_hidden_layers,
        "heads": config.num_attention_heads,
        "mlp_width": config.intermediate_size,
        "activation": config.hidden_act,
        "epsilon": config.layer_norm_eps,
    }


def pixel_statistics(folder: Path, mean, deviation) -> dict[str, Any]:
    """The mean and the deviation of every colour: of preprocessor_config.json, or else these."""
    file = folder / "preprocessor_config.json"
    stored = json.loads(file.read_text()) if file.exists() else {}
    return {
        "mean": tuple(stored.get("image_mean", mean)),
        "deviation": tuple(stored.get("image_std", deviation)),
    }


def names_from_flax(tensors: Tensors) -> Tensors:
    """Converts Hugging Face's Flax names and layouts (`flax_model.msgpack`) to its PyTorch ones."""
    plain = {}
    for name, x in tensors.items():
        stem, _, last = name.rpartition(".")
        if last == "kernel":
            x = x.transpose(3, 2, 0, 1) if x.ndim == 4 else x.T
        plain[f"{stem}.weight" if last in ("kernel", "scale", "embedding") else name] = x
    return plain


def config_files(clip: CLIP) -> dict[str, Any]:
    """The files that `transformers` reads besides the tensors: {file name: JSON}."""
    image, text = clip.image, clip.text
    end = POOLS_AT_HIGHEST if text.pooling == HIGHEST else text.end_token
    # Only the network of MetaCLIP 2 pools at the first token 2.
    metaclip = text.pooling == FIRST_END and end == POOLS_AT_HIGHEST
    kind = OF_METACLIP if metaclip else OF_CLIP
    config = {
        "architectures": ["MetaClip2Model" if metaclip else "CLIPModel"],
        "model_type": kind,
        "projection_dim": image.projection,
        "dtype": "float32",
        "vision_config": {
            "model_type": f"{kind}_vision_model",
            "image_size": image.image_size,
            "patch_size": image.patch_size,
            "projection_dim": image.projection,
            **config_fields(image),
        },
        "text_config": {
            "model_type": f"{kind}_text_model",
            "vocab_size": text.vocabulary,
            "max_position_embeddings": text.length,
            "projection_dim": text.projection,
            "bos_token_id": 0 if metaclip else text.end_token - 1,
            "eos_token_id": end,
            "pad_token_id": 1 if metaclip else text.end_token,
            **config_fields(text),
        },
    }
    return {"config.json": config, "preprocessor_config.json": _preprocessor(image)}


def _preprocessor(image: ImageEncoder) -> dict[str, Any]:
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": image.image_size},
        "resample": 3,  # bicubic
        "do_center_crop": True,
        "crop_size": {"height": image.image_size, "width": image.image_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(image.mean),
        "image_std": list(image.deviation),
    }


def config_fields(tower) -> dict[str, Any]:
    """The entries of config.json for the fields of a tower."""
    return {
        "hidden_size": tower.width,
        "num_hidden_layers": tower.layers,
        "num_attention_heads": tower.heads,
        "intermediate_size": tower.mlp_width,
        "hidden_act": tower.activation,
        "layer_norm_eps": tower.epsilon,
    }
