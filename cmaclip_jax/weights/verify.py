"""Compares a converted CLIP with Hugging Face's network, if PyTorch is installed."""

import json

import jax
import numpy as np

from cmaclip_jax.errors import UserError
from cmaclip_jax.models.clip import CLIP, clip_batch
from cmaclip_jax.weights.clip_folder import DESCRIPTION, Weights, fingerprint


def verify(weights: Weights) -> str:
    """The largest differences from the outputs of Hugging Face's network."""
    described = weights.folder / DESCRIPTION
    if described.exists():
        return _compare_fingerprints(weights, json.loads(described.read_text())["fingerprint"])
    if not (weights.folder / "config.json").exists():
        return "no: transformers loads only folders in Hugging Face's format"
    try:
        from transformers import AutoModel, BatchFeature  # AutoModel needs PyTorch

        reference = AutoModel.from_pretrained(weights.folder).eval()
    except (ImportError, OSError, ValueError) as error:
        raise UserError(
            f"--verify needs PyTorch and a folder that transformers loads: {error}"
        ) from error
    model, batch = weights.model, drawn_batch(weights.model)
    image, text, aux = jax.jit(model.apply)({"params": weights.params}, batch)
    pixels = (batch["image"] / 255 - model.image.mean) / np.array(model.image.deviation)
    inputs = {
        "pixel_values": pixels.transpose(0, 3, 1, 2).astype(np.float32),
        "input_ids": batch["tokens"].astype(np.int64),
    }
    theirs = reference(**BatchFeature(inputs, tensor_type="pt"))
    image, text = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (image, text))
    differences = {
        "image": image - theirs.image_embeds.detach().numpy(),
        "text": text - theirs.text_embeds.detach().numpy(),
        "logits": np.exp(aux["logit_scale"]) * image @ text.T
        + aux["logit_bias"]
        - theirs.logits_per_image.detach().numpy(),
    }
    return "largest difference " + ", ".join(
        f"{name} {np.abs(x).max():.1e}" for name, x in differences.items()
    )


def _compare_fingerprints(weights: Weights, stored: dict) -> str:
    computed = fingerprint(weights.model, weights.params)
    for name, numbers in stored.items():
        if not np.allclose(computed[name], numbers, rtol=1e-3, atol=1e-3):
            raise UserError(
                f"{weights.folder}: its {name} are not what was converted; convert again"
            )
    return "the fingerprint is that of the conversion"


def drawn_batch(model: CLIP, rows: int = 4) -> dict[str, np.ndarray]:
    """A fixed batch of random pictures, and random texts of several lengths."""
    random, empty = np.random.default_rng(0), clip_batch(model, rows)
    image = random.integers(0, 256, empty["image"].shape).astype(np.uint8)
    words = random.integers(1, model.text.vocabulary - 2, empty["tokens"].shape)
    lengths = np.linspace(2, model.text.length - 1, rows).astype(int)[:, None]
    tokens = np.where(np.arange(model.text.length) < lengths, words, model.text.end_token)
    return {"image": image, "tokens": tokens.astype(np.int32)}
