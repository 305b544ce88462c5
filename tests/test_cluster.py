"""Several processes are one run: they end as one would, and notice when one of them is gone."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from test_main import QUICKSTART

from cmaclip_jax.errors import UserError
from cmaclip_jax.main import cluster_option
from cmaclip_jax.parallel.cluster import _parsed, lost_peer
from cmaclip_jax.parallel.mesh import host_rows, make_mesh
from cmaclip_jax.training.checkpoints import read_parameters

ROOT = Path(__file__).resolve().parent.parent
LOCAL_POD = ROOT / "launch/local_pod"
SMALL = [QUICKSTART, "--config.model.image=test/8", "--config.model.text=test/8"]
SMALL += ["--config.model.sequence_heads=2", "--config.data.shop.val_size=50"]
SMALL += ["--config.data.shop.test_size=75", "--config.data.shop.train_size=300"]
SMALL += ["--config.train.batch_size=16", "--config.train.log_every=2"]


def environment():
    """As a user has it: no fake devices but those that are asked for."""
    return os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}


def finished(workdir):
    """The parameters and the figures that a run ended with."""
    figures = json.loads((workdir / "evaluation/test.json").read_text())
    return read_parameters(workdir), figures


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [(), ("--config.mesh.fsdp=2",), ("--config.mesh.tensor=4",)])
def test_four_hosts_end_as_one_process_does(tmp_path, mesh):
    run = ["--config.train.steps=6", "--config.eval.every=3"]
    pod = [str(LOCAL_POD), "--hosts=4", "--", *SMALL, *run, *mesh, f"--workdir={tmp_path / 'pod'}"]
    one = [sys.executable, "-m", "cmaclip_jax.main", *SMALL, *run, f"--workdir={tmp_path / 'one'}"]
    for command in (pod, one):
        subprocess.run(command, env=environment(), check=True, capture_output=True)
    (_, params), figures = finished(tmp_path / "pod")
    (_, expected), alone = finished(tmp_path / "one")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), params, expected)
    for name, task in alone["tasks"].items():
        assert figures["tasks"][name]["examples"] == task["examples"]
        assert figures["tasks"][name]["accuracy"] == pytest.approx(task["accuracy"], abs=0.03)
    lines = (tmp_path / "pod/metrics.jsonl").read_text().splitlines()
    steps = [line["step"] for line in map(json.loads, lines) if "train/loss" in line]
    assert steps == [2, 4, 6]  # once, by process 0


@pytest.mark.slow
def test_when_a_host_is_killed_the_others_stop_and_the_same_command_goes_on(tmp_path):
    more = ["--config.train.steps=100000", "--config.eval.every=0", "--config.checkpoint.every=4"]
    command = [str(LOCAL_POD), "--hosts=3", "--", *SMALL, *more, f"--workdir={tmp_path}"]
    pod = subprocess.Popen(
        command, env=environment(), stderr=subprocess.STDOUT, stdout=-1, text=True
    )
    lines = []
    for line in pod.stdout:
        lines.append(line)
        if re.search(r"step \d\d/", line) and len(list(tmp_path.glob("checkpoints/[1-9]*"))) > 1:
            break
    victim = subprocess.run(
        ["pgrep", "-f", "--", f"--workdir={tmp_path}"], capture_output=True, text=True
    ).stdout.split()[2]  # the first is local_pod itself
    os.kill(int(victim), signal.SIGKILL)
    start = time.monotonic()
    rest = pod.stdout.read()
    assert pod.wait() == 128 + signal.SIGKILL
    assert time.monotonic() - start < 90
    assert re.search(r"local_pod: host [012] of 3 ended first, with signal SIGKILL", rest)
    assert re.search(r"host \d of 3 stops: ", rest)
    command[command.index("--config.train.steps=100000")] = "--config.train.steps=100000"
    again = subprocess.Popen(
        command, env=environment(), stderr=subprocess.STDOUT, stdout=-1, text=True
    )
    for line in again.stdout:
        if "continuing from the checkpoint of step" in line:
            again.send_signal(signal.SIGTERM)
            break
    rest = again.stdout.read()
    assert "all is saved, the same command continues" in rest
    assert again.wait() == 128 + signal.SIGTERM


def test_one_process_makes_all_rows():
    mesh = make_mesh()
    np.testing.assert_array_equal(host_rows(mesh, 16), np.arange(16))


def test_the_option_and_the_environment(monkeypatch):
    assert cluster_option(["a", "--cluster=auto", "b"]) == ("auto", ["a", "b"])
    monkeypatch.setenv("CMACLIP_CLUSTER", "somewhere:1,0/2")
    assert cluster_option(["a"]) == ("somewhere:1,0/2", ["a"])
    assert _parsed("10.0.0.2:8476,3/4") == {
        "coordinator_address": "10.0.0.2:8476",
        "process_id": 3,
        "num_processes": 4,
    }


@pytest.mark.parametrize("wrong", ["here", "here:1", "here:1,4/4", "here,0/2", "here:x,0/2"])
def test_a_cluster_that_cannot_be_is_refused(wrong):
    with pytest.raises(UserError, match="write auto, or HOST:PORT,K/N"):
        _parsed(wrong)


def test_a_lost_host_is_named_and_other_errors_are_not_touched():
    error = RuntimeError("Barrier failed because: Task 2 heartbeat timeout. This indicates")
    assert "host 2 is gone" in lost_peer(error)
    assert "the connection to another host broke" in lost_peer(ValueError("Gloo all-reduce failed"))
    assert lost_peer(ValueError("the task 3 is fine")) == ""
