"""CLIP as Hugging Face has it in PyTorch: the oracle of the encoders."""

import pytest

from cmaclip_jax.models import SIZES

torch = pytest.importorskip("torch", reason="the oracle; pip install -e '.[test]'")
transformers = pytest.importorskip("transformers", reason="the oracle; pip install -e '.[test]'")


def hugging_face_clip(name: str, activation="quick_gelu", eos_token_id=2, **text):
    """`CLIPModel` of one of our sizes, with random weights, biases and norms."""
    size = SIZES[name]
    text = {"length": 77, "vocabulary": 49408, **size.text, **text}
    config = transformers.CLIPConfig(
        vision_config={
            "image_size": size.image.get("image_size", 224),
            "patch_size": size.image["patch_size"],
            **tower(size.image, activation),
        },
        text_config={
            "vocab_size": text["vocabulary"],
            "max_position_embeddings": text["length"],
            "eos_token_id": eos_token_id,
            **tower(text, activation),
        },
        projection_dim=size.projection,
    )
    return transformers.CLIPModel(config).eval()


def tower(size, activation):
    return {
        "hidden_size": size["width"],
        "num_hidden_layers": size["layers"],
        "num_attention_heads": size["heads"],
        "intermediate_size": size["mlp_width"],
        "hidden_act": activation,
    }


def randomised(model):
    """Noise on every parameter, so that no bias is zero and no norm is the identity."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model
