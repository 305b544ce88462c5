"""A whole run: it learns, and nothing that stops it can change where it ends."""

import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from support.commands import ROOT, environment
from support.line import Line, line_batch, stream, train_line
from support.small import initial, make_batch, make_objective

from cmaclip_jax.config import base_config
from cmaclip_jax.errors import Interrupted, UserError
from cmaclip_jax.parallel.mesh import make_mesh
from cmaclip_jax.parallel.rules import tree_shardings
from cmaclip_jax.parallel.stopping import Stopping
from cmaclip_jax.training.checkpoints import Checkpoints
from cmaclip_jax.training.diagnosis import diagnose
from cmaclip_jax.training.optimizer import make_optimizer
from cmaclip_jax.training.parameter_table import device_bytes, parameter_rows, parameter_summary
from cmaclip_jax.training.state import state_template


@pytest.fixture
def config(config):
    config.train.batch_size = 16
    config.train.ema = 0.9
    return config


def assert_bit_equal(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


def test_a_stopped_run_ends_bit_equal_to_an_uninterrupted_one(config, tmp_path):
    expected = train_line(config, tmp_path / "whole", devices=2)
    for stop_after in (2, 5):
        with pytest.raises(Interrupted, match=r"SIGTERM at step \d of 8; all is saved") as stopped:
            train_line(
                config, tmp_path / "parts", lambda s, p, at=stop_after: stream(s, p, at), devices=2
            )
        assert stopped.value.status == 128 + signal.SIGTERM
    assert_bit_equal(train_line(config, tmp_path / "parts", devices=2), expected)
    # Nothing is left to do.
    assert_bit_equal(train_line(config, tmp_path / "parts", devices=2), expected)


def largest(folder):
    return max((x for x in folder.rglob("*") if x.is_file()), key=lambda x: x.stat().st_size)


DAMAGES = {
    "torn": lambda step: largest(step).write_bytes(largest(step).read_bytes()[:100]),
    "emptied": lambda step: [shutil.rmtree(step), step.mkdir()],
    "no contents": lambda step: shutil.rmtree(step / "default"),
    "no description": lambda step: (step / "default/_METADATA").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(config, tmp_path, damage, capsys):
    expected = train_line(config, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train_line(config, tmp_path / "torn", lambda s, p: stream(s, p, 5))
    folder = tmp_path / "torn/checkpoints"
    steps = sorted((int(x.name) for x in folder.iterdir()), reverse=True)
    damage(folder / str(steps[0]))
    capsys.readouterr()
    assert_bit_equal(train_line(config, tmp_path / "torn"), expected)
    said = capsys.readouterr().err
    assert f"the checkpoint of step {steps[0]} cannot be read" in said
    assert f"continuing from the checkpoint of step {steps[1]}" in said
    assert (folder / f"{steps[0]}.damaged").exists()


def test_where_no_checkpoint_can_be_read_nothing_is_begun_anew(config, tmp_path):
    train_line(config, tmp_path)
    steps = list((tmp_path / "checkpoints").iterdir())
    for step in steps:
        DAMAGES["torn"](step)
    with pytest.raises(UserError, match=r"no checkpoint in .* can be read .*another --workdir"):
        train_line(config, tmp_path)
    assert sorted(steps) == sorted((tmp_path / "checkpoints").iterdir())


def test_a_checkpoint_of_another_model_is_refused_with_what_differs(config, tmp_path):
    class Wider(Line):
        def init(self, rng, batch):
            params = super().init(rng, batch)
            params["line"]["bias"] = jnp.zeros(7)
            return params | {"more": {"bias": jnp.zeros(3)}}

    train_line(config, tmp_path)
    checkpoints = Checkpoints(tmp_path, 2)
    optimizer = make_optimizer(config.train, Wider().init(jax.random.key(0), line_batch(0)))
    _, shapes = state_template(Wider(), optimizer, line_batch(0), True)
    told = (
        r"not of this model \(params/line/bias: \(4,\) there, \(7,\) here; params/more/bias: miss"
    )
    with pytest.raises(UserError, match=told):
        checkpoints.restore_newest(shapes, make_mesh(devices=jax.devices()[:1]), print)
    checkpoints.close()
    assert not list(tmp_path.glob("checkpoints/*.damaged"))


def test_a_poisoned_step_stops_the_run_and_leaves_the_last_good_checkpoint(config, tmp_path):
    with pytest.raises(
        UserError, match=r"step 6: loss is not finite.*; the checkpoint of step 4 is"
    ):
        train_line(config, tmp_path, lambda start, params: stream(start, params, poison=5))
    # Without the poison the run goes on from there, to the same end as one that met none.
    assert_bit_equal(train_line(config, tmp_path), train_line(config, tmp_path / "clean"))


def test_diagnosis_names_the_first_bad_tensor(config):
    objective, batch, rng = make_objective(), make_batch(), jax.random.key(0)
    params = initial(objective.model)
    opt_state = make_optimizer(config.train, params).init(params)

    def spoil(value):
        copy = jax.tree.map(jnp.copy, params)
        copy["text"]["stack"]["blocks"]["mlp_up"]["kernel"] = jnp.full((2, 32, 128), value)
        return copy

    words = diagnose(objective, config.train, spoil(jnp.nan), opt_state, batch, rng)
    assert words == "parameter text/stack/blocks/mlp_up/kernel is not finite"
    words = diagnose(objective, config.train, spoil(3e38), opt_state, batch, rng)
    assert words == "the output of text/stack/blocks/mlp_up is not finite"
    words = diagnose(objective, config.train, params, opt_state, batch, rng)
    assert words.startswith("the loss spiked; the gradient of ")


def test_diagnosis_takes_no_more_of_a_batch_at_once_than_the_step_does(config):
    rows, noises = [], []

    class Watched(Line):
        def loss(self, params, batch, rng):
            rows.append(len(batch["x"]))
            if not isinstance(rng, jax.core.Tracer):
                noises.append(rng)
            return super().loss(params, batch, rng)

    config.train.accumulate = 4
    params = Line().init(jax.random.key(0), line_batch(0))
    opt_state = make_optimizer(config.train, params).init(params)
    good, bad = line_batch(0), line_batch(0)
    bad["y"][2] = np.nan  # in the third part, which takes rows 2, 6, 10, 14
    rng = jax.random.key(1)
    words = diagnose(Watched(), config.train, params, opt_state, bad, rng)
    assert words.startswith("loss is not finite")
    assert noises == [jax.random.fold_in(rng, index) for index in range(3)]
    words = diagnose(Watched(), config.train, params, opt_state, good, rng)
    assert words.startswith("the loss spiked; the gradient of ")
    assert max(rows) == len(good["x"]) // 4


def test_a_spike_stops_the_run(config, tmp_path, monkeypatch):
    from cmaclip_jax.training import step

    monkeypatch.setattr(step, "SETTLED", 2)
    config.train.spike = 1e-3  # what every loss exceeds
    with pytest.raises(UserError, match=r"step 3: the loss spiked; the gradient of \S+ is"):
        train_line(config, tmp_path)


def test_saving_does_not_count_where_hosts_agree_on_a_stop(config, tmp_path, monkeypatch):
    calls = []
    name = "jax.experimental.multihost_utils.reached_preemption_sync_point"
    monkeypatch.setattr(name, lambda step: calls.append(step) or False)
    train_line(config, tmp_path)
    assert calls == []


def test_the_newest_and_the_best_checkpoints_stay(config, tmp_path):
    config.eval.every = config.checkpoint.every = 1
    config.checkpoint.keep = 2
    scores = {1: 0.1, 2: 0.9, 3: 0.3}
    train_line(config, tmp_path, evaluate=lambda state, step, stoppable: scores.get(step, 0.2))
    kept = {int(folder.name) for folder in (tmp_path / "checkpoints").iterdir()}
    assert kept == {2, 7, 8}


def test_a_checkpoint_restores_onto_another_mesh(config, tmp_path):
    state = train_line(config, tmp_path)
    optimizer = make_optimizer(config.train, state.params)
    _, shapes = state_template(Line(), optimizer, line_batch(0), True)
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    restored = Checkpoints(tmp_path, 2).restore(shapes, mesh, config.train.steps)
    assert_bit_equal(restored, state)
    kernel = restored.params["line"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 2  # fsdp halves it


def test_a_run_goes_on_whatever_mesh_it_continues_on(config, tmp_path):
    """From 8 devices to 1 and to 4, and through every shape that 8 devices have."""
    meshes = [(8, 1, 1), (1, 1, 1), (4, 1, 1), (1, 8, 1), (1, 1, 8), (4, 2, 1), (4, 1, 2)]
    meshes += [(2, 4, 1), (2, 1, 4), (1, 4, 2), (1, 2, 4), (2, 2, 2), (1, 2, 2)]
    config.train.steps, config.train.log_every = len(meshes), 1
    expected = train_line(config, tmp_path / "whole")
    for step, sizes in enumerate(meshes[:-1]):
        # The signal comes while this step's batch is made, two ahead of the step that is on.
        batches = lambda start, params, at=step: stream(start, params, stop_after=at)  # noqa: E731
        with pytest.raises(Interrupted, match=f"at step {step + 1} of"):
            train_line(config, tmp_path / "moved", batches, devices=math.prod(sizes), sizes=sizes)
    sizes = meshes[-1]
    state = train_line(config, tmp_path / "moved", devices=math.prod(sizes), sizes=sizes)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), state, expected
    )
    assert state.params["line"]["kernel"].sharding.mesh.devices.shape == sizes
    np.testing.assert_allclose(*map(losses, (tmp_path / "moved", tmp_path / "whole")), rtol=1e-5)


def losses(workdir):
    """The loss of every step, from the metrics."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return [row["train/loss"] for row in rows]


def test_figures_are_kept_for_every_interval(config, tmp_path):
    train_line(config, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 6, 8]
    assert rows[0].keys() >= {"train/loss", "train/grad_norm", "examples_per_second"}
    assert list(tmp_path.glob("events.out.tfevents.*"))
    table = (tmp_path / "parameters.txt").read_text()
    assert re.search(r"line/kernel +8x4 +1 +0.05 +whole +128", table)


def test_closing_the_input_is_no_time_of_the_last_interval(config, tmp_path):
    def slow_to_close(start, params):
        try:
            yield from stream(start)
        finally:
            time.sleep(3)

    train_line(config, tmp_path, slow_to_close)
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == config.train.steps
    seconds = config.train.log_every * config.train.batch_size / last["examples_per_second"]
    assert seconds * last["input_wait"] < 1


def test_the_parameter_table_tells_what_a_device_holds():
    shapes = {"line": {"kernel": jax.ShapeDtypeStruct((8, 4), jnp.float32)}, "b": np.float32(0)}
    settings = base_config().train
    for fsdp, held in ((1, 128), (4, 32)):
        mesh = make_mesh(fsdp=fsdp)
        rows = parameter_rows(settings, shapes, tree_shardings(shapes, mesh))
        told = {row[0]: row[-1] for row in rows}
        assert told == {"line/kernel": str(held), "b": "4"}
        assert device_bytes(rows) == held + 4
        console = Console(width=120, record=True, file=io.StringIO())
        console.print(parameter_summary(rows))
        assert "MB a device" in console.export_text()


def test_a_run_stopped_in_an_evaluation_looks_again_when_it_continues(config, tmp_path):
    looked, config.eval.every = [], 4

    def evaluate(state, step, stoppable):
        for number in stoppable(range(10)):
            looked.append((step, number))
            if (step, number) == (4, 3) and len(looked) == 4:
                os.kill(os.getpid(), signal.SIGTERM)
        return 0.5

    with pytest.raises(Interrupted, match="SIGTERM at step 4 of 8; all is saved"):
        train_line(config, tmp_path, evaluate=evaluate)
    assert looked == [(4, number) for number in range(4)]
    del looked[:]  # and once more: nothing may go on past a look that was not finished
    with pytest.raises(Interrupted, match="SIGTERM at step 4 of 8; all is saved"):
        train_line(config, tmp_path, evaluate=evaluate)
    assert looked == [(4, number) for number in range(4)]
    again = train_line(config, tmp_path, evaluate=evaluate)
    assert looked[4:] == [(step, number) for step in (4, 8) for number in range(10)]
    train_line(config, tmp_path, evaluate=evaluate)
    assert len(looked) == 24  # and not once more
    assert_bit_equal(again, train_line(config, tmp_path / "whole"))


def test_a_second_signal_is_not_held_back():
    before = signal.getsignal(signal.SIGTERM)
    with Stopping() as stopping:
        assert not stopping.asked()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopping.asked()
        assert stopping.signal == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) == before
    assert signal.getsignal(signal.SIGTERM) == before


TINY = [
    *("--config=configs/quickstart.py", "--config.data.shop.train_size=64"),
    *("--config.data.shop.val_size=16", "--config.data.shop.test_size=16"),
    *("--config.train.steps=200", "--config.train.log_every=5", "--config.train.batch_size=8"),
    *("--config.model.image=test/8", "--config.model.text=test/8", "--config.data.image_size=16"),
    "--config.model.sequence_heads=2",
    *("--config.checkpoint.every=50", "--config.eval.every=0", "--config.eval.batch_size=16"),
]


def command(workdir, *more):
    return [sys.executable, "-m", "cmaclip_jax.main", *TINY, f"--workdir={workdir}", *more]


def final_params(workdir):
    manager = __import__("orbax.checkpoint").checkpoint.CheckpointManager(workdir / "checkpoints")
    return manager.restore(200)["params"]


QUIET = {"cwd": ROOT, "env": environment(), "capture_output": True, "text": True}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of the command's run that nothing stopped."""
    workdir = tmp_path_factory.mktemp("whole")
    done = subprocess.run(command(workdir), check=True, timeout=300, **QUIET)
    assert "written to" in done.stderr
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_command_killed_at_a_random_step_ends_bit_equal(tmp_path, whole, how):
    process = subprocess.Popen(
        command(tmp_path / "parts"), cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True
    )
    checkpoints = tmp_path / "parts" / "checkpoints"
    while not any(path.name.isdigit() for path in checkpoints.glob("*")):
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(np.random.default_rng().uniform(0, 0.3))
    process.send_signal(how)
    _, said = process.communicate(timeout=120)
    if how == signal.SIGTERM:
        assert process.returncode == 143
        assert "stopped by SIGTERM at step" in said.splitlines()[-1]
    resumed = subprocess.run(command(tmp_path / "parts"), check=True, timeout=300, **QUIET)
    assert "continuing from the checkpoint of step" in resumed.stderr
    assert_bit_equal(final_params(tmp_path / "parts"), final_params(whole))
    results = [(run / "evaluation/test.json").read_text() for run in (whole, tmp_path / "parts")]
    assert results[0] == results[1]
