"""A profile holds the steps that were asked for, by number, and no other."""

import json
import shutil

import jax.numpy as jnp
import pytest
from jax.profiler import ProfileData
from support.line import stream, train_line
from support.small import small_config

from cmaclip_jax.config import check_config
from cmaclip_jax.errors import Interrupted, UserError
from cmaclip_jax.training.profiling import Profiled
from cmaclip_jax.training.workdir import open_workdir


def profiled_steps(workdir) -> list[int]:
    """The numbers of the steps in the one trace of a run."""
    (trace,) = (workdir / "profile").glob("plugins/profile/*/*.xplane.pb")
    steps = set()
    for plane in ProfileData.from_file(str(trace)).planes:
        for line in plane.lines:
            for event in line.events:
                if event.name == "train":
                    steps.add(dict(event.stats)["step_num"])
    return sorted(map(int, steps))


def test_the_steps_asked_for_are_in_the_trace_and_a_run_past_them_has_none(tmp_path, capsys):
    config = small_config()
    config.train.batch_size = 16
    config.profile.start, config.profile.steps = 3, 2
    with pytest.raises(Interrupted, match=r"at step [5-7] of 8"):
        train_line(config, tmp_path, lambda start, params: stream(start, params, stop_after=7))
    assert profiled_steps(tmp_path) == [3, 4]
    assert f"profile of steps 3 to 4: {tmp_path / 'profile'}" in capsys.readouterr().err

    shutil.rmtree(tmp_path / "profile")
    train_line(config, tmp_path)
    assert "continuing from the checkpoint of step" in capsys.readouterr().err
    assert not (tmp_path / "profile").exists()


def make_steps(workdir, start: int, until: int) -> None:
    """Steps that only count, under the profiler as the loop puts them there."""
    settings = small_config().profile
    settings.start, settings.steps = 3, 2
    profiled = Profiled(lambda state, batch: (state + 1, {}), settings, workdir, start, print)
    state = jnp.zeros(())
    for _ in range(start, until):
        state, _ = profiled(state, None)
    profiled.close()


@pytest.mark.parametrize(
    ("start", "until", "steps"), [(0, 6, [3, 4]), (3, 6, [4]), (0, 3, [3]), (4, 6, []), (0, 2, [])]
)
def test_a_run_that_goes_on_or_ends_early_has_those_of_the_steps_it_made(
    tmp_path, start, until, steps
):
    make_steps(tmp_path, start, until)
    assert (profiled_steps(tmp_path) if steps else list(tmp_path.iterdir())) == steps


def test_profiling_may_be_asked_for_later(tmp_path):
    config = small_config()
    open_workdir(tmp_path, config)
    (tmp_path / "checkpoints/2").mkdir(parents=True)
    config.profile.steps = 4
    open_workdir(tmp_path, config)


def test_a_field_that_an_old_run_does_not_know_has_its_default_there(tmp_path):
    config = small_config()
    open_workdir(tmp_path, config)
    (tmp_path / "checkpoints/2").mkdir(parents=True)
    saved = json.loads((tmp_path / "config.json").read_text())
    del saved["profile"], saved["model"]["remat"]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    open_workdir(tmp_path, config)
    config.model.remat = "full"
    with pytest.raises(UserError, match=r"model\.remat is 'none' there and 'full' here"):
        open_workdir(tmp_path, config)


def test_steps_that_never_come_are_refused():
    config = small_config()
    config.profile.start, config.profile.steps = 8, 1
    check_config(config)
    config.profile.steps = 2
    with pytest.raises(UserError, match=r"go beyond train\.steps=8; start earlier"):
        check_config(config)
