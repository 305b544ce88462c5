"""Calls in a process of their own: results, errors, signals, and the end of a killed process."""

import os
import signal
import threading
import time

import pytest

from cmaclip_jax.errors import Interrupted, UserError
from cmaclip_jax.studies.own_process import in_own_process


def process_number():
    return os.getpid()


def fail(error):
    raise error


def kill_itself():
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_signal(file):
    """Ends like a training that was asked to stop."""

    def stop(number, _frame):
        raise Interrupted("saved", 128 + number)

    signal.signal(signal.SIGTERM, stop)
    file.touch()
    time.sleep(60)


def test_every_call_has_a_process_of_its_own():
    numbers = {in_own_process(process_number) for _ in range(2)}
    assert len(numbers) == 2
    assert os.getpid() not in numbers


def test_an_error_comes_back():
    with pytest.raises(UserError, match="mend it") as caught:
        in_own_process(fail, UserError("mend it"))
    assert "in fail" in caught.value.__notes__[0]  # the traceback of the other process
    with pytest.raises(KeyboardInterrupt):
        in_own_process(fail, KeyboardInterrupt())


class Uncopied(Exception):
    """An error that pickle cannot make again, because its constructor takes two values."""

    def __init__(self, what, why):
        super().__init__(f"{what}: {why}")


def fail_uncopied():
    raise Uncopied("lost", "for good")


def test_an_error_that_cannot_be_copied_keeps_its_text():
    with pytest.raises(RuntimeError, match="Uncopied: lost: for good"):
        in_own_process(fail_uncopied)


def test_a_killed_process_is_an_error_with_advice():
    with pytest.raises(UserError, match=r"ended by signal 9 .* set a smaller train.batch_size"):
        in_own_process(kill_itself)


def test_sigterm_is_passed_on_and_the_answer_awaited(tmp_path):
    file, before = tmp_path / "ready", signal.getsignal(signal.SIGTERM)

    def terminate():
        while not file.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=terminate).start()
    with pytest.raises(Interrupted, match="saved") as caught:
        in_own_process(wait_for_signal, file)
    assert caught.value.status == 143
    assert signal.getsignal(signal.SIGTERM) == before
