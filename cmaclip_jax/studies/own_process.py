"""Calls in a process of their own, so that a study keeps nothing of the runs that it has made.

A process that has trained a model keeps compiled programs and freed memory until it ends, and it
keeps the accelerator. So the process of a study only waits, and every run gets a new process.
"""

import contextlib
import multiprocessing
import os
import pickle
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import jax

from cmaclip_jax import process
from cmaclip_jax.errors import Interrupted, UserError
from cmaclip_jax.parallel.cluster import coordination


def in_own_process(function: Callable, *arguments: Any) -> Any:
    """Calls a function in a new process; returns its result or raises its error.

    Hosts that have joined one another stay in their processes, because a new one would not belong
    to the cluster.

    Raises:
      UserError: the system killed the new process.
      Interrupted: a signal ended it before the function could take the signal.
    """
    if coordination().client is not None:
        return function(*arguments)
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(sender, function, arguments))
    child.start()
    sender.close()  # only the child's copy stays open, so the end of the child ends the wait
    with _passing_on_signals(child):
        try:
            error, result = receiver.recv()
        except EOFError:
            child.join()
            error, result = _killed(child), None
        child.join()
    if error is not None:
        raise error
    return result


def leave_devices_to_others() -> None:
    """Keeps this process on the CPU, so that a process that it starts gets the accelerator."""
    if coordination().client is None:
        jax.config.update("jax_platforms", "cpu")


def _answer(sender: Connection, function: Callable, arguments: tuple) -> None:
    """Runs in the new process: sends `(error, result)` to the process that waits."""
    # In a group of its own, the process gets each signal once: from the process that waits.
    os.setpgid(0, 0)
    process.prepare()
    try:
        answer = None, function(*arguments)
    except BaseException as error:
        answer = _sendable(error), None
    sender.send(answer)
    if isinstance(answer[0], KeyboardInterrupt):
        # Devices may still be computing. An orderly exit would free their memory and crash.
        os._exit(130)


def _sendable(error: BaseException) -> BaseException:
    """The error with its traceback as a note; a RuntimeError where pickle cannot copy the error.

    The only bytes that are unpickled here are those of this process's own error.
    """
    trace = "".join(traceback.format_exception(error))
    error.add_note(trace)
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(trace)
    return error


def _killed(child: BaseProcess) -> Exception:
    """The error for a process that ended without an answer."""
    status = child.exitcode or 0
    if -status in (signal.SIGINT, signal.SIGTERM):  # before the run could take the signal
        return Interrupted("stopped; the same command continues", 128 - status)
    cause = f"by signal {-status}" if status < 0 else f"with status {status}"
    return UserError(
        f"the process of a run ended {cause} without an answer; if memory ran out, set a smaller "
        "train.batch_size or train.accumulate. The same command continues"
    )


def _passing_on_signals(child: BaseProcess) -> contextlib.AbstractContextManager[None]:
    """Inside the block, Ctrl-C and SIGTERM reach the child, which saves its run and ends."""

    def pass_on(number: int, _frame: Any) -> None:
        if child.pid is not None and child.is_alive():
            os.kill(child.pid, number)

    return process.signal_handlers({signal.SIGINT: pass_on, signal.SIGTERM: pass_on})
