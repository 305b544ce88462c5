"""SigLIP in the files of other projects: Hugging Face's `SiglipModel`, and OpenCLIP with timm.

SigLIP 2 of a fixed size is the same network with another tokenizer.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from cmaclip_jax.errors import UserError
from cmaclip_jax.models.clip import CLIP
from cmaclip_jax.models.encoders import ATTENTION, LAST, ImageEncoder, TextEncoder
from cmaclip_jax.weights import huggingface, openai, openclip
from cmaclip_jax.weights.layout import (
    FUSED_QKV_BIAS,
    FUSED_QKV_KERNEL,
    OUT_KERNEL,
    PATCHES,
    QKV_BIAS,
    QKV_KERNEL,
    SAME,
    Conversion,
    Pairing,
    Tensors,
    dense_pairings,
    norm_pairings,
)

KIND = "siglip"  # the `model_type` of config.json
MEAN = DEVIATION = (0.5, 0.5, 0.5)
END = 1  # the end of a text in SigLIP's and in SigLIP 2's tokenizer; the network does not read it
EPSILON = 1e-6
# For encoders that were trained without their contrastive loss. It shifts all similarities alike.
WITHOUT_BIAS = {"logit_bias": np.zeros((), np.float32)}


def _with_axes(count: int) -> Conversion:
    """The conversion of a tensor that has so many axes of length 1 in front of ours."""
    return Conversion(
        lambda tensors, heads: tensors[0].reshape(tensors[0].shape[count:]),
        lambda ours: [ours.reshape((1,) * count + ours.shape)],
    )


def _query_apart(conversion: Conversion) -> Conversion:
    """The conversion of two tensors: queries, and keys with values."""
    return Conversion(
        lambda tensors, heads: conversion.read([tensors[0], *np.split(tensors[1], 2)], heads),
        lambda ours: [conversion.write(ours)[0], np.concatenate(conversion.write(ours)[1:])],
    )


VISION, TEXT, HEAD = huggingface.VISION, huggingface.TEXT, "vision_model.head"
PAIRINGS = [
    Pairing("logit_scale", ("logit_scale",), _with_axes(1)),
    Pairing("logit_bias", ("logit_bias",), _with_axes(1)),
    *dense_pairings("image/patch_embedding", f"{VISION}.patch_embedding", PATCHES),
    Pairing("image/position_embedding", (f"{VISION}.position_embedding.weight",), SAME),
    *huggingface.tower_pairings("image", "vision_model"),
    *norm_pairings("image/post_norm", "vision_model.post_layernorm"),
    Pairing("image/pool/probe", (f"{HEAD}.probe",), _with_axes(2)),
    Pairing(
        "image/pool/attention/qkv/kernel", (f"{HEAD}.attention.in_proj_weight",), FUSED_QKV_KERNEL
    ),
    Pairing("image/pool/attention/qkv/bias", (f"{HEAD}.attention.in_proj_bias",), FUSED_QKV_BIAS),
    *dense_pairings("image/pool/attention/out", f"{HEAD}.attention.out_proj", OUT_KERNEL),
    *norm_pairings("image/pool/norm", f"{HEAD}.layernorm"),
    *dense_pairings("image/pool/mlp_up", f"{HEAD}.mlp.fc1"),
    *dense_pairings("image/pool/mlp_down", f"{HEAD}.mlp.fc2"),
    Pairing("text/token_embedding/embedding", (f"{TEXT}.token_embedding.weight",), SAME),
    Pairing("text/position_embedding", (f"{TEXT}.position_embedding.weight",), SAME),
    *huggingface.tower_pairings("text", "text_model"),
    *norm_pairings("text/post_norm", "text_model.final_layer_norm"),
    *dense_pairings("text/projection", "text_model.head"),
]


def model_of(folder: Path) -> CLIP:
    """The network that a folder's config.json describes."""
    from transformers import SiglipConfig  # takes seconds to import

    config = SiglipConfig.from_pretrained(folder)
    vision, text = config.vision_config, config.text_config
    if not vision.vision_use_head or text.projection_size != vision.hidden_size:
        raise UserError(
            f"{folder / 'config.json'}: vision_use_head={vision.vision_use_head} and a text "
            f"projection of {text.projection_size} describe no SigLIP of width {vision.hidden_size}"
        )
    return CLIP(
        image=ImageEncoder(
            image_size=vision.image_size,
            patch_size=vision.patch_size,
            projection=vision.hidden_size,
            pooling=ATTENTION,
            **huggingface.tower_fields(vision),
            **huggingface.pixel_statistics(folder, MEAN, DEVIATION),
        ),
        text=TextEncoder(
            vocabulary=text.vocab_size,
            length=text.max_position_embeddings,
            projection=text.projection_size,
            pooling=LAST,
            end_token=END,
            **huggingface.tower_fields(text),
        ),
        bias=True,
    )


def config_files(clip: CLIP) -> dict[str, Any]:
    """The files that `transformers` reads besides the tensors: {file name: JSON}."""
    image, text = clip.image, clip.text
    config = {
        "architectures": ["SiglipModel"],
        "model_type": KIND,
        "dtype": "float32",
        "vision_config": {
            "model_type": "siglip_vision_model",
            "image_size": image.image_size,
            "patch_size": image.patch_size,
            **huggingface.config_fields(image),
        },
        "text_config": {
            "model_type": "siglip_text_model",
            "vocab_size": text.vocabulary,
            "max_position_embeddings": text.length,
            "projection_size": text.projection,
            **huggingface.config_fields(text),
        },
    }
    pictures = {
        "image_processor_type": "SiglipImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": image.image_size, "width": image.image_size},
        "resample": 3,  # bicubic
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(image.mean),
        "image_std": list(image.deviation),
    }
    return {"config.json": config, "preprocessor_config.json": pictures}


# ---- OpenCLIP, which takes the image tower from timm

POOL_OF_TIMM = "visual.trunk.attn_pool."
TRUNK, BLOCK, POOL = "visual.trunk", "visual.trunk.blocks.{layer}", "visual.trunk.attn_pool"
OPENCLIP_PAIRINGS = [
    Pairing("logit_scale", ("logit_scale",), SAME),
    Pairing("logit_bias", ("logit_bias",), SAME),
    *dense_pairings("image/patch_embedding", f"{TRUNK}.patch_embed.proj", PATCHES),
    Pairing("image/position_embedding", (f"{TRUNK}.pos_embed",), _with_axes(1)),
    *dense_pairings("image/stack/blocks/attention/out", f"{BLOCK}.attn.proj", OUT_KERNEL),
    Pairing(
        "image/stack/blocks/attention/qkv/kernel", (f"{BLOCK}.attn.qkv.weight",), FUSED_QKV_KERNEL
    ),
    Pairing("image/stack/blocks/attention/qkv/bias", (f"{BLOCK}.attn.qkv.bias",), FUSED_QKV_BIAS),
    *norm_pairings("image/stack/blocks/attention_norm", f"{BLOCK}.norm1"),
    *norm_pairings("image/stack/blocks/mlp_norm", f"{BLOCK}.norm2"),
    *dense_pairings("image/stack/blocks/mlp_up", f"{BLOCK}.mlp.fc1"),
    *dense_pairings("image/stack/blocks/mlp_down", f"{BLOCK}.mlp.fc2"),
    *norm_pairings("image/post_norm", f"{TRUNK}.norm"),
    Pairing("image/pool/probe", (f"{POOL}.latent",), _with_axes(2)),
    Pairing(
        "image/pool/attention/qkv/kernel",
        (f"{POOL}.q.weight", f"{POOL}.kv.weight"),
        _query_apart(QKV_KERNEL),
    ),
    Pairing(
        "image/pool/attention/qkv/bias",
        (f"{POOL}.q.bias", f"{POOL}.kv.bias"),
        _query_apart(QKV_BIAS),
    ),
    *dense_pairings("image/pool/attention/out", f"{POOL}.proj", OUT_KERNEL),
    *norm_pairings("image/pool/norm", f"{POOL}.norm"),
    *dense_pairings("image/pool/mlp_up", f"{POOL}.mlp.fc1"),
    *dense_pairings("image/pool/mlp_down", f"{POOL}.mlp.fc2"),
    Pairing("text/token_embedding/embedding", ("text.token_embedding.weight",), SAME),
    Pairing("text/position_embedding", ("text.positional_embedding",), SAME),
    *openai.tower_pairings("text", "text.transformer"),
    *norm_pairings("text/post_norm", "text.ln_final"),
    *dense_pairings("text/projection", "text.text_projection"),
]
TIMM = re.compile(r"vit_(base|large|so400m|giantopt)_patch\d+_siglip_\d+")
# timm computes the exact GELU in the towers that came with SigLIP, and in these the approximation.
TIMM_TANH = re.compile(r"vit_(base_patch32|large_patch16_siglip_512|so400m_patch16|giantopt).*")
WIDER = {1152: 16, 1536: 16}  # heads of So400m and of giantopt; other widths have 64 a head
TEXT_OF_SIGLIP = {"pool_type": "last", "no_causal_mask": True, "norm_kwargs": {"eps": EPSILON}}


def openclip_model_of(folder: Path, tensors: Tensors) -> CLIP:
    """The network of SigLIP's tensors in a folder with `open_clip_config.json`."""
    file = folder / openclip.CONFIG
    if not file.exists():
        raise UserError(f"{folder} has OpenCLIP's SigLIP but no {openclip.CONFIG}; copy it there")
    model, pixels = openclip.read_config(file)
    vision, text = model["vision_cfg"], model["text_cfg"]
    name = vision["timm_model_name"]
    if not TIMM.fullmatch(name) or any(text.get(x) != y for x, y in TEXT_OF_SIGLIP.items()):
        raise UserError(f"{file} describes no SigLIP of a fixed size (timm_model_name={name!r})")
    tanh = text.get("act_kwargs") == {"approximate": "tanh"}
    return CLIP(
        image=_image_of_timm(vision, pixels, tensors),
        text=TextEncoder(
            vocabulary=text["vocab_size"],
            length=text["context_length"],
            width=text["width"],
            layers=text["layers"],
            heads=text["heads"],
            mlp_width=int(text["width"] * text.get("mlp_ratio", 4.0)),
            projection=model["embed_dim"],
            pooling=LAST,
            end_token=END,
            activation="gelu_pytorch_tanh" if tanh else "gelu",
            epsilon=EPSILON,
        ),
        bias=True,
    )


def _image_of_timm(
    vision: dict[str, Any], pixels: dict[str, Any], tensors: Tensors
) -> ImageEncoder:
    """The image tower. Its name tells only the activation; the tensors have its sizes."""
    _, _, patch_size, _ = tensors[f"{TRUNK}.patch_embed.proj.weight"].shape
    mlp_width, width = tensors[f"{TRUNK}.blocks.0.mlp.fc1.weight"].shape
    tanh = TIMM_TANH.fullmatch(vision["timm_model_name"])
    return ImageEncoder(
        image_size=vision["image_size"],
        patch_size=patch_size,
        projection=width,
        pooling=ATTENTION,
        width=width,
        layers=sum(f"{BLOCK}.norm1.bias".format(layer=x) in tensors for x in range(100)),
        heads=WIDER.get(width, width // 64),
        mlp_width=mlp_width,
        activation="gelu_pytorch_tanh" if tanh else "gelu",
        epsilon=EPSILON,
        mean=tuple(pixels.get("mean", MEAN)),
        deviation=tuple(pixels.get("std", DEVIATION)),
    )
