"""Frozen parameters: they never move, and a run holds them once."""

import dataclasses
import re
import shutil

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from support.line import stream, train_line

from cmaclip_jax.errors import Interrupted, UserError
from cmaclip_jax.parallel.mesh import make_mesh
from cmaclip_jax.training.checkpoints import Checkpoints, _saved_tree
from cmaclip_jax.training.frozen import joined, learnt_part
from cmaclip_jax.training.saved_parameters import read_parameters, soup_file
from cmaclip_jax.training.soup import write_soup

FROZEN = {"line": {"kernel": True, "bias": False}, "out": {"kernel": False}}


@pytest.fixture
def config(config):
    config.train.batch_size = 16
    config.train.ema = 0.9
    config.train.freeze = ("line/kernel",)
    return config


def assert_bit_equal(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


def stopped_and_continued(config, folder, **how):
    with pytest.raises(Interrupted):
        train_line(config, folder, lambda start, params: stream(start, params, 3), **how)
    return train_line(config, folder, **how)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 1)])
def test_a_run_with_frozen_parameters_continues_bit_equal(config, tmp_path, sizes):
    how = {"devices": int(np.prod(sizes)), "sizes": sizes}
    expected = train_line(config, tmp_path / "whole", **how)
    state = stopped_and_continued(config, tmp_path / "parts", **how)
    assert_bit_equal(state, expected)
    config.train.freeze = ()
    assert not np.array_equal(
        train_line(config, tmp_path / "moving", **how).params["line"]["kernel"],
        state.params["line"]["kernel"],
    )


def test_frozen_parameters_are_kept_once(config, tmp_path):
    state = train_line(config, tmp_path)
    assert set(flatten_dict(state.ema)) == {("line", "bias"), ("out", "kernel")}
    for step in (tmp_path / "checkpoints").iterdir():
        saved = _saved_tree(step)
        for part in ("params", "ema"):
            assert set(saved[part]["line"]) == {"bias"}
    _, params = read_parameters(tmp_path)
    assert_bit_equal(params, state.best_params)
    assert_bit_equal(params, joined(state.params, state.ema))


def test_the_soup_leaves_them_out_too(config, tmp_path):
    train_line(config, tmp_path, evaluate=lambda state, step, stoppable: step)
    soup = write_soup(tmp_path, 2, lambda params: 1.0, print, FROZEN)
    with np.load(soup_file(tmp_path, config.train.steps)) as arrays:
        assert set(arrays) == {"line/bias", "out/kernel"}
    assert_bit_equal(read_parameters(tmp_path)[1], soup)


def test_a_run_with_whole_checkpoints_continues_and_keeps_them_whole(config, tmp_path):
    """As version 0.1 wrote them: all parameters in every checkpoint, and in the average."""
    expected = train_line(config, tmp_path / "new")
    with pytest.raises(Interrupted):
        train_line(config, tmp_path / "old", lambda start, params: stream(start, params, 3))
    mesh = make_mesh(devices=jax.devices()[:1])
    checkpoints = Checkpoints(tmp_path / "old", 2, frozen=FROZEN)
    step = checkpoints.latest_step()
    state = checkpoints.restore(expected, mesh, step)
    checkpoints.close()
    shutil.rmtree(tmp_path / "old/checkpoints")
    shutil.rmtree(tmp_path / "old/frozen")
    whole = Checkpoints(tmp_path / "old", 2)
    whole.save(dataclasses.replace(state, ema=state.best_params), step)
    whole.close()
    assert_bit_equal(read_parameters(tmp_path / "old")[1], state.best_params)
    continued = train_line(config, tmp_path / "old")
    assert_bit_equal(continued, expected)
    assert_bit_equal(read_parameters(tmp_path / "old")[1], expected.best_params)
    assert not (tmp_path / "old/frozen").exists()
    soup = write_soup(tmp_path / "old", 2, lambda params: 1.0, print, FROZEN)
    assert soup is None or set(flatten_dict(soup)) == set(flatten_dict(expected.params))
    assert_bit_equal(train_line(config, tmp_path / "old"), expected)


def test_the_soup_of_whole_checkpoints_is_whole(config, tmp_path):
    config.train.freeze, config.train.ema = (), 0.0
    train_line(config, tmp_path, evaluate=lambda state, step, stoppable: step)
    soup = write_soup(tmp_path, 2, lambda params: 1.0, print, FROZEN)
    assert not (tmp_path / "frozen").exists()
    _, params = read_parameters(tmp_path)
    assert set(flatten_dict(params)) == set(flatten_dict(soup))


def emptied(folder):
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.parametrize(
    ("spoil", "told"), [(shutil.rmtree, "is missing; .* copy it back"), (emptied, "cannot be read")]
)
def test_without_its_frozen_parameters_a_run_does_not_continue(config, tmp_path, spoil, told):
    train_line(config, tmp_path)
    spoil(tmp_path / "frozen")
    named = re.escape(str(tmp_path / "frozen"))
    with pytest.raises(UserError, match=f"{named} {told}"):
        train_line(config, tmp_path)
    with pytest.raises(UserError, match=f"{named} {told}"):
        read_parameters(tmp_path)
    assert not list(tmp_path.glob("checkpoints/*.damaged"))


def test_the_part_that_learns():
    params = {"line": {"kernel": 1, "bias": 2}, "out": {"kernel": 3}}
    assert learnt_part(params, FROZEN) == {"line": {"bias": 2}, "out": {"kernel": 3}}
