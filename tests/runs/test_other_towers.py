"""CMA-CLIP on the towers of SigLIP, SigLIP 2 and MetaCLIP 2: trained, exported, explained."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.commands import mistake
from support.exports import ask
from support.siglip import save_gemma, save_unigram, save_xlm, small_metaclip, small_siglip
from support.small import apply, initial, make_batch, make_model, make_objective, small_config
from support.tables import read_csv

import cmaclip_jax as cma
from cmaclip_jax.data.text import checkpoint_tokenizer
from cmaclip_jax.main import main
from cmaclip_jax.models import image_encoder, text_encoder
from cmaclip_jax.parallel.mesh import batch_sharding, make_mesh, to_device
from cmaclip_jax.parallel.rules import tree_shardings
from cmaclip_jax.runs.training import train_and_evaluate
from cmaclip_jax.weights.reader import read_weights

KINDS = {
    "siglip": (small_siglip, save_unigram),
    "siglip2": (small_siglip, save_gemma),
    "metaclip": (small_metaclip, save_xlm),
}


@pytest.fixture(scope="module", params=KINDS)
def source(request, tmp_path_factory, catalogue):
    """The folder of a small checkpoint with its tokenizer."""
    make, save_tokenizer = KINDS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    save_tokenizer(folder, [row["title"] for row in read_csv(catalogue)])
    model = make(checkpoint_tokenizer(folder).vocabulary)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run(source, tmp_path_factory, catalogue):
    """A run that started from it."""
    config = small_config()
    config.data.source, config.data.path = "table", str(catalogue)
    config.data.labels, config.data.text_length = ("colour",), -1
    config.model.pretrained, config.train.steps, config.eval.every = str(source), 4, 0
    workdir = tmp_path_factory.mktemp("runs") / source.name
    figures = train_and_evaluate(config, workdir)
    assert figures["tasks"]["colour"]["examples"] > 0
    assert np.isfinite(figures["tasks"]["colour"]["accuracy"])
    alone = figures["slices"]["without_image"]["tasks"]["colour"]
    assert alone["modality_weights"] == {"image": 0.0, "text": 1.0}
    return workdir


def test_a_run_keeps_the_tower_and_answers(run, source, catalogue):
    model = cma.load(run)
    encode, text = model.trained.encode, model.trained.objective.model.text
    if source.name.startswith("siglip"):
        assert text.pooling == "last"
        assert encode.text_length == text.length == 16  # whatever the data needs
    else:
        assert (text.pooling, text.end_token) == ("first_end", 2)
    row = next(row for row in read_csv(catalogue) if row["picture"] and row["title"])
    picture = str(catalogue.parent / row["picture"])
    both, words, neither = model.predict([picture, None, None], [row["title"], "a red mug", None])
    assert sum(both["colour"].weights.values()) == pytest.approx(1)
    assert words["colour"].weights == {"image": 0.0, "text": 1.0}
    assert neither["colour"].label is None


def test_a_run_goes_back_to_transformers(run, source, tmp_path):
    back = tmp_path / "back"
    assert main(["convert", f"--source={run}", f"--output={back}", "--to=huggingface"]) == 0
    ours, theirs = cma.load_clip(run), cma.load_clip(back)
    assert theirs.model.text.clone(end_token=0) == ours.model.text.clone(end_token=0)
    texts = ["a photo of a Red mug", "blue"]
    np.testing.assert_allclose(ours.embed_texts(texts), theirs.embed_texts(texts), atol=1e-6)
    before = read_weights(str(source)).params["text"]["token_embedding"]["embedding"]
    after = read_weights(str(back)).params["text"]["token_embedding"]["embedding"]
    assert before.shape == after.shape
    assert np.abs(before - after).max() > 1e-4


def test_a_run_is_exported_and_explained(run, catalogue, tmp_path):
    folder, page = tmp_path / "exported", tmp_path / "page.html"
    export = ["export", f"--workdir={run}", f"--output={folder}", "--platforms=cpu"]
    assert main(export) == 0
    about = json.loads((folder / "export.json").read_text())
    assert about["parity"]["largest_difference"] <= 1e-5
    assert not (folder / "byte_pairs.py").exists()
    row = next(row for row in read_csv(catalogue) if row["picture"] and row["title"])
    picture, words = catalogue.parent / row["picture"], row["title"].upper() + " & more"
    answer = cma.load(run).predict([str(picture)], [words])[0]["colour"]
    said = ask(folder, picture, words)["colour"]
    label, probability = said.split()[:2]
    assert label == answer.label
    assert float(probability) == pytest.approx(answer.probability, abs=1e-4)
    explain = ["explain", f"--workdir={run}", f"--input={catalogue}", "--rows=1,3"]
    assert main([*explain, f"--output={page}"]) == 0
    assert "<html" in page.read_text()


def test_a_length_that_siglip_does_not_have_is_refused(source, tmp_path, capsys, catalogue):
    if source.name.startswith("metaclip"):
        pytest.skip("it takes texts of any length up to its own")
    command = ["--config=configs/attributes.py", f"--config.data.path={catalogue}"]
    command += [f"--config.model.pretrained={source}", f"--workdir={tmp_path / 'run'}"]
    says = mistake(capsys, *command, "--config.data.text_length=12")
    assert "takes 16 tokens, no more and no fewer" in says


def siglip_model(**fields):
    """A CMA-CLIP on SigLIP's towers that compiles in a second."""
    return make_model(**fields).clone(
        image=image_encoder("test/8", pooling="attention"),
        text=text_encoder("test/8", vocabulary=50, pooling="last", end_token=1),
    )


def test_an_absent_modality_has_weight_and_gradient_zero():
    model, batch = siglip_model(), make_batch()
    params = initial(model)
    _, aux = apply(model, params, batch)
    for weights in aux["modality_weights"].values():
        assert np.all(np.asarray(weights)[~batch["has_image"], 0] == 0)
        assert np.all(np.asarray(weights)[~batch["has_text"], 1] == 0)
    image = model.image.apply({"params": params["image"]}, batch["image"])[0]
    text = model.text.apply({"params": params["text"]}, batch["tokens"])[0]

    def everything(image_tokens, text_tokens):
        given = {**batch, "image_tokens": image_tokens, "text_tokens": text_tokens}
        logits, _ = model.apply({"params": params}, given)
        return sum(jnp.sum(x**2) for x in logits.values())

    of_image, of_text = jax.jit(jax.grad(everything, (0, 1)))(image, text)
    for gradient, there in ((of_image, batch["has_image"]), (of_text, batch["has_text"])):
        assert np.all(np.asarray(gradient)[~there] == 0)
        assert np.all(np.abs(np.asarray(gradient)[there]).max(axis=(1, 2)) > 0)


def test_a_mesh_of_eight_devices_gives_the_answers_of_one():
    objective, batch = make_objective(siglip_model()), make_batch()
    params = initial(objective.model)

    def answers(mesh):
        shardings = tree_shardings(params, mesh), batch_sharding(mesh)
        predict = jax.jit(objective.predict, in_shardings=shardings)
        return predict(params, to_device(batch, shardings[1]))["probabilities"]

    found, expected = answers(make_mesh(2, 2, 2)), answers(make_mesh(1, 1, 1, jax.devices()[:1]))
    for task in expected:
        np.testing.assert_allclose(found[task], expected[task], atol=1e-5)


def test_padding_is_seen_and_the_first_image_token_is_the_pooled_one():
    """Sequence-wise attention reads both summaries, and sees every position of the text."""
    model, batch = siglip_model(), make_batch()
    params = initial(model)
    _, aux = apply(model, params, batch, with_maps=True)
    maps = np.asarray(aux["attention_maps"])  # [L,B,T,P]
    there = batch["has_image"] & batch["has_text"]
    assert maps.shape[2:] == (12, 4)
    assert np.all(maps[:, there].sum(axis=-1) > 0)
    _, pooled = model.image.apply({"params": params["image"]}, batch["image"])
    np.testing.assert_allclose(aux["image_pooled"], pooled, atol=1e-5)
    text, pooled = model.text.apply({"params": params["text"]}, batch["tokens"])
    np.testing.assert_allclose(aux["text_pooled"], pooled, atol=1e-5)
    np.testing.assert_allclose(pooled, text[:, -1])
