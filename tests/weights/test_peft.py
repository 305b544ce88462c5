"""Adapters in PEFT's format: equal to PEFT's in PyTorch, and the same bits on the way back."""

import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file
from support.hugging_face import hugging_face_clip, inputs, randomised

from cmaclip_jax.errors import UserError
from cmaclip_jax.models import CLIP
from cmaclip_jax.models.adapters import LORA, merge_towers
from cmaclip_jax.weights.peft import TENSORS, read_peft, with_adapters, write_peft
from cmaclip_jax.weights.reader import read_weights

torch = pytest.importorskip("torch", reason="the oracle; pip install -e '.[test]'")
peft = pytest.importorskip("peft", reason="the oracle; pip install -e '.[test]'")

ALL = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
QUERIES_AND_VALUES = ("q_proj", "v_proj")


def peft_clip(targets=ALL, rank=3, **text):
    """A random CLIP with random adapters, as PEFT has it."""
    torch.manual_seed(0)
    model = randomised(hugging_face_clip("test/8", vocabulary=50, length=12, **text))
    config = peft.LoraConfig(
        r=rank, lora_alpha=7, lora_dropout=0.1, target_modules=list(targets), bias="none"
    )
    model = peft.get_peft_model(model, config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.2 * torch.randn_like(parameter))
    return model


def saved(folder, model):
    """Folders of the base and of the adapter."""
    model.save_pretrained(folder / "adapter")
    base = hugging_face_clip("test/8", vocabulary=50, length=12)
    base.load_state_dict(
        {
            name.replace(".base_layer", ""): x
            for name, x in model.get_base_model().state_dict().items()
            if "lora_" not in name
        }
    )
    base.save_pretrained(folder / "base")
    return folder / "base", folder / "adapter"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("peft"), peft_clip())


def opened(folders):
    base, adapter = folders
    return with_adapters(read_weights(str(base)), read_peft(adapter))


@pytest.mark.parametrize("targets", [ALL, QUERIES_AND_VALUES])
def test_embeddings_and_gradients_equal_those_of_peft(tmp_path, targets):
    theirs = peft_clip(targets)
    weights = opened(saved(tmp_path, theirs))
    batch, pixels, ids = inputs(weights.model)
    outputs = theirs(pixel_values=pixels, input_ids=ids)
    directions = torch.randn(2, *outputs.image_embeds.shape)
    loss = (outputs.image_embeds * directions[0] + outputs.text_embeds * directions[1]).sum()
    loss.backward()

    def embed(params):
        image, text, _ = weights.model.apply({"params": params}, batch)
        return tuple(x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (image, text))

    image, text = jax.jit(embed)(weights.params)
    np.testing.assert_allclose(image, outputs.image_embeds.detach(), atol=1e-5)
    np.testing.assert_allclose(text, outputs.text_embeds.detach(), atol=1e-5)
    image, text = jax.jit(embed)(merge_towers(weights.model, weights.params))
    np.testing.assert_allclose(image, outputs.image_embeds.detach(), atol=1e-5)

    def ours(params):
        return sum(jnp.sum(x * d.numpy()) for x, d in zip(embed(params), directions, strict=True))

    gradient = jax.jit(jax.grad(ours))(weights.params)
    write_peft(tmp_path, towers_of(weights.model), gradient, "a gradient")
    mine = load_file(tmp_path / TENSORS)
    expected = {
        name.replace(".default", ""): x.grad
        for name, x in theirs.named_parameters()
        if "lora_" in name
    }
    assert set(mine) == set(expected)
    for name, tensor in expected.items():
        np.testing.assert_allclose(mine[name], tensor, atol=1e-5, err_msg=name)


def towers_of(model: CLIP):
    return {"image": model.image, "text": model.text}


def test_a_folder_goes_back_bit_for_bit_and_peft_reads_it(folders, tmp_path):
    weights = opened(folders)
    write_peft(tmp_path, towers_of(weights.model), weights.params, str(folders[0]))
    one, other = load_file(folders[1] / TENSORS), load_file(tmp_path / TENSORS)
    assert set(one) == set(other)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    base = hugging_face_clip("test/8", vocabulary=50, length=12)
    again = peft.PeftModel.from_pretrained(type(base).from_pretrained(folders[0]), tmp_path)
    batch, pixels, ids = inputs(weights.model)
    expected = again.eval()(pixel_values=pixels, input_ids=ids)
    image, _, _ = jax.jit(weights.model.apply)({"params": weights.params}, batch)
    image = image / np.linalg.norm(image, axis=-1, keepdims=True)
    np.testing.assert_allclose(image, expected.image_embeds.detach(), atol=1e-5)


@pytest.mark.parametrize("prefix", ["base_model.model.", "base_model.model.vision_model."])
def test_the_image_encoder_alone_is_named_with_and_without_its_prefix(folders, tmp_path, prefix):
    shutil.copytree(folders[1], tmp_path, dirs_exist_ok=True)
    full = "base_model.model.vision_model."
    tensors = {
        name.replace(full, prefix): x
        for name, x in load_file(folders[1] / TENSORS).items()
        if name.startswith(full)
    }
    save_file(tensors, tmp_path / TENSORS)
    weights = opened((folders[0], tmp_path))
    assert weights.model.text.adapter is None
    assert weights.model.image.adapter.products
    flat, expected = (flatten_dict(w.params, sep="/") for w in (weights, opened(folders)))
    assert any(LORA in path for path in flat)
    for path, leaf in flat.items():
        np.testing.assert_array_equal(leaf, expected[path])


def changed(config):
    def change(folder):
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | config))

    return change


def without_a_layer(folder):
    tensors = load_file(folder / TENSORS)
    save_file({n: x for n, x in tensors.items() if ".layers.0." not in n}, folder / TENSORS)


def with_a_projection(folder):
    tensors = load_file(folder / TENSORS)
    name = "base_model.model.visual_projection.lora_A.weight"
    save_file(tensors | {name: np.zeros((3, 32), np.float32)}, folder / TENSORS)


def test_the_text_encoder_alone_is_named_by_its_class(folders, tmp_path):
    shutil.copytree(folders[1], tmp_path, dirs_exist_ok=True)
    full = "base_model.model.text_model."
    tensors = {
        name.replace(full, "base_model.model."): x
        for name, x in load_file(folders[1] / TENSORS).items()
        if name.startswith(full)
    }
    save_file(tensors, tmp_path / TENSORS)
    changed({"auto_mapping": {"base_model_class": "CLIPTextModel"}})(tmp_path)
    weights = opened((folders[0], tmp_path))
    assert weights.model.image.adapter is None
    assert weights.model.text.adapter.products


def without_half(folder):
    tensors = load_file(folder / TENSORS)
    save_file({n: x for n, x in tensors.items() if "v_proj.lora_B" not in n}, folder / TENSORS)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (changed({"r": 0}), "r=0; an adapter needs a rank of 1 or more"),
        (changed({"use_dora": True}), "use_dora=True is not supported"),
        (changed({"rank_pattern": {"q_proj": 4}}), "rank_pattern="),
        (changed({"peft_type": "IA3"}), "peft_type='IA3' is not supported"),
        (changed({"init_lora_weights": "pissa"}), "init_lora_weights='pissa' is not supported"),
        (changed({"lora_alpha": "x"}), "lora_alpha='x' is no number"),
        (without_half, "does not have lora_A and lora_B of every product"),
        (without_a_layer, "only adapters of every layer"),
        (with_a_projection, "visual_projection.lora_A.weight adapts no product"),
        (lambda folder: (folder / TENSORS).write_bytes(b"cut"), "cannot be read"),
        (lambda folder: (folder / TENSORS).unlink(), "no folder of PEFT"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(folders, tmp_path, spoil, told):
    shutil.copytree(folders[1], tmp_path, dirs_exist_ok=True)
    spoil(tmp_path)
    with pytest.raises(UserError, match=re.escape(told)):
        opened((folders[0], tmp_path))


def test_an_adapter_for_another_base_is_named_with_the_widths(folders, tmp_path):
    hugging_face_clip("tiny/12", vocabulary=50, length=12).save_pretrained(tmp_path)
    with pytest.raises(
        UserError, match=r"not for this base: .* \(2, 3, 32\) and here \(2, 3, 64\)"
    ):
        opened((tmp_path, folders[1]))
