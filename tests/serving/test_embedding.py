"""CLIP as a function, and what happens to pictures and words before it sees them."""

import csv
import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cmaclip_jax as cma
from cmaclip_jax.data.images import clip_image
from cmaclip_jax.data.text import Tokenizer, checkpoint_tokenizer, clean
from cmaclip_jax.errors import UserError
from cmaclip_jax.main import main

transformers = pytest.importorskip("transformers", reason="the oracle; pip install -e '.[test]'")
DATA = os.environ.get("CMACLIP_TEST_DATA")
needs_data = pytest.mark.skipif(
    not DATA, reason="real titles and photos; set CMACLIP_TEST_DATA to their folder"
)


@pytest.fixture(scope="module")
def real_pairs():
    with (Path(DATA) / "fashion/pairs.csv").open() as file:
        return list(csv.DictReader(file))


@needs_data
def test_real_titles_have_the_ids_of_the_reference(real_pairs):
    folder = Path(DATA) / "clip_bpe"
    reference = transformers.CLIPTokenizerFast.from_pretrained(folder)
    titles = [pair["title"] for pair in real_pairs]
    for length in (77, 9):
        expected = reference(
            titles, padding="max_length", truncation=True, max_length=length, return_tensors="np"
        )["input_ids"]
        np.testing.assert_array_equal(checkpoint_tokenizer(folder)(titles, length), expected)
    cut = [len(reference(title)["input_ids"]) > 9 for title in titles[:500]]
    share = checkpoint_tokenizer(folder).share_cut(titles[:500], 9)
    assert share == pytest.approx(np.mean(cut))
    assert 0 < share < 1


@needs_data
@pytest.mark.parametrize("size", [224, 160])
def test_real_photos_are_prepared_as_by_the_reference(real_pairs, size):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    )
    for index, pair in enumerate(real_pairs[:20]):
        image = Image.open(Path(DATA) / "fashion" / pair["image"]).resize((300 + 7 * index, 371))
        expected = processor(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        mean, deviation = np.array(processor.image_mean), np.array(processor.image_std)
        found = (clip_image(image, size) / 255 - mean) / deviation
        assert np.abs((found - expected) * deviation * 255).max() <= 2


def test_pictures_come_in_every_form_and_stand_upright(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    image = Image.fromarray(pixels)
    image.save(tmp_path / "a.png")
    forms = [pixels, image, tmp_path / "a.png", str(tmp_path / "a.png")]
    forms.append((tmp_path / "a.png").read_bytes())
    for form in forms:
        np.testing.assert_array_equal(clip_image(form, 16), clip_image(pixels, 16))
    np.testing.assert_array_equal(clip_image(pixels, 20), pixels[:, 5:25])
    exif = Image.Exif()
    exif[0x0112] = 3  # lies on its head
    turned = io.BytesIO()
    image.rotate(180).save(turned, "png", exif=exif)
    np.testing.assert_array_equal(clip_image(turned.getvalue(), 20), pixels[:, 5:25])
    assert clip_image(Image.new("LA", (40, 9)), 8).shape == (8, 8, 3)
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"cannot read the picture .*b\.jpg"):
        clip_image(tmp_path / "b.jpg", 8)


@pytest.mark.parametrize(
    ("dirty", "expected"),
    [
        ("Caf&amp;eacute;  &lt;b&gt;\tblue\n", "Caf\u00e9 <b> blue"),
        ("Tom\u2019s \u201cbest\u201d", 'Tom\'s "best"'),
        ("schÃ¶n", "schön"),
        ("plain words", "plain words"),
    ],
)
def test_texts_are_cleaned_as_clip_was_trained(dirty, expected):
    assert clean(dirty) == expected


def test_a_tokenizer_of_another_kind_is_refused():
    import tokenizers

    with pytest.raises(UserError, match="is not CLIP's"):
        Tokenizer(tokenizers.Tokenizer(tokenizers.models.BPE()))


def test_embeddings_do_not_depend_on_what_comes_with_them(clip_folder):
    clip = cma.load_clip(clip_folder)
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (20 + i, 24, 3)).astype(np.uint8) for i in range(70)]
    texts = [f"a photo of a {'red' if i % 2 else 'blue'} {'xyz'[i % 3]}" for i in range(70)]
    whole = {"images": clip.embed_images(images), "texts": clip.embed_texts(texts)}
    for name, items, embed in [
        ("images", images, clip.embed_images),
        ("texts", texts, clip.embed_texts),
    ]:
        assert whole[name].shape == (70, 32)
        assert whole[name].dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(whole[name], axis=1), 1, rtol=1e-5)
        for count in (1, 2, 5, 8, 9):
            np.testing.assert_allclose(embed(items[:count]), whole[name][:count], atol=1e-5)
        assert embed([]).shape == (0, 32)
    # However many calls of whatever length: three sizes of batch are compiled.
    assert clip._image._cache_size() == clip._text._cache_size() == 3
    with pytest.raises(UserError, match="give a list"):
        clip.embed_texts("one")


def test_embeddings_equal_the_reference_pipeline(clip_folder):
    import torch

    clip = cma.load_clip(clip_folder)
    texts = ["a photo of a red x", "blue &amp; z"]
    model = transformers.CLIPModel.from_pretrained(clip_folder).eval()
    ids = torch.tensor(clip.tokenizer([clean(text) for text in texts], 16), dtype=torch.long)
    with torch.no_grad():
        expected = model.text_projection(model.text_model(input_ids=ids).pooler_output)
    expected = torch.nn.functional.normalize(expected)
    np.testing.assert_allclose(clip.embed_texts(texts), expected, atol=1e-4)


def test_the_tokenizer_travels_with_the_weights(clip_folder, tmp_path):
    ours, back = tmp_path / "ours", tmp_path / "back"
    assert main(["convert", f"--source={clip_folder}", f"--output={ours}"]) == 0
    assert main(["convert", f"--source={ours}", f"--output={back}", "--to=huggingface"]) == 0
    texts = ["a photo of a red x", "blue"]
    expected = cma.load_clip(clip_folder).embed_texts(texts)
    for folder in (ours, back):
        np.testing.assert_allclose(cma.load_clip(folder).embed_texts(texts), expected, atol=1e-6)
    found = transformers.AutoTokenizer.from_pretrained(back)(texts, padding="max_length")
    ids = cma.load_clip(clip_folder).tokenizer(texts, 16)
    np.testing.assert_array_equal(found["input_ids"], ids)
    bare = cma.load_clip(ours)
    bare.tokenizer = None
    with pytest.raises(UserError, match=r"put its tokenizer\.json"):
        bare.embed_texts(["x"])
