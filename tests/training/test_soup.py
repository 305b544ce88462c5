"""The average of a run's best checkpoints, against the same average by hand."""

import functools
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from support.line import stream, train_line

from cmaclip_jax.config import check_config, with_changes
from cmaclip_jax.errors import Interrupted, UserError
from cmaclip_jax.runs.judged import open_judged
from cmaclip_jax.runs.training import Run, train_and_evaluate
from cmaclip_jax.training.saved_parameters import (
    best_steps,
    checkpoint_parameters,
    checkpoint_steps,
    read_parameters,
)
from cmaclip_jax.training.soup import write_soup
from cmaclip_jax.training.workdir import saved_config

SCORES = {1: 0.1, 2: 0.9, 3: 0.3, 4: 0.8, 5: 0.9, 6: 0.2, 7: 0.7, 8: 0.0}


@pytest.fixture
def config(config):
    config.train.batch_size, config.train.ema = 16, 0.9
    config.eval.every = config.checkpoint.every = config.checkpoint.keep = 1
    config.eval.soup = 4
    return config


def train(config, workdir: Path, batches=stream):
    return train_line(config, workdir, batches, lambda state, step, stoppable: SCORES[step])


def mean_of(workdir: Path, *steps: int):
    """By hand: the parameters of some checkpoints, added and divided once."""
    params = [checkpoint_parameters(workdir, step) for step in steps]
    return jax.tree.map(lambda *x: np.mean(np.stack(x).astype(np.float64), axis=0), *params)


def assert_close(found, expected):
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7)
    jax.tree.map(close, found, expected)


def test_a_checkpoint_joins_if_the_score_of_the_average_does_not_fall(config, tmp_path):
    """Of equally good checkpoints the newest begins; the third, 4, is bad for the average."""
    train(config, tmp_path)
    assert set(checkpoint_steps(tmp_path / "checkpoints")) == {2, 4, 5, 7, 8}
    assert best_steps(tmp_path, 4) == [5, 2, 4, 7]
    tried, reached, said = [], iter([0.9, 0.9, 0.8, 0.95]), []
    soup = write_soup(tmp_path, 4, lambda x: tried.append(x) or next(reached), said.append)
    for mixed, steps in zip(tried, [(5,), (5, 2), (5, 2, 4), (5, 2, 7)], strict=True):
        assert_close(mixed, mean_of(tmp_path, *steps))
    step, params = read_parameters(tmp_path)
    assert step == 8
    jax.tree.map(np.testing.assert_array_equal, params, soup)
    assert_close(params, mean_of(tmp_path, 5, 2, 7))
    jax.tree.map(
        np.testing.assert_array_equal,
        read_parameters(tmp_path, "best")[1],
        checkpoint_parameters(tmp_path, 5),
    )
    lines = [line.strip() for line in said]
    assert lines[:3] == ["soup of step 5: 0.9000", "soup with step 2: 0.9000"] + [
        "soup with step 4: 0.8000, left out"
    ]
    assert lines[3] == "soup with step 7: 0.9500"
    assert lines[4].startswith("the run answers with the mean of 3 checkpoint(s), 0.9500, kept in")


def test_a_run_that_was_stopped_twice_has_the_same_soup(config, tmp_path):
    def score(params, stop_at=None, calls=[]):  # noqa: B006
        calls.append(0)
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        return -float(np.abs(params["line"]["bias"]).sum())

    train(config, tmp_path / "whole")
    write_soup(tmp_path / "whole", 4, score, print)
    with pytest.raises(Interrupted):
        train(config, tmp_path / "parts", lambda start, params: stream(start, params, 4))
    train(config, tmp_path / "parts")
    with pytest.raises(KeyboardInterrupt):
        write_soup(tmp_path / "parts", 4, functools.partial(score, stop_at=3, calls=[]), print)
    write_soup(tmp_path / "parts", 4, score, print)
    (_, soup), (_, expected) = (read_parameters(tmp_path / name) for name in ("parts", "whole"))
    jax.tree.map(np.testing.assert_array_equal, soup, expected)


def test_a_trained_run_answers_with_its_soup(config, tmp_path, monkeypatch, capsys):
    """On a mesh with split parameters; without `eval.soup` the last checkpoint answers again."""
    config.data.labels, config.train.steps, config.eval.soup = ("colour",), 4, 3
    config.mesh.fsdp = 2
    judged, tried = [0.5, 0.75, 0.25, 0.5], [0.75, 0.25, 0.75]
    judge = Run._judge

    def with_scores(self, *arguments):
        """The real figures, with the scores that this test wants."""
        figures = judge(self, *arguments)
        return figures | {"mean": {"accuracy": (judged or tried).pop(0)}}

    monkeypatch.setattr(Run, "_judge", with_scores)
    figures = train_and_evaluate(config, tmp_path)
    assert "the mean of 2 checkpoint(s), 0.7500" in capsys.readouterr().err
    assert_close(read_parameters(tmp_path)[1], mean_of(tmp_path, 2, 1))
    soup = open_judged(tmp_path, saved_config(tmp_path))
    kept = dict(np.load(tmp_path / "evaluation/test.npz"))
    answers = soup.outcome("test")["probabilities"]["colour"]
    np.testing.assert_allclose(kept["probabilities/colour"], answers, atol=1e-6)
    assert json.loads((tmp_path / "evaluation/test.json").read_text())["step"] == 4
    assert figures["step"] == 4
    train_and_evaluate(with_changes(config, {"eval.soup": 0}), tmp_path)
    jax.tree.map(
        np.testing.assert_array_equal,
        read_parameters(tmp_path)[1],
        checkpoint_parameters(tmp_path, 4),
    )
    last = dict(np.load(tmp_path / "evaluation/test.npz"))["probabilities/colour"]
    assert np.abs(last - answers).max() > 1e-4


def test_a_run_whose_checkpoints_have_no_score_says_that_it_has_no_soup(config, tmp_path):
    train_line(config, tmp_path)
    said = []
    assert write_soup(tmp_path, 4, lambda params: 1.0, said.append) is None
    assert "there is no soup" in said[0]
    assert read_parameters(tmp_path)[0] == 8


def test_a_soup_needs_evaluations(config):
    with pytest.raises(UserError, match=r"set config\.eval\.every"):
        check_config(with_changes(config, {"eval.every": 0}))
