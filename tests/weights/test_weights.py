"""Other people's checkpoints: read without torch, equal to torch, written back bit for bit."""

import json
import re
import shutil
import tempfile

import flax.serialization
import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file, save_file
from support.hugging_face import hugging_face_clip, inputs, randomised
from support.open_ai_clip import QuickGELU, open_ai_clip

from cmaclip_jax.errors import UserError
from cmaclip_jax.main import main
from cmaclip_jax.weights.clip_folder import fingerprint
from cmaclip_jax.weights.fit import fit, resize_grid, resize_length
from cmaclip_jax.weights.reader import read_weights

torch = pytest.importorskip("torch", reason="the oracle; pip install -e '.[test]'")
transformers = pytest.importorskip("transformers", reason="the oracle; pip install -e '.[test]'")

TINY = {"vocabulary": 50, "length": 12}


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory):
    """A folder as Hugging Face saves it, and the network that it holds."""
    folder = tmp_path_factory.mktemp("hugging_face")
    model = randomised(hugging_face_clip("test/8", eos_token_id=2, **TINY))
    model.save_pretrained(folder)
    return folder, model


def embeddings(weights, batch):
    image, text, aux = jax.jit(weights.model.apply)({"params": weights.params}, batch)
    return np.asarray(image), np.asarray(text), float(aux["logit_scale"])


def assert_equals_hugging_face(weights, model):
    batch, pixels, ids = inputs(weights.model)
    image, text, scale = embeddings(weights, batch)
    with torch.no_grad():
        expected = model(pixel_values=pixels, input_ids=ids)
    image = image / np.linalg.norm(image, axis=-1, keepdims=True)
    text = text / np.linalg.norm(text, axis=-1, keepdims=True)
    np.testing.assert_allclose(image, expected.image_embeds, atol=1e-4)
    np.testing.assert_allclose(text, expected.text_embeds, atol=1e-4)
    np.testing.assert_allclose(np.exp(scale) * image @ text.T, expected.logits_per_image, atol=1e-4)


SIZED = {
    "B/32": dict(patch_size=32, image_size=224, width=768, heads=12, text=(512, 8), projection=512),
    "B/16": dict(patch_size=16, image_size=224, width=768, heads=12, text=(512, 8), projection=512),
    "L/14": dict(
        patch_size=14, image_size=224, width=1024, heads=16, text=(768, 12), projection=768
    ),
}


@pytest.mark.parametrize(
    ("name", "activation", "eos"),
    [
        ("B/32", "quick_gelu", 2),
        ("B/32", "gelu", 49407),
        ("B/16", "gelu", 2),
        ("L/14", "quick_gelu", 49407),
        ("L/14", "gelu", 2),
    ],
)
@pytest.mark.usefixtures("large")
def test_real_shapes_equal_torch_and_go_back_bit_for_bit(tmp_path, name, activation, eos):
    """One layer a tower, everything else as wide as the real ones."""
    size = SIZED[name]
    config = transformers.CLIPConfig(
        vision_config={
            "image_size": size["image_size"],
            "patch_size": size["patch_size"],
            "hidden_size": size["width"],
            "num_hidden_layers": 1,
            "num_attention_heads": size["heads"],
            "intermediate_size": 4 * size["width"],
            "hidden_act": activation,
        },
        text_config={
            "hidden_size": size["text"][0],
            "num_hidden_layers": 1,
            "num_attention_heads": size["text"][1],
            "intermediate_size": 4 * size["text"][0],
            "hidden_act": activation,
            "eos_token_id": eos,
        },
        projection_dim=size["projection"],
    )
    model = transformers.CLIPModel(config).eval()
    model.save_pretrained(tmp_path / "source")
    weights = read_weights(str(tmp_path / "source"))
    assert weights.model.text.pooling == ("argmax" if eos == 2 else "first_end")
    assert_equals_hugging_face(weights, model)
    del model
    source, back = str(tmp_path / "source"), str(tmp_path / "back")
    assert main(["convert", f"--source={source}", f"--output={back}", "--to=huggingface"]) == 0
    assert_same_tensors(tmp_path / "source/model.safetensors", tmp_path / "back/model.safetensors")
    again = transformers.CLIPModel.from_pretrained(back).eval()
    assert again.config.text_config.eos_token_id == eos
    assert_equals_hugging_face(weights, again)


def assert_same_tensors(*files):
    one, other = map(load_file, files)
    assert set(one) == set(other)
    for name in one:
        assert one[name].shape == other[name].shape
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def sharded(folder, model):
    model.save_pretrained(folder, max_shard_size="40KB")
    assert len(list(folder.glob("*.safetensors"))) > 2


def pickled(folder, model):
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


def pickled_and_sharded(folder, model):
    state = model.state_dict()
    halves = list(state)[::2], list(state)[1::2]
    files = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
    for file, names in zip(files, halves, strict=True):
        torch.save({name: state[name] for name in names}, folder / file)
    index = {name: file for file, names in zip(files, halves, strict=True) for name in names}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))


def flax_msgpack(folder, model):
    """The layout of `flax_model.msgpack`: kernels are turned, norms have scales."""
    tree = {}
    for name, x in model.state_dict().items():
        *stem, last = name.split(".")
        x = x.numpy()
        if last == "weight" and "norm" in stem[-1]:
            last = "scale"
        elif last == "weight" and "embedding" in stem[-1] and x.ndim == 2:
            last = "embedding"
        elif last == "weight":
            last, x = "kernel", x.transpose(2, 3, 1, 0) if x.ndim == 4 else x.T
        tree[(*stem, last)] = np.array(x)
    content = flax.serialization.msgpack_serialize(unflatten_dict(tree))
    (folder / "flax_model.msgpack").write_bytes(content)


@pytest.mark.parametrize("save", [sharded, pickled, pickled_and_sharded, flax_msgpack])
def test_every_hugging_face_file_holds_the_same(tmp_path, hugging_face, save):
    folder, model = hugging_face
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    save(tmp_path, model)
    expected, found = (flatten_dict(read_weights(str(f)).params) for f in (folder, tmp_path))
    assert set(found) == set(expected)
    for path in expected:
        np.testing.assert_array_equal(found[path], expected[path])


def open_ai_state(model):
    """As OpenAI's own files: three numbers beside the weights."""
    stated = {"input_resolution": 16, "context_length": 12, "vocab_size": 50}
    return model.state_dict() | {name: torch.tensor(x) for name, x in stated.items()}


def save_state_dict(file, model):
    torch.save(open_ai_state(model), file)


def save_half(file, model):
    torch.save(
        {n: x.half() if x.is_floating_point() else x for n, x in open_ai_state(model).items()}, file
    )


def save_scripted(file, model):
    for name in ("input_resolution", "context_length", "vocab_size"):
        model.register_buffer(name, open_ai_state(model)[name])
    _, pixels, ids = inputs(read_weights_of(model).model)
    torch.jit.save(torch.jit.trace(model, (pixels, ids)), file)


def save_from_training(file, model):
    """As OpenCLIP's training script writes it, from several devices."""
    state = {f"module.{name}": x for name, x in model.state_dict().items()}
    torch.save(
        {
            "epoch": 3,
            "name": "run",
            "state_dict": state,
            "optimizer": {"state": {0: torch.ones(2)}},
        },
        file,
    )


def save_sigmoid(file, model):
    """As OpenCLIP trains with the sigmoid loss."""
    torch.save(model.state_dict() | {"logit_bias": torch.tensor(-9.0)}, file)


def save_custom_text(file, model):
    """As OpenCLIP's CustomTextCLIP names it."""
    without_prefix = ("visual.", "logit_")
    tensors = {
        name if name.startswith(without_prefix) else f"text.{name}": x
        for name, x in model.state_dict().items()
    }
    torch.save(tensors, file)


def read_weights_of(model):
    with tempfile.TemporaryDirectory() as folder:
        torch.save(open_ai_state(model), f"{folder}/clip.pt")
        return read_weights(f"{folder}/clip.pt")


@pytest.mark.filterwarnings("ignore:Converting a tensor")  # of torch.jit.trace
@pytest.mark.parametrize(
    ("save", "activation"),
    [
        (save_state_dict, "quick_gelu"),
        (save_half, "quick_gelu"),
        (save_scripted, "quick_gelu"),
        (save_from_training, "gelu"),
        (save_custom_text, "gelu"),
        (save_sigmoid, "gelu"),
    ],
)
def test_open_ai_names_equal_torch(tmp_path, save, activation):
    model = open_ai_clip(QuickGELU() if activation == "quick_gelu" else torch.nn.GELU())
    if save is save_half:
        model = model.half().float()
    save(tmp_path / "clip.pt", model)
    stated = save in (save_state_dict, save_half, save_scripted)
    if not stated:
        with pytest.raises(UserError, match="add --activation=quick_gelu"):
            read_weights(str(tmp_path / "clip.pt"))
    weights = read_weights(str(tmp_path / "clip.pt"), "" if stated else activation)
    assert weights.model.image.activation == weights.model.text.activation == activation
    batch, pixels, ids = inputs(weights.model)
    with torch.no_grad():
        expected = model(pixels, ids)
    image, text, scale = embeddings(weights, batch)
    np.testing.assert_allclose(image, expected[0], atol=1e-4)
    np.testing.assert_allclose(text, expected[1], atol=1e-4)
    np.testing.assert_allclose(scale, model.logit_scale.item(), rtol=1e-6)
    assert weights.model.bias == (save is save_sigmoid)


def test_a_bias_goes_where_there_is_a_place_for_it(tmp_path, capsys):
    save_sigmoid(tmp_path / "clip.pt", open_ai_clip(torch.nn.GELU()))
    command = ["convert", f"--source={tmp_path / 'clip.pt'}", "--activation=gelu"]
    assert main([*command, f"--output={tmp_path / 'open'}", "--to=openclip"]) == 0
    assert read_weights(str(tmp_path / "open")).params["logit_bias"] == -9.0
    assert main([*command, f"--output={tmp_path / 'hf'}", "--to=huggingface"]) == 2
    assert "has no place for logit_bias" in capsys.readouterr().err
    assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_open_ai_names_at_real_width_equal_torch(tmp_path, activation):
    """One layer a tower at B/32's widths, with twelve and eight heads."""
    model = open_ai_clip(
        QuickGELU() if activation == "quick_gelu" else torch.nn.GELU(),
        image=(768, 1, 12, 32, 224),
        text=(512, 1, 8),
        length=77,
        words=49408,
    )
    torch.save(model.state_dict(), tmp_path / "clip.pt")
    weights = read_weights(str(tmp_path / "clip.pt"), activation)
    batch, pixels, ids = inputs(weights.model)
    with torch.no_grad():
        expected = model(pixels, ids)
    for ours, theirs in zip(embeddings(weights, batch), expected, strict=False):
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize("quick", [True, False])
def test_open_clip_folders_equal_torch_and_go_back(tmp_path, quick):
    """Heads of 16, an MLP of another width and either activation, as only the config tells."""
    activation = QuickGELU() if quick else torch.nn.GELU()
    model = open_ai_clip(activation, image=(64, 2, 4, 8, 16), text=(64, 2, 2), mlp_ratio=3)
    folder = tmp_path / "source"
    folder.mkdir()
    tensors = {name: x.numpy() for name, x in model.state_dict().items()}
    save_file(tensors, folder / "open_clip_model.safetensors")
    tower = {"width": 64, "layers": 2, "mlp_ratio": 3.0}
    config = {
        "model_cfg": {
            "embed_dim": 48,
            "vision_cfg": {"image_size": 16, "patch_size": 8, "head_width": 16, **tower},
            "text_cfg": {"context_length": 12, "vocab_size": 50, "heads": 2, **tower},
            "quick_gelu": quick,
        },
        "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    weights = read_weights(str(folder))
    assert weights.model.image.mean == (0.5, 0.4, 0.3)
    batch, pixels, ids = inputs(weights.model)
    with torch.no_grad():
        expected = model(pixels, ids)
    for found, theirs in zip(embeddings(weights, batch), expected, strict=False):
        np.testing.assert_allclose(found, theirs, atol=1e-4)
    ours, back = tmp_path / "ours", tmp_path / "back"
    assert main(["convert", f"--source={folder}", f"--output={ours}"]) == 0
    assert main(["convert", f"--source={ours}", f"--output={back}", "--to=openclip"]) == 0
    assert_same_tensors(*(f / "open_clip_model.safetensors" for f in (folder, back)))
    assert read_weights(str(back)).model == weights.model
    with pytest.raises(UserError, match="leave --activation out"):
        read_weights(str(folder), "gelu" if quick else "quick_gelu")
    config["model_cfg"]["text_cfg"]["no_causal_mask"] = True
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"text_cfg\.no_causal_mask=True"):
        read_weights(str(folder))


def test_a_converted_folder_keeps_its_fingerprint(tmp_path, hugging_face, capsys):
    folder, _ = hugging_face
    arguments = ["convert", f"--source={folder}", f"--output={tmp_path / 'ours'}", "--verify"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "largest difference" in said
    assert "49,40" not in said
    assert "none beside the weights" in said
    weights = read_weights(str(tmp_path / "ours"))
    kept = json.loads((tmp_path / "ours/clip.json").read_text())["fingerprint"]
    found = fingerprint(weights.model, weights.params)
    np.testing.assert_allclose(found["image"], kept["image"], rtol=1e-5)
    np.testing.assert_allclose(found["text"], kept["text"], rtol=1e-5)
    assert main(arguments) == 2
    assert "is there already" in capsys.readouterr().err
    again = ["convert", f"--source={tmp_path / 'ours'}", "--verify"]
    assert main([*again, f"--output={tmp_path / 'again'}"]) == 0
    assert "that of the conversion" in capsys.readouterr().out
    file = tmp_path / "ours/parameters.safetensors"
    save_file({name: np.zeros_like(x) for name, x in load_file(file).items()}, file)
    assert main([*again, f"--output={tmp_path / 'third'}"]) == 2
    assert "are not what was converted" in capsys.readouterr().err


def test_every_size_of_the_presets_is_told_from_its_shapes(monkeypatch):
    from cmaclip_jax.models import CLIP, SIZES, image_encoder, text_encoder
    from cmaclip_jax.weights import openai
    from cmaclip_jax.weights.layout import parameter_shapes

    for name in ("B/32", "B/16", "L/14", "L/14-336", "H/14", "bigG/14"):
        clip = CLIP(image_encoder(name), text_encoder(name))
        shapes = parameter_shapes(clip)
        tensors = {}
        for row in openai.PAIRINGS:
            layers = shapes[row.ours][0] if "{layer}" in row.theirs[0] else 1
            shape = shapes[row.ours][1:] if "{layer}" in row.theirs[0] else shapes[row.ours]
            like = row.conversion.write(np.broadcast_to(np.int8(0), shape))
            for layer in range(layers):
                tensors |= {n.format(layer=layer): x for n, x in zip(row.theirs, like, strict=True)}
        found = openai.model_of(tensors, SIZES[name].image.get("activation", "quick_gelu"))
        assert found == clip


# ---- what must not happen


def truncated(source, target):
    target.write_bytes(source.read_bytes()[:-2000])


def mistakes(folder, model, tmp_path):
    """(what is wrong, the broken checkpoint, what the one line has to say)."""
    state = {name: x.numpy().copy() for name, x in model.state_dict().items()}
    config = (folder / "config.json").read_text()

    def place(name, tensors):
        path = tmp_path / name
        path.mkdir()
        (path / "config.json").write_text(config)
        save_file(tensors, path / "model.safetensors")
        return path

    yield (
        place("text", {k: x for k, x in state.items() if "vision" not in k and "visual" not in k}),
        ("no image tower"),
    )
    odd = state | {
        "text_projection.weight": np.zeros((3, 4), np.float32),
        "heads.weight": np.ones(3),
    }
    odd.pop("logit_scale")
    yield (
        place("odd", odd),
        "1 missing: logit_scale; 1 extra: heads.weight; "
        r"1 misshapen: text_projection.weight is \(3, 4\)",
    )
    cut = place("cut", state)
    truncated(folder / "model.safetensors", cut / "model.safetensors")
    yield cut, "damaged or cut short"
    torch.save(model.state_dict(), tmp_path / "whole.bin")
    truncated(tmp_path / "whole.bin", tmp_path / "cut.bin")
    yield tmp_path / "cut.bin", "cut short or damaged"
    torch.save(model.state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    yield tmp_path / "old.pt", "before version 1.6"
    (tmp_path / "flax_model.msgpack").write_bytes(b"\x85abc")
    yield tmp_path / "flax_model.msgpack", "damaged or cut short"
    (tmp_path / "empty").mkdir()
    yield tmp_path / "empty", "holds no weights"
    yield tmp_path / "nowhere", "no checkpoint at"
    for name, broken in (("json", "{"), ("heads", config.replace('_heads": 2', '_heads": 0'))):
        path = place(name, state)
        (path / "config.json").write_text(broken)
        yield path, "cannot read"
    end = place("end", state)
    (end / "config.json").write_text(config.replace('"eos_token_id": 2', '"eos_token_id": 49407'))
    yield end, "eos_token_id=49407 is none of the 50 tokens"


def test_mistakes_end_in_one_line_and_write_nothing(tmp_path, hugging_face, capsys):
    for source, says in mistakes(*hugging_face, tmp_path):
        output = tmp_path / "out"
        assert main(["convert", f"--source={source}", f"--output={output}"]) == 2, source
        error = capsys.readouterr().err
        assert error.count("\n") == 1, error
        assert re.search(says, error), error
        assert not output.exists()


def test_a_hub_name_is_found_in_the_cache_or_says_how_to_go_on(
    monkeypatch, capsys, tmp_path, hugging_face
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    output = f"--output={tmp_path / 'out'}"
    assert main(["convert", "--source=me/clip", output]) == 2
    assert "give the folder's path instead" in capsys.readouterr().err
    cached, commit = tmp_path / "models--me--clip", "a" * 40
    (cached / "refs").mkdir(parents=True)
    (cached / "refs/main").write_text(commit)
    shutil.copytree(hugging_face[0], cached / "snapshots" / commit)
    assert main(["convert", "--source=me/clip", output]) == 0


# ---- into a network of another size


@pytest.mark.parametrize("side", [4, 10, 14])
def test_image_positions_are_resized_as_torch_resizes_them(side):
    table = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    grid = torch.tensor(table[1:]).reshape(1, 7, 7, 6).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(
        grid, (side, side), mode="bicubic", antialias=True, align_corners=False
    )
    found = resize_grid(table, side)
    np.testing.assert_array_equal(found[0], table[0])
    expected = expected.permute(0, 2, 3, 1).reshape(-1, 6)
    np.testing.assert_allclose(found[1:], expected, atol=1e-5)


def test_text_positions_keep_their_places():
    table = np.arange(12.0).reshape(6, 2)
    np.testing.assert_array_equal(resize_length(table, 4), table[:4])
    np.testing.assert_array_equal(resize_length(table, 8), [*table, table[-1], table[-1]])


def test_fit_takes_what_both_have_and_says_so():
    ours = {
        "image": {"a": np.ones(3), "position_embedding": np.ones((5, 2))},
        "head_colour": {"k": np.ones(4)},
    }
    theirs = {
        "image": {"a": np.zeros(3), "position_embedding": np.zeros((10, 2))},
        "text": {"b": np.zeros(2)},
    }
    taken, lines = fit(theirs, ours)
    assert flatten_dict(taken, sep="/").keys() == {"image/a", "image/position_embedding"}
    assert lines == [
        "taken: image 13",
        "new: heads 4",
        "left aside: text 2",
        "image positions resized from 3x3 to 2x2 patches (bicubic)",
    ]
    with pytest.raises(UserError, match=r"image/a is \(2,\)"):
        fit({"image": {"a": np.zeros(2)}}, ours)
    with pytest.raises(UserError, match="nothing of the weights"):
        fit({"other": np.zeros(2)}, ours)
