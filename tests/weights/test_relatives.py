"""Checkpoints of CLIP's relatives, by their configs: MetaCLIP 1, DFN, DataComp, TinyCLIP, Marqo."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file
from support.hugging_face import randomised
from support.open_ai_clip import QuickGELU, open_ai_clip

from cmaclip_jax.weights import openclip
from cmaclip_jax.weights.reader import read_weights
from cmaclip_jax.weights.verify import drawn_batch, verify

torch = pytest.importorskip("torch", reason="the oracle; pip install -e '.[test]'")
transformers = pytest.importorskip("transformers", reason="the oracle; pip install -e '.[test]'")


def tower(width, heads, **fields):
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": heads}
    return {**sizes, **fields}


GELU = {"hidden_act": "gelu"}
HUGGING_FACE = {  # `vision_config`, `text_config` and `projection_dim`, as in their config.json
    "metaclip-l14": (tower(1024, 16, patch_size=14), tower(768, 12), 768),
    "datacomp-b32-256": (tower(768, 12, image_size=256, **GELU), tower(512, 8, **GELU), 512),
    "tinyclip-8m": (tower(256, 4, patch_size=16), tower(256, 4, eos_token_id=2), 512),
    "tinyclip-39m": (tower(512, 8, patch_size=16), tower(512, 8, eos_token_id=2), 512),
    "tinyclip-61m": (tower(640, 10), tower(512, 8, eos_token_id=2), 512),
    "fashion-clip": ({}, {"bos_token_id": 0, "eos_token_id": 2}, 512),
}


@pytest.mark.parametrize("name", HUGGING_FACE)
@pytest.mark.usefixtures("large")
def test_checkpoints_of_hugging_face_equal_transformers(name, tmp_path):
    """One layer a tower, everything else as wide as the published ones."""
    vision, text, width = HUGGING_FACE[name]
    config = transformers.CLIPConfig(
        vision_config={**vision, "num_hidden_layers": 1},
        text_config={**text, "num_hidden_layers": 1},
        projection_dim=width,
    )
    transformers.CLIPModel(config).eval().save_pretrained(tmp_path)
    said = verify(read_weights(str(tmp_path)))
    print(said)
    for figure in said.removeprefix("largest difference ").split(", "):
        assert float(figure.split()[1]) <= 1e-4, said


# `model_cfg` of OpenCLIP, with small towers in place of theirs.
OPENCLIP = {
    "dfn-h14-378": ({"quick_gelu": True}, {"head_width": 80}, {"heads": 16}),
    "marqo-fashion-clip": ({}, {}, {"heads": 8}),
}


@pytest.mark.parametrize("name", OPENCLIP)
def test_checkpoints_of_openclip_equal_torch(name, tmp_path):
    above, vision, text = OPENCLIP[name]
    width, heads = 2 * vision.get("head_width", 64), text["heads"]
    activation = QuickGELU() if above.get("quick_gelu") else torch.nn.GELU()
    model = randomised(open_ai_clip(activation, image=(width, 1, 2, 14, 42), text=(64, 1, heads)))
    tensors = {name: x.numpy() for name, x in model.state_dict().items()}
    save_file(tensors, tmp_path / "open_clip_model.safetensors")
    sizes = {"image_size": 42, "layers": 1, "width": width, "patch_size": 14}
    words = {"context_length": 12, "vocab_size": 50, "width": 64, "layers": 1}
    config = {
        "embed_dim": 48,
        **above,
        "vision_cfg": {**sizes, **vision},
        "text_cfg": {**words, **text},
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    weights = read_weights(str(tmp_path))
    batch = drawn_batch(weights.model)
    image, text, _ = jax.jit(weights.model.apply)({"params": weights.params}, batch)
    pixels = (batch["image"] / 255 - weights.model.image.mean) / weights.model.image.deviation
    pixels = torch.tensor(pixels.transpose(0, 3, 1, 2), dtype=torch.float32)
    with torch.no_grad():
        expected = model(pixels, torch.tensor(batch["tokens"], dtype=torch.long))
    np.testing.assert_allclose(image, expected[0], atol=1e-4)
    np.testing.assert_allclose(text, expected[1], atol=1e-4)


def test_metaclip_2_of_openclip_ends_with_2(tmp_path):
    """As its H/14 is described there."""
    vision = {"image_size": 224, "layers": 32, "width": 1280, "head_width": 80, "patch_size": 14}
    text = {"hf_tokenizer_name": "facebook/xlm-v-base", "pool_type": "eos", "eos_id": 2}
    text |= {"vocab_size": 901_629, "width": 1024, "heads": 16, "layers": 24}
    config = {"embed_dim": 1024, "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    model = openclip.model_of(tmp_path)
    assert (model.text.pooling, model.text.end_token) == ("first_end", 2)
    assert (model.text.vocabulary, model.image.heads) == (901_629, 16)
