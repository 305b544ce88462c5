"""OpenCLIP's `open_clip_config.json`, read and written. Its tensors have OpenAI's names."""

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
    LAST,
    ImageEncoder,
    TextEncoder,
)

CONFIG = "open_clip_config.json"

# {field: values that this project supports} of a config; None: every value.
MODEL = {"embed_dim": None, "vision_cfg": None, "text_cfg": None, "quick_gelu": None,
         "custom_text": None, "init_logit_scale": None, "init_logit_bias": None}  # fmt: skip
VISION = {"image_size": None, "layers": None, "width": None, "patch_size": None,
          "head_width": None, "mlp_ratio": None, "pool_type": ("tok",), "patch_dropout": None,
          "output_tokens": (False,), "no_ln_pre": (False,), "ls_init_value": (None,),
          "attentional_pool": (False,), "final_ln_after_pool": (False,),
          "pos_embed_type": ("learnable",), "global_average_pool": (False,),
          "timm_model_name": (None, "")}  # fmt: skip
TEXT = {"context_length": None, "vocab_size": None, "width": None, "heads": None, "layers": None,
        "mlp_ratio": None, "pool_type": ("argmax", "eos"), "eos_id": None, "pad_id": None,
        "hf_tokenizer_name": None, "tokenizer_kwargs": None, "output_tokens": (False,),
        "no_causal_mask": (False,), "embed_cls": (False,), "final_ln_after_pool": (False,),
        "proj_type": ("linear",), "proj_bias": (False,), "ls_init_value": (None,),
        "hf_model_name": (None, "")}  # fmt: skip


def model_of(folder: Path) -> CLIP:
    """The network that a folder's `open_clip_config.json` describes."""
    file = folder / CONFIG
    model, pixels = read_config(file)
    vision, text = model["vision_cfg"], model["text_cfg"]
    for section, known, name in ((model, MODEL, ""), (vision, VISION, "vision_cfg."),
                                 (text, TEXT, "text_cfg.")):  # fmt: skip
        _check(file, section, known, name)
    activation = "quick_gelu" if model.get("quick_gelu", False) else "gelu"
    width, vocabulary = vision.get("width", 768), text.get("vocab_size", 49408)
    at_end = text.get("pool_type", "argmax") == "eos"
    return CLIP(
        image=ImageEncoder(
            image_size=vision.get("image_size", 224),
            patch_size=vision.get("patch_size", 16),
            width=width,
            layers=vision.get("layers", 12),
            heads=width // vision.get("head_width", 64),
            mlp_width=round(width * vision.get("mlp_ratio", 4.0)),
            projection=model["embed_dim"],
            activation=activation,
            mean=tuple(pixels.get("mean", CLIP_MEAN)),
            deviation=tuple(pixels.get("std", CLIP_DEVIATION)),
        ),
        text=TextEncoder(
            vocabulary=vocabulary,
            length=text.get("context_length", 77),
            width=text.get("width", 512),
            layers=text.get("layers", 12),
            heads=text.get("heads", 8),
            mlp_width=round(text.get("width", 512) * text.get("mlp_ratio", 4.0)),
            projection=model["embed_dim"],
            activation=activation,
            pooling=FIRST_END if at_end else HIGHEST,
            end_token=text.get("eos_id", vocabulary - 1) if at_end else vocabulary - 1,
        ),
        bias=model.get("init_logit_bias") is not None,
    )


def read_config(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the file says of the network, and of the pictures."""
    stored = json.loads(file.read_text())
    return stored.get("model_cfg", stored), stored.get("preprocess_cfg", {})


def _check(file: Path, section: dict[str, Any], known: dict, name: str) -> None:
    for field, value in section.items():
        allowed = known.get(field, ())
        if allowed is not None and value not in allowed and value not in (None, {}):
            raise UserError(
                f"{file}: {name}{field}={value!r} describes a network that is neither CLIP's own "
                "(two transformers, class token, causal text) nor SigLIP's; it cannot be converted"
            )


def config_files(clip: CLIP) -> dict[str, Any]:
    """The files that `open_clip` reads besides the tensors: {file name: JSON}."""
    image, text = clip.image, clip.text
    if text.pooling == LAST:
        raise UserError(
            "OpenCLIP takes SigLIP's image tower from timm, by names that state neither layers nor "
            "activation; use --to=huggingface"
        )
    if image.activation != text.activation:
        raise UserError("OpenCLIP has one activation for both towers; this model has two")
    if {image.epsilon, text.epsilon} != {1e-5}:
        raise UserError("OpenCLIP's LayerNorms add 1e-5; those of this model another number")
    model: dict[str, Any] = {
        "embed_dim": image.projection,
        "quick_gelu": image.activation == "quick_gelu",
        "vision_cfg": {
            "image_size": image.image_size,
            "layers": image.layers,
            "width": image.width,
            "patch_size": image.patch_size,
            "head_width": image.width // image.heads,
            "mlp_ratio": image.mlp_width / image.width,
        },
        "text_cfg": {
            "context_length": text.length,
            "vocab_size": text.vocabulary,
            "width": text.width,
            "heads": text.heads,
            "layers": text.layers,
            "mlp_ratio": text.mlp_width / text.width,
        },
    }
    if text.pooling == FIRST_END:
        model["text_cfg"] |= {"pool_type": "eos", "eos_id": text.end_token}
    if clip.bias:
        model["init_logit_bias"] = -10.0
    pixels = {"mean": list(image.mean), "std": list(image.deviation)}
    return {CONFIG: {"model_cfg": model, "preprocess_cfg": pixels}}
