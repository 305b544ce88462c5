"""One command at a time writes into a folder, and what a dead one left keeps nobody out."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
from support.commands import QUICKSTART, ROOT, mistake

from cmaclip_jax.errors import UserError
from cmaclip_jax.training import lock
from cmaclip_jax.training.lock import LOCK, holding

HOLD = """
import sys, time
from cmaclip_jax.training.lock import holding
with holding(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds the lock of a folder; killed in the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def enter(folder):
    """Takes the lock and gives it back."""
    with holding(folder):
        pass


def of_another_machine(folder) -> None:
    """Makes the lock in a folder one of a process elsewhere."""
    held = json.loads((folder / LOCK).read_text())
    (folder / LOCK).write_text(json.dumps(held | {"host": "tpu-7", "kernel": "another"}))


@pytest.fixture
def quick(monkeypatch):
    """Signs of life come often, and silence is short."""
    monkeypatch.setattr(lock, "BEAT", 0.05)
    monkeypatch.setattr(lock, "SILENCE", 0.5)
    monkeypatch.setattr(lock, "SHORT", 0.01)


def test_a_lock_goes_with_its_holder_and_an_unused_folder_with_the_lock(tmp_path):
    with holding(tmp_path / "new"):
        held = json.loads((tmp_path / "new" / LOCK).read_text())
        assert held["process"] == os.getpid()
        assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", held["since"])
        assert held["host"]
    assert not (tmp_path / "new").exists()
    enter(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command",
    [
        [QUICKSTART],
        ["ablate", QUICKSTART],
        ["landmarks", "study", f"--config={ROOT / 'configs/landmarks.py'}"],
    ],
    ids=["train", "ablate", "landmarks study"],
)
def test_a_second_command_in_a_folder_is_refused_in_one_line(tmp_path, command, capsys):
    with holding(tmp_path):
        says = mistake(capsys, *command, f"--workdir={tmp_path}")
        assert f"{tmp_path} is in use by process {os.getpid()} on " in says
        assert "wait until it has ended, or name another --workdir" in says
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_a_second_robustness_of_a_run_is_refused(finished_run, capsys):
    with holding(finished_run, "robustness.lock"):
        assert "is in use by" in mistake(capsys, "robustness", f"--workdir={finished_run}")


def test_what_a_killed_process_left_is_replaced_at_once(tmp_path, other, capsys):
    with pytest.raises(UserError, match=f"in use by process {other.pid} on"):
        enter(tmp_path)
    other.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10  # nobody has waited for it: it is still in the list
    while lock._started(other.pid) not in ("ended", "") and time.monotonic() < deadline:
        time.sleep(0.01)
    start = time.monotonic()
    enter(tmp_path)
    assert time.monotonic() - start < 2
    said = capsys.readouterr().err
    assert f"process {other.pid} on " in said
    assert f"ended without removing {tmp_path / LOCK}; the lock is replaced" in said
    assert not list(tmp_path.iterdir())


def test_a_process_number_that_came_again_is_another_process(tmp_path, other):
    with holding(tmp_path / "own"):
        text = (tmp_path / "own" / LOCK).read_text()
    started = json.loads(text)["started"]
    if not started:
        pytest.skip("this system does not tell when a process was started")
    folder = tmp_path / "left"
    folder.mkdir()
    (folder / LOCK).write_text(text)
    with pytest.raises(UserError, match="in use by"):
        enter(folder)
    (folder / LOCK).write_text(text.replace(f'"{started}"', f'"{int(started) - 1}"'))
    enter(folder)


def test_a_process_elsewhere_is_known_by_its_signs_of_life(tmp_path, quick, capsys):
    ended = threading.Event()
    with holding(tmp_path):
        of_another_machine(tmp_path)
        kept = (tmp_path / LOCK).read_text()
    (tmp_path / LOCK).write_text(kept)
    there = lock.Holder(**json.loads(kept))
    beats = threading.Thread(target=lock._beat, args=(tmp_path / LOCK, there, ended))
    beats.start()
    beat = iter(range(1_000_000))
    now, lock._now = lock._now, lambda: f"time {next(beat)}"
    try:
        with pytest.raises(UserError, match=r"in use by process \d+ on tpu-7"):
            enter(tmp_path)
    finally:
        lock._now = now
        ended.set()
        beats.join()
    assert "belongs to process" in capsys.readouterr().err
    enter(tmp_path)
    assert "on tpu-7 ended without removing" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_half_a_lock_is_nobodys(tmp_path, quick):
    (tmp_path / LOCK).write_text('{"host": "a')
    enter(tmp_path)
    assert not list(tmp_path.iterdir())


def test_of_many_that_find_a_stale_lock_one_gets_it(tmp_path, quick):
    with holding(tmp_path):
        text = (tmp_path / LOCK).read_text()
    stale = dataclasses.replace(lock.Holder(**json.loads(text)), started="0")
    (tmp_path / LOCK).write_text(lock._text(stale))
    inside, refused = [], []

    def run():
        try:
            with holding(tmp_path):
                inside.append(1)
                barrier.wait(10)
        except UserError:
            refused.append(1)
            barrier.wait(10)

    barrier = threading.Barrier(4)
    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(inside), len(refused)) == (1, 3)
