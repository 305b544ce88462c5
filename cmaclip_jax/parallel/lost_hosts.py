"""Errors on one host of several, and errors that come from the loss of another host."""

import os
import re

import jax

from cmaclip_jax.parallel.cluster import coordination
from cmaclip_jax.parallel.joining import SECONDS_OF_SILENCE

SECONDS_TO_END = 15  # for the other hosts to end, after an error on this one

# Texts of errors: the coordination service names a lost process; a collective lost its connection.
GONE = re.compile(r"[Tt]ask[:/ ](?:index )?(\d+) (?:heartbeat timeout|failed|disconnected)")
BROKEN = ("Gloo", "gloo", "Connection reset", "Connection closed", "coordination service")


def end_with_others(status: int) -> None:
    """Ends this process with `status`, at once if the other hosts go on.

    Otherwise JAX would wait minutes for them at exit, and then abort with another status.
    """
    if jax.process_count() == 1:
        return
    try:
        coordination().client.wait_at_barrier("end", SECONDS_TO_END * 1000)
    except jax.errors.JaxRuntimeError:
        os._exit(status)


def lost_peer(error: BaseException | None) -> str:
    """The message for an error that was caused by the loss of another process; '' for others."""
    text = _chain(error)
    gone = sorted(set(GONE.findall(text)))
    if not gone and not any(word in text for word in BROKEN):
        return ""
    what = f"host {', '.join(gone)} is gone" if gone else "the connection to another host broke"
    here = f"host {jax.process_index()} of {jax.process_count()} stops"
    return f"{here}: {what}; the same command continues"


def _chain(error: BaseException | None) -> str:
    """The texts of an error and of its causes."""
    text = ""
    while error is not None:
        text += f" {error}"
        error = error.__cause__ or error.__context__
    return text


def missing_hosts() -> str:
    """The numbers of lost processes, found by a barrier that all living processes reach.

    It takes up to twice `SECONDS_OF_SILENCE`. JAX may end this process earlier, with a message of
    its own that names the lost processes.
    """
    try:
        coordination().client.wait_at_barrier("roll", 2 * SECONDS_OF_SILENCE * 1000)
    except jax.errors.JaxRuntimeError as error:
        return ", ".join(sorted(set(GONE.findall(str(error)))))
    return ""
