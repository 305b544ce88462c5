"""SigLIP, SigLIP 2 and MetaCLIP 2: equal to transformers, and written back bit for bit."""

import json
import re

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.siglip import hugging_face_siglip, small_metaclip, small_siglip

from cmaclip_jax.errors import UserError
from cmaclip_jax.main import main
from cmaclip_jax.models.encoders import SIZES
from cmaclip_jax.weights.fit import resize_grid
from cmaclip_jax.weights.layout import write_parameters
from cmaclip_jax.weights.reader import read_weights
from cmaclip_jax.weights.siglip import OPENCLIP_PAIRINGS
from cmaclip_jax.weights.verify import drawn_batch

torch = pytest.importorskip("torch", reason="the oracle; pip install -e '.[test]'")
transformers = pytest.importorskip("transformers", reason="the oracle; pip install -e '.[test]'")


def assert_equals_hugging_face(weights, model, rows=3):
    """Both embeddings and the logits, within 1e-4 in float32."""
    batch = drawn_batch(weights.model, rows)
    image, text, aux = jax.jit(weights.model.apply)({"params": weights.params}, batch)
    pixels = (batch["image"] / 255 - weights.model.image.mean) / weights.model.image.deviation
    with torch.no_grad():
        expected = model(
            pixel_values=torch.tensor(pixels.transpose(0, 3, 1, 2), dtype=torch.float32),
            input_ids=torch.tensor(batch["tokens"], dtype=torch.long),
        )
    image = image / np.linalg.norm(image, axis=-1, keepdims=True)
    text = text / np.linalg.norm(text, axis=-1, keepdims=True)
    logits = np.exp(aux["logit_scale"]) * image @ text.T + aux["logit_bias"]
    found = {"image": image, "text": text, "logits": logits}
    theirs = (expected.image_embeds, expected.text_embeds, expected.logits_per_image)
    for (name, ours), other in zip(found.items(), theirs, strict=True):
        difference = np.abs(ours - other.numpy()).max()
        print(f"{name} {difference:.1e}", end=" ")
        assert difference <= 1e-4, name


def assert_same_files(one, other):
    one, other = load_file(one), load_file(other)
    assert set(one) == set(other)
    for name in one:
        assert one[name].shape == other[name].shape, name
        assert one[name].tobytes() == other[name].tobytes(), name


def there_and_back(folder, model):
    """Saves a network, reads it, writes it for transformers, and compares all three."""
    model.save_pretrained(folder / "source")
    weights = read_weights(str(folder / "source"))
    assert_equals_hugging_face(weights, model)
    kind = type(model)
    source, ours, back = (folder / name for name in ("source", "ours", "back"))
    assert main(["convert", f"--source={source}", f"--output={ours}"]) == 0
    assert (
        main(["convert", f"--source={ours}", f"--output={back}", "--to=huggingface", "--verify"])
        == 0
    )
    assert_same_files(source / "model.safetensors", back / "model.safetensors")
    again = transformers.AutoModel.from_pretrained(back).eval()
    assert type(again) is kind
    assert_equals_hugging_face(weights, again)
    return weights


@pytest.mark.parametrize(
    ("name", "vocabulary", "changes"),
    [
        ("SigLIP-B/16", 32_000, {}),
        pytest.param("SigLIP-B/32", 256_000, {}, marks=pytest.mark.slow),  # of SigLIP 2
        pytest.param("SigLIP-L/16", 32_000, {}, marks=pytest.mark.slow),
        pytest.param("SigLIP-So400m/14", 32_000, {"length": 16}, marks=pytest.mark.slow),
        ("SigLIP-So400m/14-384", 32_000, {}),
    ],
)
@pytest.mark.usefixtures("large")
def test_true_widths_equal_transformers_and_go_back_bit_for_bit(
    tmp_path, name, vocabulary, changes
):
    """One layer a tower, everything else as wide as the published ones."""
    size = SIZES[name]
    layer = {
        "hidden_size": size.image["width"],
        "num_hidden_layers": 1,
        "num_attention_heads": size.image["heads"],
        "intermediate_size": size.image["mlp_width"],
    }
    length = changes.get("length", size.text["length"])
    vision = {"image_size": size.image["image_size"], "patch_size": size.image["patch_size"]}
    text = {"vocab_size": vocabulary, "max_position_embeddings": length}
    weights = there_and_back(tmp_path, hugging_face_siglip({**vision, **layer}, {**text, **layer}))
    described = {**size.image, "layers": 1, "projection": size.projection}
    assert {name: getattr(weights.model.image, name) for name in described} == described
    described = {**size.text, "layers": 1, "length": length, "vocabulary": vocabulary}
    assert {name: getattr(weights.model.text, name) for name in described} == described
    assert weights.model.bias


def test_the_text_tower_of_giantopt_projects_to_another_width(tmp_path):
    layer = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    model = hugging_face_siglip(
        {"image_size": 32, "patch_size": 16, "hidden_size": 48, **layer},
        {"vocab_size": 50, "hidden_size": 32, "projection_size": 48, **layer},
    )
    weights = there_and_back(tmp_path, model)
    assert (weights.model.text.width, weights.model.text.projection) == (32, 48)


def test_metaclip_2_pools_at_the_first_2(tmp_path):
    weights = there_and_back(tmp_path, small_metaclip(50))
    assert (weights.model.text.pooling, weights.model.text.end_token) == ("first_end", 2)


@pytest.mark.slow
@pytest.mark.usefixtures("large")
def test_metaclip_2_at_its_width_equals_transformers(tmp_path):
    """H/14 of the worldwide checkpoints with one layer a tower, and its 901,629 tokens."""
    layer = {"num_hidden_layers": 1, "num_attention_heads": 16, "hidden_act": "quick_gelu"}
    config = transformers.MetaClip2Config(
        vision_config={"hidden_size": 1280, "intermediate_size": 5120, "patch_size": 14, **layer},
        text_config={
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "vocab_size": 901_629,
            "eos_token_id": 2,
            **layer,
        },
        projection_dim=1024,
    )
    model = transformers.MetaClip2Model(config).eval()
    model.save_pretrained(tmp_path)
    assert_equals_hugging_face(read_weights(str(tmp_path)), model)


def renamed_for_timm(tensors):
    """Hugging Face's tensors under OpenCLIP's names, fused where timm fuses them."""
    layers = r"(vision|text)_model\.encoder\.layers\.(\d+)\.(.*)"
    new, parts = {}, {}
    inner = {
        "vision": {
            "layer_norm1": "norm1",
            "layer_norm2": "norm2",
            "self_attn.out_proj": "attn.proj",
        },
        "text": {
            "layer_norm1": "ln_1",
            "layer_norm2": "ln_2",
            "self_attn.out_proj": "attn.out_proj",
            "mlp.fc1": "mlp.c_fc",
            "mlp.fc2": "mlp.c_proj",
        },
    }
    plain = {
        "logit_scale": "logit_scale",
        "logit_bias": "logit_bias",
        "vision_model.embeddings.patch_embedding": "visual.trunk.patch_embed.proj",
        "vision_model.embeddings.position_embedding.weight": "visual.trunk.pos_embed",
        "vision_model.post_layernorm": "visual.trunk.norm",
        "vision_model.head.probe": "visual.trunk.attn_pool.latent",
        "vision_model.head.attention.out_proj": "visual.trunk.attn_pool.proj",
        "vision_model.head.layernorm": "visual.trunk.attn_pool.norm",
        "vision_model.head.mlp": "visual.trunk.attn_pool.mlp",
        "text_model.embeddings.token_embedding": "text.token_embedding",
        "text_model.embeddings.position_embedding.weight": "text.positional_embedding",
        "text_model.final_layer_norm": "text.ln_final",
        "text_model.head": "text.text_projection",
    }
    for name, x in tensors.items():
        in_layer = re.fullmatch(layers, name)
        if in_layer:
            side, layer, rest = in_layer.groups()
            start = "visual.trunk.blocks" if side == "vision" else "text.transformer.resblocks"
            if "_proj" in rest and "out" not in rest:
                which, kind = re.fullmatch(r"self_attn\.(.)_proj\.(.*)", rest).groups()
                fused = f"attn.qkv.{kind}" if side == "vision" else f"attn.in_proj_{kind}"
                parts.setdefault(f"{start}.{layer}.{fused}", {})[which] = x
                continue
            stem, kind = rest.rsplit(".", 1)
            new[f"{start}.{layer}.{inner[side].get(stem, stem)}.{kind}"] = x
        elif "head.attention.in_proj" in name:
            kind, width = name.rsplit("_", 1)[1], len(x) // 3
            new[f"visual.trunk.attn_pool.q.{kind}"] = x[:width]
            new[f"visual.trunk.attn_pool.kv.{kind}"] = x[width:]
        else:
            old = next(old for old in plain if name == old or name.startswith(f"{old}."))
            x = x[None] if name.endswith("vision_model.embeddings.position_embedding.weight") else x
            new[plain[old] + name.removeprefix(old)] = x.reshape(()) if "logit" in name else x
    return new | {name: np.concatenate([x[y] for y in "qkv"]) for name, x in parts.items()}


def openclip_config(timm_model_name="vit_base_patch16_siglip_224", **text):
    return {
        "model_cfg": {
            "embed_dim": 64,
            "init_logit_bias": -10,
            "custom_text": True,
            "vision_cfg": {
                "image_size": 32,
                "timm_model_name": timm_model_name,
                "timm_model_pretrained": False,
                "timm_pool": "map",
                "timm_proj": "none",
            },
            "text_cfg": {
                "context_length": 64,
                "vocab_size": 50,
                "hf_tokenizer_name": "timm/ViT-B-16-SigLIP",
                "tokenizer_kwargs": {"clean": "canonicalize"},
                "width": 64,
                "heads": 2,
                "layers": 2,
                "mlp_ratio": 1.5,
                "no_causal_mask": True,
                "proj_bias": True,
                "pool_type": "last",
                "norm_kwargs": {"eps": 1e-6},
                **text,
            },
        },
        "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.5, 0.5, 0.5]},
    }


@pytest.mark.parametrize("tanh", [False, True])
def test_openclips_names_hold_the_same_network(tmp_path, tanh):
    """Old configs compute the exact GELU in both towers, those of SigLIP 2 the approximation."""
    acts = {"hidden_act": "gelu_pytorch_tanh" if tanh else "gelu"}
    layer = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 96, **acts}
    model = hugging_face_siglip(
        {"image_size": 32, "patch_size": 16, "num_attention_heads": 1, **layer},
        {"vocab_size": 50, "num_attention_heads": 2, **layer},
    )
    tensors = {name: x.numpy() for name, x in model.state_dict().items()}
    renamed = renamed_for_timm(tensors)
    file = tmp_path / "open_clip_model.safetensors"
    save_file({name: np.ascontiguousarray(x) for name, x in renamed.items()}, file)
    with pytest.raises(UserError, match=r"no open_clip_config\.json"):
        read_weights(str(tmp_path))
    config = (
        openclip_config("vit_so400m_patch16_siglip_256", act_kwargs={"approximate": "tanh"})
        if tanh
        else openclip_config()
    )
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    weights = read_weights(str(tmp_path))
    assert weights.model.image.mean == (0.5, 0.4, 0.3)
    assert_equals_hugging_face(weights, model)
    written = write_parameters(weights.params, OPENCLIP_PAIRINGS, weights.model)
    assert {name: x.shape for name, x in written.items()} == {
        name: x.shape for name, x in renamed.items()
    }
    for name, x in written.items():
        np.testing.assert_array_equal(x, renamed[name], err_msg=name)


def test_what_is_no_fixed_siglip_is_refused_in_one_line(tmp_path, capsys):
    def says(folder, *words, to="ours"):
        output = tmp_path / "out"
        capsys.readouterr()
        assert main(["convert", f"--source={folder}", f"--output={output}", f"--to={to}"]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1, error
        assert all(word in error for word in words), error
        assert not output.exists()

    layer = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Siglip2Config(
        vision_config={**layer, "num_patches": 4}, text_config={**layer, "vocab_size": 50}
    )
    transformers.Siglip2Model(config).save_pretrained(tmp_path / "naflex")
    says(tmp_path / "naflex", "NaFlex", "siglip2-base-patch16-224")

    small_siglip(50).save_pretrained(tmp_path / "fixed")
    says(tmp_path / "fixed", "--to=huggingface", to="openclip")
    config = json.loads((tmp_path / "fixed/config.json").read_text())
    config["vision_config"]["vision_use_head"] = False
    (tmp_path / "fixed/config.json").write_text(json.dumps(config))
    says(tmp_path / "fixed", "vision_use_head=False")

    for name, tensor in {
        "fastvit_mci0": "visual.trunk.stem.0.weight",  # of MobileCLIP
        "eva02_base_patch16_clip_224": "visual.trunk.cls_token",
        "vit_pe_core_base_patch16_224": "visual.trunk.attn_pool.latent",
        "vit_base_patch16_siglip_gap_224": "visual.trunk.attn_pool.latent",
    }.items():
        folder = tmp_path / name
        folder.mkdir()
        tensors = {tensor: np.zeros(3, np.float32), "text.transformer.resblocks.0": np.zeros(1)}
        save_file(tensors, folder / "open_clip_model.safetensors")
        (folder / "open_clip_config.json").write_text(json.dumps(openclip_config(name)))
        says(folder, name)
        (folder / "open_clip_config.json").unlink()
        says(folder, "open_clip")


def test_positions_without_a_class_row_are_resized():
    table = np.random.default_rng(0).normal(size=(49, 6)).astype(np.float32)
    found = resize_grid(table, 10)
    np.testing.assert_array_equal(found, resize_grid(np.concatenate([table[:1], table]), 10)[1:])
