"""Runs that tune adapters: what learns, what is kept, and what comes out of the folder."""

import os
import signal

import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from support.commands import QUICKSTART, mistake

import cmaclip_jax as cma
from cmaclip_jax.config import with_changes
from cmaclip_jax.errors import Interrupted, UserError
from cmaclip_jax.main import main
from cmaclip_jax.models.adapters import LORA
from cmaclip_jax.runs.adapter_folder import without_other_heads
from cmaclip_jax.runs.data import RunData
from cmaclip_jax.runs.towers import open_towers
from cmaclip_jax.runs.training import train_and_evaluate
from cmaclip_jax.tasks import Task, write_tasks
from cmaclip_jax.training.saved_parameters import read_parameters
from cmaclip_jax.weights.reader import read_weights


@pytest.fixture
def config(config, clip_folder):
    """A run with adapters, of one task: every head takes time to compile."""
    config.model.pretrained = str(clip_folder)
    config.model.lora.rank = 2
    config.model.lora.rules = (".*/(query|value|mlp_up)",)
    config.data.labels = ("colour",)
    config.data.text_length = 0
    config.train.ema = 0.9
    config.train.accumulate = 2
    config.train.batch_size = 16
    config.train.learning_rate = 1e-2
    return config


def leaves(workdir):
    return flatten_dict(read_parameters(workdir)[1], sep="/")


def stop_at(monkeypatch, step):
    """Sends SIGTERM while the batch of a step is made."""
    whole = RunData.train_batches

    def watched(self, start, params):
        for number, batch in enumerate(whole(self, start, params), start):
            if number == step:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    monkeypatch.setattr(RunData, "train_batches", watched)


def test_a_stopped_run_with_adapters_ends_bit_equal(config, tmp_path, monkeypatch, clip_folder):
    config.mesh.data = 8
    train_and_evaluate(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_at(patch, 4)
        with pytest.raises(Interrupted):
            train_and_evaluate(config, tmp_path / "parts")
    train_and_evaluate(config, tmp_path / "parts")
    whole, parts = leaves(tmp_path / "whole"), leaves(tmp_path / "parts")
    assert set(whole) == set(parts)
    for path, leaf in whole.items():
        np.testing.assert_array_equal(parts[path], leaf, err_msg=path)
    # The encoders are still the pretrained ones, and their adapters are not.
    base = flatten_dict(read_weights(str(clip_folder)).params, sep="/")
    for path, leaf in whole.items():
        if path.startswith(("image/stack", "text/stack")) and LORA not in path:
            np.testing.assert_array_equal(leaf, base[path], err_msg=path)
        if path.endswith("/b") and LORA in path:
            assert np.abs(leaf).max() > 1e-4


def test_what_a_run_with_adapters_becomes(config, tmp_path, capsys):
    """Answers, a CLIP of merged weights, a folder of PEFT, and a run that starts from that."""
    run = tmp_path / "run"
    train_and_evaluate(config, run)
    model = cma.load(run)
    picture = np.full((48, 48, 3), 90, np.uint8)
    answers = model.predict([picture, None], ["a red mug", "a blue hat"])
    texts = ["a photo of a red x", "blue"]
    clip = cma.load_clip(run).embed_texts(texts)
    huggingface, peft = tmp_path / "huggingface", tmp_path / "peft"
    assert main(["push", f"--workdir={run}", f"--to={tmp_path / 'pushed'}"]) == 0
    assert "rank 2 for query, value" in (tmp_path / "pushed/README.md").read_text()
    pushed = cma.load(tmp_path / "pushed").predict([picture, None], ["a red mug", "a blue hat"])
    assert pushed == answers
    for layout, folder in (("huggingface", huggingface), ("peft", peft)):
        assert main(["convert", f"--source={run}", f"--to={layout}", f"--output={folder}"]) == 0
    told = "image adapters of rank 2 for query, value, mlp_up; text adapters of"
    assert told in capsys.readouterr().out
    np.testing.assert_allclose(cma.load_clip(huggingface).embed_texts(texts), clip, atol=1e-6)

    config.model.lora.rank, config.model.lora.source = 0, str(peft)
    config.model.lora.rules = (".*/(query|key|value)",)
    config.train.steps, config.train.learning_rate, config.train.ema = 1, 0.0, 0.0
    config.eval.every = 0
    train_and_evaluate(config, tmp_path / "again")
    one, other = leaves(run), leaves(tmp_path / "again")
    assert set(one) == set(other)
    for path in one.keys() - {"image/position_embedding", "logit_scale"}:
        np.testing.assert_array_equal(one[path], other[path], err_msg=path)
    again = cma.load(tmp_path / "again").predict([picture, None], ["a red mug", "a blue hat"])
    for before, after in zip(answers, again, strict=True):
        assert after["colour"].label == before["colour"].label


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rank": 2}, "random without model.pretrained"),
        ({"rank": 0, "alpha": 4.0}, "lora.rank=0 makes no adapters; set config.model.lora.rank"),
        ({"rank": -1}, "must be at least 0"),
        ({"rank": 2, "source": "x"}, "brings its own rank"),
        ({"source": "x"}, "needs model.pretrained"),
    ],
)
def test_mistakes_are_told_in_one_line(capsys, tmp_path, changes, says):
    flags = [f"--config.model.lora.{name}={value}" for name, value in changes.items()]
    assert says in mistake(capsys, QUICKSTART, f"--workdir={tmp_path / 'w'}", *flags)


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("model.lora.rules", (), "model.lora adapts no encoder that the run reads"),
        ("model.lora.rules", ("text/.*",), r"adapts no encoder .* \(model.inputs='image'\)"),
        ("train.freeze", ("(image|text)/.*",), "train.freeze freezes every adapter"),
    ],
)
def test_adapters_that_would_not_learn_are_refused(config, tmp_path, field, value, told):
    config = with_changes(config, {field: value, "model.inputs": "image"})
    with pytest.raises(UserError, match=told):
        train_and_evaluate(config, tmp_path)


def test_heads_of_other_classes_begin_anew(tmp_path):
    tasks = (Task("colour", ("red", "blue")), Task("kind", ("mug", "hat")))
    write_tasks(tmp_path / "tasks.json", tasks)
    params = {"image": 1, "sequence": 2, "modality": 3, "head_colour": 4, "head_kind": 5}
    assert without_other_heads(params, str(tmp_path), tasks) == params
    assert without_other_heads(params, "", ()) == params
    others = (Task("colour", ("blue", "red")), tasks[1])
    kept = without_other_heads(params, str(tmp_path), others)
    assert kept == {name: x for name, x in params.items() if name != "head_colour"}
    kept = without_other_heads(params, str(tmp_path), tasks[1:])
    assert set(kept) == {"image", "sequence", "head_kind"}


def test_every_process_reads_the_weights_before_the_first_checkpoint(config, tmp_path):
    """Another process may have written the description of the encoders already."""
    assert open_towers(config, tmp_path).params is not None
    assert (tmp_path / "clip.json").exists()
    assert open_towers(config, tmp_path).params is not None
    (tmp_path / "checkpoints/2").mkdir(parents=True)
    assert open_towers(config, tmp_path).params is None


def test_a_rule_that_matches_no_product_is_named(config, tmp_path):
    config.model.lora.rules = (".*/querry",)
    told = r"the rule '.*/querry' .* matches no product; .* image/stack/blocks/attention/query"
    with pytest.raises(UserError, match=told):
        train_and_evaluate(config, tmp_path)
