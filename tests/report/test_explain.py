"""What an answer rests on: the heat of patches, and answers measured with less to see."""

import base64
import copy
import dataclasses
import functools
import io
import shutil

import jax
import numpy as np
import pytest
from PIL import Image
from support.commands import mistake
from support.exports import variant
from support.pages import check_page
from support.tables import read_csv

import cmaclip_jax as cma
from cmaclip_jax.data.pairs import Pair
from cmaclip_jax.data.text import train_tokenizer
from cmaclip_jax.errors import UserError
from cmaclip_jax.evaluation.result_files import read_outcome
from cmaclip_jax.main import main
from cmaclip_jax.models.relevance import patch_relevance
from cmaclip_jax.report import gradient_heat, occlusion_heat
from cmaclip_jax.report.explainer import Explainer
from cmaclip_jax.report.pages import explain_page
from cmaclip_jax.report.pair_card import heat_png
from cmaclip_jax.serving.classifier import Classifier


@pytest.fixture(scope="module")
def rows(catalogue):
    """The test rows of the catalogue."""
    return [row for row in read_csv(catalogue) if row["split"] == "test"]


@pytest.fixture(scope="module")
def model(finished_run):
    return cma.load(finished_run)


@pytest.fixture(scope="module")
def complete(rows, catalogue):
    """Some pairs with both picture and words."""
    some = [row for row in rows if row["picture"] and row["title"]][:3]
    return [Pair(str(catalogue.parent / row["picture"]), row["title"]) for row in some]


@pytest.fixture(scope="module")
def explained(model, complete):
    return list(Explainer(model).explain(["a", "b", "c"], complete))


def test_explained_answers_are_the_predicted_ones(model, complete, explained):
    predicted = model.predict([pair.image for pair in complete], [pair.text for pair in complete])
    for pair, answers in zip(explained, predicted, strict=True):
        for name, answer in answers.items():
            assert pair.answers[name].label == answer.label
            assert pair.answers[name].probability == pytest.approx(answer.probability, abs=1e-6)
            assert pair.answers[name].weights == pytest.approx(answer.weights, abs=1e-6)
        labels = {(task, label) for task, label, _ in pair.asked}
        assert ("colour", answers["colour"].label) in labels
        assert len(labels) == 1 + len(answers["contents"].label)


def chances(model, pictures, texts):
    """The probabilities of every task, one row for each picture."""
    return model.outcome(*_read(model, pictures, texts))["probabilities"]


def test_gradient_heat_is_the_relevance_to_the_answered_class(model, complete, monkeypatch):
    """A class whose probability stays without the picture has none."""
    pair, trained = complete[0], model.trained
    classes = {some.name: some.classes for some in model.tasks}
    relevance = jax.jit(functools.partial(patch_relevance, trained.objective.model))
    (said,) = Explainer(model).explain(["a"], [pair])
    assert said.heat == "gradient"
    batch, _ = model.read([pair])
    both, moves = chances(model, [pair.image, None], [pair.text] * 2), []
    for (task, label, _), heat in zip(said.asked, said.heats, strict=True):
        place = classes[task].index(label)
        moves.append(float(abs(np.subtract(*both[task][:, place]))))
        asked = {
            name: np.zeros((len(batch["weight"]), len(some))) for name, some in classes.items()
        }
        asked[task][:, place] = 1
        assert (moves[-1] >= 0.01) == (heat is not None)
        if heat is not None:
            expected = relevance(trained.params, batch, asked)[0]
            np.testing.assert_allclose(heat, expected, rtol=1e-3, atol=1e-7)
    assert max(moves) >= 0.01
    monkeypatch.setattr(gradient_heat, "LEAST", max(moves) - 1e-6)
    (said,) = Explainer(model).explain(["a"], [pair])
    assert [heat is None for heat in said.heats] == [move < max(moves) for move in moves]


def test_occlusion_is_the_fall_where_a_patch_is_painted_over(model, complete, monkeypatch):
    monkeypatch.setattr(occlusion_heat, "AT_ONCE", 10)
    monkeypatch.setattr(occlusion_heat, "LEAST", -1)
    sizes = []

    def track(parts, total, size, **_):
        for part in parts:
            sizes.append(size(part))
            yield part
        assert sum(sizes) == total

    (said,) = Explainer(model, "occlusion", track).explain(["a"], complete[:1])
    assert (said.heat, sizes) == ("occlusion", [10, 10, 10, 6])
    picture = said.shown.picture
    painted = []
    for y in range(0, 48, 8):
        for x in range(0, 48, 8):
            painted.append(picture.copy())
            for colour in range(3):
                painted[-1][y : y + 8, x : x + 8, colour] = round(picture[..., colour].mean())
    after = chances(model, [picture, *painted], [complete[0].text] * 37)
    for (task, label, _), heat in zip(said.asked, said.heats, strict=True):
        classes = next(some.classes for some in model.tasks if some.name == task)
        whole, *others = after[task][:, classes.index(label)]
        np.testing.assert_allclose(heat, whole - others, atol=1e-6)
    assert np.ptp(said.heats[0]) > 1e-5


def test_what_hardly_falls_is_not_shown(model, complete, monkeypatch):
    monkeypatch.setattr(occlusion_heat, "LEAST", 2.0)
    (said,) = Explainer(model, "occlusion").explain(["a"], complete[:1])
    assert set(said.heats) == {None}
    page = check_page(explain_page([said], "", ""))
    assert "Not shown, because no patch lowers them" in page.text
    assert not [x for x in page.all("img") if x["src"].startswith("data:image/png")]


def test_a_model_without_heads_has_the_heat_of_occlusion(finished_run, complete):
    clip = Classifier(variant(finished_run, **{"train.objective": "contrastive"}), {})
    (said,) = Explainer(clip).explain(["a"], complete[:1])
    assert said.heat == "occlusion"
    assert len(said.heats) == len(said.asked)
    with pytest.raises(UserError, match="take --heat=occlusion"):
        Explainer(clip, "gradient")


def test_pairs_without_pictures_and_models_without_them_have_no_heat(model, complete):
    assert not next(Explainer(model).explain(["a"], [Pair(None, complete[0].text)])).heats
    explainer = Explainer(only(model, "text"))
    assert explainer.why_no_heat == "this model reads no picture"
    assert not next(explainer.explain(["a"], complete[:1])).heats


def test_words_that_the_model_does_not_read_are_named(model):
    (said,) = Explainer(model).explain(["a"], [Pair(None, "red mug " * 20)])
    assert 0 < len(said.unread) < 40
    assert "Not read, the text was cut: " in check_page(explain_page([said], "", "")).text


def test_the_veil_is_thinnest_over_the_hottest_patch():
    source = heat_png(np.array([0.5, -1.0, 0.25, 0.0]))
    png = Image.open(io.BytesIO(base64.b64decode(source.split(",")[1])))
    thickness = np.asarray(png)[..., 3]
    assert (thickness.argmin(), thickness.min()) == (0, 0)
    assert thickness[0, 1] == thickness[1, 1] == thickness.max()
    assert 0 < thickness[1, 0] < thickness.max()


def test_what_a_word_changes_is_what_is_answered_without_it(model, complete, explained):
    for pair, said in zip(complete, explained, strict=True):
        words, read = pair.text.split(), read_words(pair.text, said)
        assert [name for name, _ in said.without] == [*read, "all words", "the picture"]
        texts = [" ".join(words[:n] + words[n + 1 :]) for n in range(len(read))]
        pictures = [pair.image] * (len(texts) + 1) + [None]
        outcome = model.outcome(*_read(model, pictures, [*texts, None, pair.text]))
        for column, (task, label, before) in enumerate(said.asked):
            classes = next(some.classes for some in model.tasks if some.name == task)
            now = outcome["probabilities"][task][:, classes.index(label)]
            np.testing.assert_allclose([row[column] for _, row in said.without], now, atol=1e-6)
            answer = said.answers[task]
            if task == "colour":
                assert before == pytest.approx(answer.probability, abs=1e-6)


@pytest.mark.parametrize("inputs", ["image", "text"])
def test_nothing_changes_without_what_the_model_does_not_read(model, complete, inputs):
    said = next(Explainer(only(model, inputs)).explain(["a"], complete[:1]))
    read = read_words(complete[0].text, said)
    assert [name for name, _ in said.without] == (read if inputs == "text" else [])


def only(model, inputs: str):
    """The model, as if it read this modality alone."""
    config = copy.deepcopy(model.trained.config)
    config.model.inputs = inputs
    predictor = dataclasses.replace(model.trained.predictor, config=config)
    return Classifier(dataclasses.replace(model.trained, predictor=predictor), {})


def read_words(text: str, said) -> list[str]:
    words = text.split()
    return words[: len(words) - len(said.unread)]


def _read(model, pictures, texts):
    pairs = [Pair(picture, text) for picture, text in zip(pictures, texts, strict=True)]
    batch, notes = model.read(pairs)
    return batch, len(notes)


@pytest.mark.parametrize(
    "text",
    ["red mug", "  a   Red\tmug ", "caf\u00e9 cr\u00e8me!", "fish &amp; chips", "", None, "x" * 90],
)
def test_every_token_belongs_to_one_word(text):
    tokenizer = train_tokenizer(["red mug", "a café", "fish & chips"], 300)
    ids = tokenizer([text], 64)[0]
    count = min(list(ids).index(tokenizer.end) - 1, 62)
    places = tokenizer.places(text, 64)
    assert [at for _, some in places for at in some] == list(range(1, count + 1))
    for word, at in places:
        assert word.lower().startswith(tokenizer.backend.decode(list(ids[at])).strip())


@pytest.fixture
def explain(finished_run, catalogue, tmp_path):
    def run(rows, *more):
        output = tmp_path / "explain.html"
        command = ["explain", f"--workdir={finished_run}", f"--input={catalogue}"]
        assert main([*command, f"--rows={rows}", f"--output={output}", *map(str, more)]) == 0
        return check_page(output.read_text())

    return run


def test_a_page_shows_the_rows_that_were_asked_for(explain, catalogue, finished_run):
    table = read_csv(catalogue)
    test = [number for number, row in enumerate(table, 1) if row["split"] == "test"]
    outcome = read_outcome(finished_run, "test")
    whole = next(n for n in test if table[n - 1]["picture"] and table[n - 1]["title"])
    other = next(row for row in table if not row["picture"])
    page = explain(f"{whole},{other['id']}")
    names = [name for name in page.tables if name.startswith("Answers on ")]
    identity = table[whole - 1]["id"]
    assert names[0] == f"Answers on row {whole} ({identity})"
    assert names[1].endswith(f" ({other['id']})")
    head, *rows = page.tables[names[0]]
    answered = dict(zip(head, rows[0], strict=True))
    said = outcome["probabilities"]["colour"][test.index(whole)]
    assert answered["probability"] == f"{said.max():.3f}"
    assert "accepted" not in answered  # the run has no thresholds
    assert "no picture" in page.texts
    assert "This is no proof for real pictures, nor for this model." in page.text
    assert "Where the model looks for each answer" in page.texts
    shown = [x for x in page.all("img") if x["alt"].startswith("Patches behind ")]
    veils = [x for x in page.all("img") if x["src"].startswith("data:image/png")]
    assert len(shown) == len(veils)
    asked = page.tables[f"What changes on row {whole} ({identity}) when something is left out"][0]
    for picture in shown:
        assert picture["alt"].removeprefix("Patches behind ") in asked
    changes = page.tables[f"What changes on row {whole} ({identity}) when something is left out"]
    assert len(changes) > 4  # head, as it is, all words, picture


def test_a_page_lies_in_the_folder_of_the_run(
    finished_run, catalogue, tmp_path, monkeypatch, capsys
):
    run, elsewhere = shutil.copytree(finished_run, tmp_path / "run"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert main(["explain", f"--workdir={run}", f"--input={catalogue}", "--rows=1"]) == 0
    assert f"written to {run}/explain.html" in capsys.readouterr().err
    check_page((run / "explain.html").read_text())
    assert not list(elsewhere.iterdir())


def test_a_page_shows_the_heat_that_was_asked_for(explain):
    assert "is painted over with the picture's mean colour" not in explain("row:1").text
    assert "Not shown, because no patch lowers" in explain("row:1", "--heat=occlusion").text


def test_a_row_is_meant_by_number_or_id_and_never_by_guess(
    finished_run, catalogue, tmp_path, capsys
):
    row = next(row for row in read_csv(catalogue) if row["picture"] and row["title"])
    table = catalogue.parent / "numbered.csv"
    pair = f"{row['picture']},{row['title']}\n"
    table.write_text(f"id,picture,title\n7,{pair}1,{pair}too,many,cells,here\nq,{pair}q,{pair}")
    output = tmp_path / "page.html"
    command = ["explain", f"--workdir={finished_run}", f"--input={table}", f"--output={output}"]
    try:
        assert main([*command, "--rows=id:1,7,row:1,3"]) == 0
        page = check_page(output.read_text())
        assert [name.removeprefix("Answers on ") for name in page.tables if "Answers" in name] == [
            "row 2 (1)",
            "row 1 (7)",
            "row 3 (line 4: 4 cells where the head has 3)",
        ]
        assert "'1' means 2 rows (1, 2); write row:1" in mistake(capsys, *command, "--rows=1")
        assert "'q' means 2 rows (4, 5)" in mistake(capsys, *command, "--rows=q")
        says = mistake(capsys, *command, "--rows=2,99")
        assert "has no row '99'; give a number from 1 to 5, or an id of its column id" in says
        assert "--rows names no row" in mistake(capsys, *command, "--rows=,")
    finally:
        table.unlink()


def test_mistakes_end_in_one_line(finished_run, catalogue, tmp_path, capsys):
    command = ["explain", f"--workdir={finished_run}", f"--input={catalogue}", "--rows=1"]
    assert "is no run" in mistake(capsys, *command, f"--workdir={tmp_path}")
    assert "cannot read the table" in mistake(capsys, *command, "--input=nowhere.csv")
    assert "no column 'headline'" in mistake(capsys, *command, "--text=headline")
    nowhere = f"--output={tmp_path}/nowhere/page.html"
    assert "name another file with --output" in mistake(capsys, *command, nowhere)
    run = shutil.copytree(finished_run, tmp_path / "run")
    shutil.rmtree(run / "checkpoints")
    assert "no checkpoint in" in mistake(capsys, *command, f"--workdir={run}")
