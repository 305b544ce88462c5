"""Several processes are one run: they end as one would, and notice when one of them is gone."""

import functools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from support.commands import LOCAL_POD, QUICKSTART, ROOT, environment

from cmaclip_jax.errors import UserError
from cmaclip_jax.evaluation.result_files import read_outcome
from cmaclip_jax.main import cluster_option, main
from cmaclip_jax.parallel.joining import _parsed
from cmaclip_jax.parallel.lost_hosts import lost_peer
from cmaclip_jax.parallel.mesh import host_rows, make_mesh
from cmaclip_jax.training.lock import holding
from cmaclip_jax.training.saved_parameters import read_parameters, soup_file

SMALL = [QUICKSTART, "--config.model.image=test/8", "--config.model.text=test/8"]
SMALL += ["--config.model.sequence_heads=2", "--config.data.shop.val_size=50"]
SMALL += ["--config.data.shop.test_size=75", "--config.data.shop.train_size=300"]
SMALL += ["--config.train.batch_size=16", "--config.train.log_every=2"]
SMALL += ["--config.train.steps=6", "--config.eval.every=3"]


class Pod:
    """Hosts that train a line together; their lines are read as they come."""

    def __init__(self, hosts: int, *arguments: str):
        address = f"localhost:{free_port()}"
        self.lines = []
        self.hosts = [
            subprocess.Popen(
                [sys.executable, ROOT / "tests/support/line.py", "line", *arguments]
                + [f"--cluster={address},{number}/{hosts}"] * (hosts > 1),
                env=environment(),
                stderr=subprocess.PIPE,
                text=True,
            )
            for number in range(hosts)
        ]

    def says(self, what: str) -> str:
        """Waits until the first host has said this."""
        for line in self.hosts[0].stderr:
            self.lines.append(line)
            if re.search(what, line):
                return line
        raise AssertionError(f"never said {what!r}: {self.lines}")

    def end(self) -> list[tuple[int, str]]:
        """(status, what it said since) of every host, when all have ended."""
        rest = [host.stderr.read() for host in self.hosts]
        self.lines += rest[0].splitlines(keepends=True)
        return [(host.wait(), said) for host, said in zip(self.hosts, rest, strict=True)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def assert_same_end(workdir, expected):
    """Two runs end in the same parameters, to rounding."""
    (step, params), (expected_step, expected_params) = map(read_parameters, (workdir, expected))
    assert step == expected_step
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, params, expected_params)


def train_losses(workdir) -> dict[int, float]:
    """{step: loss} as a run wrote them."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    told = [(line["step"], line["train/loss"]) for line in lines if "train/loss" in line]
    assert len(told) == len(dict(told))
    return dict(told)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process comes to in twelve steps."""
    workdir = tmp_path_factory.mktemp("alone")
    assert [status for status, _ in Pod(1, str(workdir), "12").end()] == [0]
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [["fsdp=2"], ["data=1", "tensor=2"]], ids=str)
def test_two_hosts_end_as_one_process_does(tmp_path, alone, sizes):
    pod = Pod(2, str(tmp_path), "12", "0", *sizes)
    assert [status for status, _ in pod.end()] == [0, 0]
    assert_same_end(tmp_path, alone)
    assert list(train_losses(tmp_path)) == [2, 4, 6, 8, 10, 12]  # once, by process 0


@pytest.mark.slow
@pytest.mark.parametrize("more", [["fsdp=2"], ["data=2", "accumulate=2"]], ids=str)
def test_a_bad_loss_ends_in_the_same_line_on_every_host(tmp_path, more):
    for status, said in Pod(2, str(tmp_path), "12", "0", "poison=5", *more).end():
        assert status == 2
        assert "Traceback" not in said
        last = said.strip().splitlines()[-1]
        assert last.startswith("cmaclip: stopped at step 6: loss is not finite, though every")
        assert "the checkpoint of step 4 is intact" in last


@pytest.mark.slow
@pytest.mark.parametrize("moment", [r"step 2/12", r"evaluating step 6, batch 1"])
def test_when_one_host_is_asked_to_stop_all_save_and_stop(tmp_path, alone, moment):
    pod = Pod(2, str(tmp_path), "12", "0.5")
    pod.says(moment)
    pod.hosts[1].send_signal(signal.SIGTERM)
    for status, said in pod.end():
        assert status == 128 + signal.SIGTERM
        assert re.search(r"stopped by SIGTERM at step \d+ of 12; all is saved", said)
    assert sum("evaluating" in line for line in pod.lines) < 10  # it was not waited for
    again = Pod(2, str(tmp_path), "12")
    assert [status for status, _ in again.end()] == [0, 0]
    assert "continuing from the checkpoint of step" in "".join(again.lines)
    for step in (6, 12):
        assert f"evaluating step {step}, batch 9" in "".join(again.lines)
    assert_same_end(tmp_path, alone)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_when_a_host_is_killed_the_other_says_so_and_ends(tmp_path, alone, victim):
    pod = Pod(2, str(tmp_path), "12", "0.5")
    pod.says("evaluating step 6, batch 1")
    start = time.monotonic()
    pod.hosts[victim].kill()
    ends = pod.end()
    assert time.monotonic() - start < 60
    assert ends[victim][0] == -signal.SIGKILL
    status, said = ends[1 - victim]
    assert status not in (0, None)
    if victim == 1:
        assert "host 0 of 2 stops: the connection to another host broke" in said
        # Who that is comes from us or, if JAX is sooner, from JAX.
        assert re.search(r"host 1 failed or was preempted|unhealthy[^\n]*\n1\n", said)
    else:  # host 0 holds the threads together: JAX ends the others, in its own words
        assert "leader task" in said
    again = Pod(2 - victim, str(tmp_path), "12")  # as many hosts as before, or one alone
    assert not any(status for status, _ in again.end())
    assert "continuing from the checkpoint of step" in "".join(again.lines)
    assert_same_end(tmp_path, alone)


@pytest.mark.slow
@pytest.mark.parametrize("adapted", [False, True], ids=["from scratch", "adapters of a CLIP"])
def test_the_whole_command_on_two_hosts_ends_as_on_one(tmp_path, adapted, clip_folder):
    """Both answer with a soup in the end."""
    words = [*SMALL, "--config.eval.soup=2"]
    if adapted:  # every host has to read the CLIP
        words += [f"--config.model.pretrained={clip_folder}", "--config.model.lora.rank=2"]
        words += ["--config.data.text_length=0", "--config.train.epsilon=1e-3"]
    pod = [str(LOCAL_POD), "--hosts=2", "--", *words, f"--workdir={tmp_path / 'pod'}"]
    one = [sys.executable, "-m", "cmaclip_jax.main", *words, f"--workdir={tmp_path / 'one'}"]
    subprocess.run(one, env=environment(), check=True, capture_output=True)
    said = subprocess.run(pod, env=environment(), check=True, capture_output=True, text=True).stdout
    assert "the first step is compiled" in said
    assert "programs read from" not in said  # XLA aborts CPU hosts that run cached programs
    expected, losses = map(train_losses, (tmp_path / "one", tmp_path / "pod"))
    assert losses.keys() == expected.keys()
    np.testing.assert_allclose([*losses.values()], [*expected.values()], rtol=1e-4)
    soups = [set(np.load(soup_file(tmp_path / run, 6))) for run in ("pod", "one")]
    assert soups[0] == soups[1]
    figures, expected = (
        json.loads((tmp_path / run / "evaluation/test.json").read_text())["tasks"]
        for run in ("pod", "one")
    )
    for name, task in expected.items():
        assert figures[name]["examples"] == task["examples"]
        assert figures[name]["accuracy"] == pytest.approx(task["accuracy"], abs=0.03)


def on_hosts(hosts: int, *words: str) -> str:
    """What several hosts, each with one device, say of a command."""
    command = [sys.executable, str(LOCAL_POD), f"--hosts={hosts}", "--", *words]
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


def assert_same_json(path, expected):
    """Two files hold the same: counts and names exactly, other numbers to rounding."""
    found, wanted = (json.loads(file.read_text()) for file in (path, expected))
    (found, shape), (wanted, wanted_shape) = map(jax.tree.flatten, (found, wanted))
    assert shape == wanted_shape
    for here, there in zip(found, wanted, strict=True):
        assert here == (pytest.approx(there, abs=1e-5) if isinstance(there, float) else there)


FOLLOWER_SPEAKS = r"\[[1-9]\] (?!\[Gloo)"
# Batches of 10 pairs divide over none of these; nor does the split of 20.
EVALUATE = ["evaluate", "--split=test", "--config.eval.batch_size=10"]
EVALUATE += ["--precision=0.1", "--confidence=0.5", "--calibrate=val"]


@pytest.fixture(scope="module")
def judged(finished_run, tmp_path_factory):
    """What one process writes of a finished run."""
    run = shutil.copytree(finished_run, tmp_path_factory.mktemp("judged") / "run")
    assert main([*EVALUATE, f"--workdir={run}"]) == 0
    return run


@pytest.mark.parametrize("hosts", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_several_hosts_judge_every_pair_once(finished_run, judged, tmp_path, hosts):
    run = shutil.copytree(finished_run, tmp_path / "run")
    said = on_hosts(hosts, *EVALUATE, f"--workdir={run}")
    assert "[0] written to" in said
    assert not re.search(FOLLOWER_SPEAKS, said)
    assert_same_json(run / "evaluation/test.json", judged / "evaluation/test.json")
    assert_same_json(run / "thresholds.json", judged / "thresholds.json")
    found, wanted = (read_outcome(path, "test") for path in (run, judged))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, found, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("hosts", [2, 3])
def test_several_hosts_judge_noisy_pairs_as_one_process_does(finished_run, tmp_path, hosts):
    command = ["robustness", "--noises=blur,text.blank", "--severities=3"]
    for count in (1, hosts):
        shutil.copytree(finished_run, tmp_path / str(count) / "run")
        words = [*command, f"--workdir={tmp_path / str(count) / 'run'}"]
        said = on_hosts(count, *words)
    assert "[0] written to" in said
    assert not re.search(FOLLOWER_SPEAKS, said)
    one, several = (tmp_path / str(count) / "run" for count in (1, hosts))
    findings = [
        json.loads((run / "robustness.json").read_text())["findings"] for run in (one, several)
    ]
    for here, there in zip(*findings, strict=True):
        assert here["noise"] == there["noise"]
        for task, figures in there["tasks"].items():
            assert here["tasks"][task] == pytest.approx(figures, abs=1e-5)
    assert (several / "robustness.md").read_text() == (one / "robustness.md").read_text()


def test_a_batch_that_does_not_divide_over_the_devices_is_judged_in_smaller_ones(judged):
    """`judged` itself asked for ten pairs a batch over eight devices."""
    figures = json.loads((judged / "evaluation/test.json").read_text())
    assert figures["slices"]["all"]["examples"] == 20


def test_what_the_first_host_finds_wrong_ends_all_hosts_at_once(tmp_path):
    """Else the second would wait for it, and JAX abort both after minutes."""
    command = [sys.executable, str(LOCAL_POD), "--hosts=2", "--", QUICKSTART]
    with holding(tmp_path):
        command += [f"--workdir={tmp_path}"]
        ended = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert ended.returncode == 2
    for host in (0, 1):
        assert f"[{host}] cmaclip: {tmp_path} is in use by process {os.getpid()}" in ended.stdout
    assert "Traceback" not in ended.stdout


def test_hosts_that_do_not_come_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("cmaclip_jax.parallel.joining.SECONDS_TO_JOIN", 1)
    address = f"localhost:{free_port()}"
    assert main([f"--cluster={address},0/3", QUICKSTART, f"--workdir={tmp_path}"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0] == f"waiting for 2 other host(s) at {address} ..."
    assert said[1].startswith(f"cmaclip: hosts 1, 2 of 3 did not come to {address} in 1 s; start")
    assert main([f"--cluster={address},1/3", QUICKSTART, f"--workdir={tmp_path}"]) == 2
    assert "nothing listens at port" in capsys.readouterr().err


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
