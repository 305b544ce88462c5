"""CLIP as Hugging Face has it in PyTorch: the oracle of the encoders."""

import numpy as np
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


def inputs(model, rows=3):
    """A batch for one of our CLIPs, and the same for torch: pixels and ids."""
    random = np.random.default_rng(0)
    size, length, end = model.image.image_size, model.text.length, model.text.end_token
    image = random.integers(0, 256, (rows, size, size, 3)).astype(np.uint8)
    words = random.integers(0, end, (rows, length))
    tokens = np.where(np.arange(length) < 2 + np.arange(rows)[:, None] * 3, words, end)
    pixels = (image / 255 - np.array(model.image.mean)) / np.array(model.image.deviation)
    pixels = torch.tensor(pixels, dtype=torch.float32).permute(0, 3, 1, 2)
    batch = {"image": image, "tokens": tokens.astype(np.int32)}
    return batch, pixels, torch.tensor(tokens)
