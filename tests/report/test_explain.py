"""What an answer rests on: the model's own attention, and answers measured with less to see."""

import copy
import dataclasses
import shutil

import jax
import numpy as np
import pytest
from support.commands import mistake
from support.exports import variant
from support.pages import check_page
from support.small import apply
from support.tables import read_csv

import cmaclip_jax as cma
from cmaclip_jax.data.pairs import Pair
from cmaclip_jax.data.text import train_tokenizer
from cmaclip_jax.evaluation.result_files import read_outcome
from cmaclip_jax.main import main
from cmaclip_jax.report import explainer as explaining
from cmaclip_jax.report.explainer import Explainer
from cmaclip_jax.report.word_heat import make_map_step, sentence_heat, word_heat
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


def test_answers_with_maps_are_the_answers_without(model, objective, params, batch):
    plain = jax.jit(objective.predict)(params, batch)
    told = jax.jit(lambda *x: objective.predict(*x, with_maps=True))(params, batch)
    maps = told.pop("attention_maps")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), plain, told)
    theirs = apply(objective.model, params, batch, with_maps=True)[1]["attention_maps"]
    np.testing.assert_allclose(maps, np.moveaxis(theirs, 1, 0), atol=1e-5)


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


def attention_maps(model, pair):
    trained = model.trained
    batch, _ = model.read([pair])
    step = make_map_step(trained.objective, trained.mesh, trained.params)
    return batch, model.outcome(batch, 1, step)["attention_maps"][0]


def test_heat_is_the_attention_of_a_words_own_tokens(finished_run, complete):
    trained = variant(finished_run, **{"model.sequence_layers": 2})
    model, encode = Classifier(trained, {}), trained.encode
    (explained,) = Explainer(model).explain(["a"], complete[:1])
    batch, maps = attention_maps(model, complete[0])
    assert maps.shape == (2, encode.text_length, (encode.image_size // 8) ** 2)
    places = encode.tokenizer.places(complete[0].text, encode.text_length)
    assert [word.text for word in explained.words] == complete[0].text.split()
    for word, (_, at) in zip(explained.words, places, strict=True):
        assert word.read == bool(at)
        if not at:
            assert word.heat is None
            continue
        np.testing.assert_allclose(word.heat, maps[0, at].mean(axis=0), atol=1e-6)
        assert 0 < word.heat.sum() < 1
    end = list(batch["tokens"][0]).index(encode.tokenizer.end)
    np.testing.assert_allclose(explained.sentence, maps[1, end], atol=1e-6)


def test_of_one_layer_only_the_whole_text_has_heat(model, complete, explained):
    """What words attend to in the last layer reaches no answer: their tokens are not read out."""
    batch, maps = attention_maps(model, complete[0])
    assert len(maps) == 1
    assert {word.heat for word in explained[0].words} == {None}
    assert [word.text for word in explained[0].words] == complete[0].text.split()
    end = list(batch["tokens"][0]).index(model.trained.encode.tokenizer.end)
    np.testing.assert_allclose(explained[0].sentence, maps[0, end], atol=1e-6)


def test_heat_leaves_out_the_layer_that_nobody_reads():
    maps = np.random.default_rng(0).random((3, 5, 4))
    np.testing.assert_allclose(word_heat(maps, [1, 2]), maps[:2, 1:3].mean(axis=(0, 1)))
    np.testing.assert_allclose(sentence_heat(maps, 4), maps[2, 4])
    assert word_heat(maps[:1], [1, 2]) is None


def test_what_a_word_changes_is_what_is_answered_without_it(model, complete, explained):
    for pair, said in zip(complete, explained, strict=True):
        words = pair.text.split()
        read = [number for number, word in enumerate(said.words) if word.read]
        names = [name for name, _ in said.without]
        assert names == [*(words[number] for number in read), "all words", "the picture"]
        texts = [" ".join(words[:n] + words[n + 1 :]) for n in read]
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
    config = copy.deepcopy(model.trained.config)
    config.model.inputs = inputs
    predictor = dataclasses.replace(model.trained.predictor, config=config)
    one = Classifier(dataclasses.replace(model.trained, predictor=predictor), {})
    said = next(Explainer(one).explain(["a"], complete[:1]))
    read = [word.text for word in said.words if word.read]
    assert [name for name, _ in said.without] == (read if inputs == "text" else [])


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
    assert answered["accepted"] == "-"
    assert "no picture" in page.texts
    assert "it does not prove why the answer is what it is" in page.text
    heats = [x for x in page.all("img") if x["src"].startswith("data:image/png")]
    changes = page.tables[f"What changes on row {whole} ({identity}) when something is left out"]
    assert len(heats) == 1  # the whole text's; of one layer no word's attention reaches an answer
    assert len(changes) > 4  # head, as it is, all words, picture
    assert "what its words attend to there reaches no answer" in page.text
    assert "Where each word looks" not in page.texts


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


def test_a_page_without_heat_says_why(explain, monkeypatch):
    monkeypatch.setattr(explaining, "why_no_maps", lambda objective: "it has no such layers")
    page = explain("row:1")
    assert "No heat: it has no such layers." in page.texts
    assert not [x for x in page.all("img") if x["src"].startswith("data:image/png")]


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
