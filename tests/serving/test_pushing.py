"""A run for others: the pushed folder answers as the run does, and its card says what is true."""

import json
import re
import shlex
import shutil
import types
from pathlib import Path

import httpx
import huggingface_hub
import numpy as np
import pytest
import yaml
from flax.traverse_util import flatten_dict
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)
from markdown_it import MarkdownIt
from safetensors.numpy import load_file
from support.commands import mistake
from support.tables import read_csv
from support.thresholds import copy_with_thresholds

import cmaclip_jax as cma
from cmaclip_jax.main import main
from cmaclip_jax.tasks import read_tasks
from cmaclip_jax.training.saved_parameters import checkpoint_parameters, read_parameters

TEXTS = ["a red mug", "a blue striped hat", None]
FILES = {
    "README.md",
    "config.json",
    "evaluation/test.json",
    "model.safetensors",
    "tasks.json",
    "thresholds.json",
    "tokenizer.json",
    "version.txt",
}


@pytest.fixture(scope="module")
def run(finished_run, tmp_path_factory):
    """A copy of the finished run, with thresholds."""
    return copy_with_thresholds(finished_run, tmp_path_factory.mktemp("home") / "run", 0.5)


@pytest.fixture(scope="module")
def pushed(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("place") / "pushed"
    assert main(["push", f"--workdir={run}", f"--to={folder}", "--licence=CC-BY-4.0"]) == 0
    return folder


@pytest.fixture(scope="module")
def pictures(catalogue):
    return [*sorted((catalogue.parent / "images").glob("*.png"))[:2], None]


@pytest.fixture(scope="module")
def expected(run, pictures):
    """The run's own answers."""
    return cma.load(run).predict(pictures, TEXTS)


def files_in(folder):
    return {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()}


def test_a_pushed_folder_answers_as_the_run(run, pushed, pictures, expected):
    assert files_in(pushed) == FILES
    assert cma.load(pushed).predict(pictures, TEXTS) == expected  # to the last bit
    assert expected[0]["colour"].accepted is not None
    saved = flatten_dict(checkpoint_parameters(run, 12), sep="/")
    found = load_file(pushed / "model.safetensors")
    assert found.keys() == saved.keys()
    for name, value in saved.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], value)


def test_every_verb_opens_a_pushed_folder(run, pushed, catalogue, tmp_path):
    for name, workdir in (("ours", run), ("theirs", pushed)):
        command = ["predict", f"--workdir={workdir}", f"--input={catalogue}"]
        assert main([*command, f"--output={tmp_path / name}.csv"]) == 0
    assert (tmp_path / "ours.csv").read_bytes() == (tmp_path / "theirs.csv").read_bytes()
    copy = shutil.copytree(pushed, tmp_path / "copy")
    (copy / "evaluation/test.json").unlink()
    assert main(["evaluate", f"--workdir={copy}", f"--config.data.path={catalogue}"]) == 0
    expected = (run / "evaluation/test.json").read_text()
    assert (copy / "evaluation/test.json").read_text() == expected
    assert main(["report", f"--workdir={copy}", f"--config.data.path={catalogue}"]) == 0
    ours, theirs = cma.load_clip(run), cma.load_clip(pushed)
    np.testing.assert_array_equal(ours.embed_texts(TEXTS[:2]), theirs.embed_texts(TEXTS[:2]))
    again = tmp_path / "again"
    assert main(["push", f"--workdir={pushed}", f"--to={again}"]) == 0
    assert files_in(again) == FILES
    for name in FILES - {"README.md"}:
        assert (again / name).read_bytes() == (pushed / name).read_bytes(), name


def test_the_parameters_that_answer_are_pushed(finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run")
    soup = {k: v + 1 for k, v in flatten_dict(checkpoint_parameters(run, 12), sep="/").items()}
    np.savez(run / "checkpoints/12/soup.npz", **soup)
    shutil.copytree(run / "checkpoints/12", run / "checkpoints/7")
    (run / "checkpoints/7/soup.npz").unlink()
    assert main(["push", f"--workdir={run}", f"--to={tmp_path / 'soup'}"]) == 0
    step, params = read_parameters(tmp_path / "soup")
    assert step == 12
    for name, value in flatten_dict(params, sep="/").items():
        np.testing.assert_array_equal(value, soup[name])
    command = ["push", f"--workdir={run}", "--checkpoint=7", f"--to={tmp_path / 'seven'}"]
    assert main(command) == 0
    assert read_parameters(tmp_path / "seven")[0] == 7
    assert "evaluation/test.json" not in files_in(tmp_path / "seven")  # it is of step 12
    assert "No figures came with step 7" in (tmp_path / "seven/README.md").read_text()


def test_no_path_of_the_machine_leaves_it(finished_run, pushed, catalogue, tmp_path):
    assert json.loads((pushed / "config.json").read_text())["data"]["path"] == "products.csv"
    for name in FILES - {"model.safetensors"}:
        text = (pushed / name).read_text()
        for home in (catalogue.parent, finished_run, Path.home()):
            assert str(home) not in text, name
    run = shutil.copytree(finished_run, tmp_path / "run")
    for saved, kept in (("/home/me/clip/", "clip"), ("openai/clip", "openai/clip")):
        config = json.loads((run / "config.json").read_text())
        config["model"]["pretrained"] = saved
        (run / "config.json").write_text(json.dumps(config))
        (run / "clip.json").write_text(described(run))
        assert main(["push", f"--workdir={run}", f"--to={tmp_path / kept.replace('/', '-')}"]) == 0
        found = json.loads((tmp_path / kept.replace("/", "-") / "config.json").read_text())
        assert found["model"]["pretrained"] == kept


def described(run):
    """The description of the run's encoders, as a run from pretrained weights has it."""
    from cmaclip_jax.models import CLIP
    from cmaclip_jax.runs.towers import new_towers
    from cmaclip_jax.training.workdir import saved_config
    from cmaclip_jax.weights.description import describe

    config = saved_config(run)
    config.model.pretrained = ""
    towers = new_towers(config)
    return json.dumps(describe(CLIP(towers.image, towers.text)))


# ---- the card


def test_the_card_says_what_is_in_the_run(run, pushed):
    card = (pushed / "README.md").read_text()
    front, body = re.fullmatch(r"---\n(.*?)\n---\n(.*)", card, re.DOTALL).groups()
    front = yaml.safe_load(front)
    assert front["license"] == "cc-by-4.0"
    assert front["library_name"] == "cmaclip_jax"
    figures = json.loads((run / "evaluation/test.json").read_text())
    thresholds = json.loads((run / "thresholds.json").read_text())["thresholds"]
    for task, chosen in zip(read_tasks(run / "tasks.json"), thresholds, strict=True):
        assert ", ".join(task.classes[:12]) in body
        row = re.search(rf"^\| {task.name} \| \d.*$", body, re.MULTILINE)[0].split(" | ")
        assert row[2] == f"{figures['tasks'][task.name]['accuracy']:.3f}"
        value = chosen["overall"]["value"]
        shown = "nothing is accepted" if value is None else f"{value:.3f}"
        assert f"| {task.name} | {shown} | {chosen['temperature']:.3f} |" in body
    assert f"On {figures['examples']:,} pairs with both picture and text" in body
    assert "so that 50 % of the accepted answers are right" in body
    assert "nothing is promised" in body
    assert "a table: products.csv" in body
    assert "--config.train.steps=12\n" in body


def test_the_instructions_of_the_card_work(pushed, catalogue, pictures, tmp_path, monkeypatch):
    copy = shutil.copytree(pushed, tmp_path / "pushed")
    shutil.copyfile(pictures[0], tmp_path / "photo.jpg")
    body = (copy / "README.md").read_text()
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(re.search(r"```python\n(.*?)```", body, re.DOTALL)[1], names)
    (expected,) = cma.load(pushed).predict([pictures[0]], ["its words"])
    assert names["answer"] in expected.values()
    found = re.search(r"^cmaclip (predict .*?[^\\])$", body, re.MULTILINE | re.DOTALL)[1]
    command = shlex.split(found.replace("\\\n", " "))
    values = {"--input": catalogue, "--image": "picture", "--text": "title"}
    given = [f"{a}={values.get(a, b)}" for a, _, b in (x.partition("=") for x in command[1:])]
    assert main(["predict", *given]) == 0
    assert len(read_csv(tmp_path / "answers.csv")) == len(read_csv(catalogue))


def test_names_of_classes_are_shown_as_they_are(finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run")
    shutil.rmtree(run / "evaluation")
    tasks = json.loads((run / "tasks.json").read_text())
    odd = ["a|b", "<script>alert(1)</script>", "*bold* _x_", "`c` [d](e)", "&amp; # $x$", "\\"]
    odd += [f"class {number}" for number in range(len(tasks["tasks"][0]["classes"]) - len(odd))]
    names = odd[: len(tasks["tasks"][0]["classes"])]
    tasks["tasks"][0]["classes"] = names
    (run / "tasks.json").write_text(json.dumps(tasks))
    assert main(["push", f"--workdir={run}", f"--to={tmp_path / 'odd'}"]) == 0
    body = (tmp_path / "odd/README.md").read_text().split("---\n", 2)[2]
    tokens = MarkdownIt("commonmark").enable("table").parse(body)
    assert not any(token.type == "html_block" for token in tokens)
    cells = [token.children for token in tokens if token.type == "inline"]
    assert not any(part.type == "html_inline" for cell in cells for part in cell)
    shown = ["".join(part.content for part in cell) for cell in cells]
    assert ", ".join(names[:12]) in shown
    assert "None was stated" in body
    assert "This model has no thresholds" in body


def test_the_card_of_a_model_of_words_speaks_of_words(finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["model"]["inputs"] = "text"
    (run / "config.json").write_text(json.dumps(config))
    assert main(["push", f"--workdir={run}", f"--to={tmp_path / 'words'}"]) == 0
    card = (tmp_path / "words/README.md").read_text()
    assert "pipeline_tag: text-classification" in card
    assert "This model reads words, and answers 2 questions about them." in card
    assert 'predict(texts=["its words"])' in card
    assert "pixels." not in card


# ---- the hub


class Hub:
    """In the place of the Hugging Face hub: repositories are folders."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.private, self.reached, self.fails = folder, {}, True, None
        for name in ("create_repo", "upload_folder", "model_info"):
            stand_in = getattr(self, name)
            monkeypatch.setattr(
                huggingface_hub.HfApi, name, lambda _, *a, do=stand_in, **k: do(*a, **k)
            )
        monkeypatch.setattr(huggingface_hub, "model_info", self.model_info)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.snapshot_download)

    def create_repo(self, name, private, exist_ok):
        if self.fails:
            raise self.fails
        assert exist_ok
        if name not in self.private:
            self.private[name] = private
            (self.folder / name).mkdir(parents=True)
            (self.folder / name / ".gitattributes").write_text("")
        return f"https://huggingface.co/{name}"

    def model_info(self, name, revision=None, timeout=None):
        if not self.reached or name not in self.private:
            raise ConnectionError("not reached")
        siblings = [types.SimpleNamespace(rfilename=x) for x in files_in(self.folder / name)]
        return types.SimpleNamespace(siblings=siblings, private=self.private[name])

    def upload_folder(self, repo_id, folder_path, commit_message, delete_patterns):
        there = self.folder / repo_id
        for pattern in delete_patterns:
            for file in there.glob(pattern):
                file.unlink()
        shutil.copytree(folder_path, there, dirs_exist_ok=True)

    def snapshot_download(self, name, revision, allow_patterns, local_files_only):
        cached = self.folder / "cache" / name / (revision or "main")
        if local_files_only:
            if not cached.exists():
                raise FileNotFoundError(name)
            return str(cached)
        for pattern in allow_patterns:
            for file in (self.folder / name).glob(pattern):
                copy = cached / file.relative_to(self.folder / name)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
        return str(cached)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Hub(tmp_path / "hub", monkeypatch)


def test_what_is_pushed_to_the_hub_is_read_back(
    run, hub, pictures, expected, catalogue, tmp_path, capsys
):
    assert main(["push", f"--workdir={run}", "--to=me/shop"]) == 0
    assert "https://huggingface.co/me/shop" in capsys.readouterr().out
    there = hub.folder / "me/shop"
    assert files_in(there) == FILES | {".gitattributes"}
    assert hub.private == {"me/shop": True}
    assert 'cma.load("me/shop")' in (there / "README.md").read_text()
    assert "--workdir=hf://me/shop" in (there / "README.md").read_text()
    (there / "evil.py").write_text("")
    assert cma.load("me/shop").predict(pictures, TEXTS) == expected
    assert cma.load("hf://me/shop@v1").predict(pictures, TEXTS) == expected
    assert files_in(hub.folder / "cache/me/shop/main") == FILES - {"README.md"}
    hub.reached = False  # the cache is read instead
    assert cma.load("me/shop").predict(pictures, TEXTS) == expected
    command = ["predict", f"--input={catalogue}", f"--output={tmp_path / 'out.csv'}"]
    assert main([*command, "--workdir=hf://me/shop"]) == 0
    assert len(read_csv(tmp_path / "out.csv")) == len(read_csv(catalogue))
    np.testing.assert_array_equal(
        cma.load_clip("me/shop").embed_texts(TEXTS[:2]), cma.load_clip(run).embed_texts(TEXTS[:2])
    )
    for verb in ("evaluate", "report", "robustness"):
        says = mistake(capsys, verb, "--workdir=hf://me/shop@v1")
        assert "`hf download me/shop --revision=v1 --local-dir=DIR`" in says


def test_a_second_push_leaves_nothing_of_the_first(run, hub, tmp_path):
    assert main(["push", f"--workdir={run}", "--to=hf://me/shop", "--public"]) == 0
    assert hub.private == {"me/shop": False}
    without = shutil.copytree(run, tmp_path / "without")
    (without / "thresholds.json").unlink()
    assert main(["push", f"--workdir={without}", "--to=me/shop", "--public"]) == 0
    expected = FILES - {"thresholds.json"} | {".gitattributes"}
    assert files_in(hub.folder / "me/shop") == expected


def test_a_folder_of_that_name_is_no_repository(run, hub, pictures, expected, tmp_path):
    assert main(["push", f"--workdir={run}", "--to=./one"]) == 0
    (tmp_path / "me").mkdir()
    assert main(["push", f"--workdir={run}", "--to=me/shop"]) == 0
    assert not hub.private
    assert files_in(tmp_path / "one") == files_in(tmp_path / "me/shop") == FILES
    assert cma.load("me/shop").predict(pictures, TEXTS) == expected


def refused(status):
    """The error of the hub's client for a status of HTTP."""
    response = httpx.Response(status, request=httpx.Request("POST", "https://huggingface.co"))
    return HfHubHTTPError(f"{status} Client Error", response=response)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (refused(401), "log in with `hf auth login`"),
        (LocalTokenNotFoundError("no token"), "set HF_TOKEN"),
        (refused(403), "take a token that may"),
        (ConnectionError("no route to host"), "no route to host; try again, or write the same"),
        (OfflineModeIsEnabled("offline"), "with --to=./FOLDER"),
    ],
)
def test_what_the_hub_refuses_ends_in_one_line(run, hub, capsys, error, says):
    hub.fails = error
    line = mistake(capsys, "push", f"--workdir={run}", "--to=me/shop")
    assert "nothing is pushed to me/shop" in line
    assert says in line


def test_nothing_is_pushed_by_accident(run, pushed, hub, tmp_path, capsys):
    command = ["push", f"--workdir={run}"]
    hub.create_repo("me/clip", private=True, exist_ok=True)
    (hub.folder / "me/clip/pytorch_model.bin").write_text("")
    assert "holds something else (pytorch_model.bin)" in mistake(capsys, *command, "--to=me/clip")
    hub.create_repo("me/open", private=False, exist_ok=True)
    assert "me/open on the hub is public; add --public" in mistake(capsys, *command, "--to=me/open")
    assert files_in(hub.folder / "me/open") == {".gitattributes"}
    assert "is there already; name another --to" in mistake(capsys, *command, f"--to={pushed}")
    assert "leave it out for a folder" in mistake(capsys, *command, "--to=one", "--public")
    assert "write --to=hf://ORG/NAME" in mistake(capsys, *command, "--to=hf://shop")
    assert "is one word" in mistake(capsys, *command, "--to=one", "--licence=a: b")
    other = shutil.copytree(run, tmp_path / "other")
    text = (other / "thresholds.json").read_text().replace('"step": null', '"step": 6')
    (other / "thresholds.json").write_text(text)
    says = mistake(capsys, "push", f"--workdir={other}", "--to=one")
    assert "was chosen on answers of step 6" in says
    assert not (tmp_path / "one").exists()


def test_what_is_no_pushed_run_says_so(pushed, hub, catalogue, tmp_path, capsys):
    hub.create_repo("me/clip", private=True, exist_ok=True)
    (hub.folder / "me/clip/config.json").write_text("{}")
    command = ["predict", f"--input={catalogue}", "--output=out.csv"]
    says = mistake(capsys, *command, "--workdir=hf://me/clip")
    assert "hf://me/clip holds no run that `cmaclip push` wrote" in says
    assert "write hf://ORG/NAME" in mistake(capsys, *command, "--workdir=hf://clip")
    with pytest.raises(cma.UserError, match="the Hugging Face hub has no such name"):
        cma.load("me/nothing")
    with pytest.raises(cma.UserError, match=r"no checkpoint 5 .* or one of 12"):
        cma.load(pushed, checkpoint=5)
    for name in ("model.safetensors", "tasks.json", "tokenizer.json", "config.json"):
        copy = shutil.copytree(pushed, tmp_path / f"without-{name}")
        whole = (copy / name).read_bytes()
        (copy / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(cma.UserError, match=re.escape(name)):
            cma.load(copy)


def test_a_pushed_run_learns_no_more(pushed, capsys):
    before = files_in(pushed)
    config = f"--config={Path(__file__).parents[2] / 'configs/quickstart.py'}"
    says = mistake(capsys, config, f"--workdir={pushed}")
    assert "holds a pushed run, which answers and learns no more" in says
    assert f"--config.model.pretrained={pushed}" in says
    assert files_in(pushed) == before
