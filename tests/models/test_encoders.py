"""The encoders against Hugging Face's CLIP in PyTorch, and the sizes they come in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.hugging_face import hugging_face_clip, randomised

from cmaclip_jax.errors import UserError
from cmaclip_jax.models import CLIP, image_encoder, text_encoder
from cmaclip_jax.models.encoders import CLIP_DEVIATION, CLIP_MEAN, patches, unit
from cmaclip_jax.weights.huggingface import PAIRINGS
from cmaclip_jax.weights.layout import read_parameters

torch = pytest.importorskip("torch", reason="the oracle; pip install -e '.[test]'")


def parameters(model, image=None, text=None):
    """A Hugging Face network's numbers in our layout, for one tower of ours or both."""
    tensors = {name: x.numpy() for name, x in model.state_dict().items()}
    clip = CLIP(image or image_encoder("test/8"), text or text_encoder("test/8"))
    return read_parameters(tensors, PAIRINGS, clip)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("unroll", [1, 2])
def test_image_encoder_equals_torch(activation, unroll):
    model = randomised(hugging_face_clip("test/8", activation, vocabulary=49408, length=12))
    vision = model.vision_model
    image = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)
    pixels = (image / 255 - np.array(CLIP_MEAN)) / np.array(CLIP_DEVIATION)
    with torch.no_grad():
        pixels = torch.tensor(pixels, dtype=torch.float32).permute(0, 3, 1, 2)
        out = vision(pixel_values=pixels)
        all_tokens = vision.post_layernorm(out.last_hidden_state)
        expected_tokens = model.visual_projection(all_tokens).numpy()
        expected = model.visual_projection(out.pooler_output).numpy()

    encoder = image_encoder("test/8", activation=activation, unroll=unroll)
    params = parameters(model, image=encoder)["image"]
    tokens, pooled = encoder.apply({"params": params}, jnp.asarray(image))
    np.testing.assert_allclose(tokens, expected_tokens, atol=1e-4)
    np.testing.assert_allclose(pooled, expected, atol=1e-4)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize(("pooling", "eos_token_id"), [("argmax", 2), ("first_end", 30)])
def test_text_encoder_equals_torch(activation, pooling, eos_token_id):
    model = randomised(
        hugging_face_clip("test/8", activation, eos_token_id=eos_token_id, vocabulary=50)
    )
    text = model.text_model
    # The end token is 30 or, by the older rule, the highest id; padding repeats it.
    end = 49 if pooling == "argmax" else 30
    ids = np.full((3, 12), end, np.int32)
    ids[0, :4], ids[1, :9], ids[2, :11] = 7, 12, 29
    with torch.no_grad():
        out = text(input_ids=torch.tensor(ids, dtype=torch.long))
        expected_tokens = model.text_projection(out.last_hidden_state).numpy()
        expected = model.text_projection(out.pooler_output).numpy()

    encoder = text_encoder(
        "test/8", vocabulary=50, activation=activation, pooling=pooling, end_token=end
    )
    params = parameters(model, text=encoder)["text"]
    tokens, pooled = encoder.apply({"params": params}, ids)
    np.testing.assert_allclose(tokens, expected_tokens, atol=1e-4)
    np.testing.assert_allclose(pooled, expected, atol=1e-4)


@pytest.mark.parametrize("name", ["B/32", "B/16", "L/14", "L/14-336", "H/14", "bigG/14"])
def test_sizes_hold_as_many_parameters_as_the_originals(name):
    with torch.device("meta"):
        expected = sum(p.numel() for p in hugging_face_clip(name).parameters()) - 1  # logit scale
    assert parameter_count(name) == expected


def parameter_count(name):
    image, text = image_encoder(name), text_encoder(name)
    pixels = jnp.zeros((1, image.image_size, image.image_size, 3), jnp.uint8)
    shapes = (
        jax.eval_shape(image.init, jax.random.key(0), pixels),
        jax.eval_shape(text.init, jax.random.key(0), jnp.zeros((1, text.length), jnp.int32)),
    )
    return sum(x.size for x in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
    ("name", "published"),  # in millions, with the scale and the bias: the models' cards
    [("SigLIP-B/16", 203.2), ("SigLIP-L/16", 652.2), ("SigLIP-So400m/14-384", 878.0)],
)
def test_siglips_sizes_hold_as_many_parameters_as_the_published(name, published):
    assert parameter_count(name) / 1e6 == pytest.approx(published, abs=0.06)


def test_an_attention_pool_comes_before_the_patches():
    encoder = image_encoder("test/8", pooling="attention")
    image = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    params = encoder.init(jax.random.key(0), image)
    tokens, pooled = encoder.apply(params, image)
    assert tokens.shape == (2, 5, 32)
    np.testing.assert_array_equal(tokens[:, 0], pooled)
    other = jax.tree_util.tree_map_with_path(
        lambda path, x: x + 1 if "probe" in jax.tree_util.keystr(path) else x, params
    )
    changed, _ = encoder.apply(other, image)
    np.testing.assert_array_equal(changed[:, 1:], tokens[:, 1:])
    assert np.abs(changed[:, 0] - tokens[:, 0]).max() > 1e-4


def test_siglips_text_is_read_at_its_last_position():
    """Padding counts: a text of another length of padding has another embedding."""
    encoder = text_encoder("test/8", vocabulary=50, pooling="last", end_token=1)
    ids = np.array([[7, 8, 1, *[1] * 9], [7, 8, 9, 1, *[1] * 8]], np.int32)
    params = encoder.init(jax.random.key(0), ids)
    tokens, pooled = encoder.apply(params, ids)
    np.testing.assert_array_equal(pooled, tokens[:, 11])
    np.testing.assert_array_equal(encoder.end_position(ids), [11, 11])
    later = ids.copy()
    later[0, 10] = 5  # a token after another is seen by it: the tower is not causal
    changed, _ = encoder.apply(params, later)
    assert np.abs(changed[0, 0] - tokens[0, 0]).max() > 1e-5


def test_patches_are_the_squares_of_the_picture():
    image = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    expected = [image[:, y : y + 2, x : x + 2].reshape(2, -1) for y in (0, 2) for x in (0, 2, 4)]
    np.testing.assert_array_equal(patches(jnp.asarray(image), 2), np.stack(expected, 1))


def test_unit_has_a_finite_gradient_at_zero():
    gradient = jax.grad(lambda x: unit(x).sum())(jnp.zeros(4))
    assert np.all(np.isfinite(gradient))
    np.testing.assert_allclose(np.linalg.norm(unit(jnp.array([3.0, 4.0]))), 1.0, rtol=1e-6)


def test_an_unknown_size_names_the_known_ones():
    with pytest.raises(UserError, match=r"'B/8'.*B/32, B/16"):
        image_encoder("B/8")
    assert image_encoder("ViT-B/32") == image_encoder("B/32")
