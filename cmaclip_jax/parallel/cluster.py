"""Several processes as one run: which one leads, and waiting for one another."""

import contextlib
import itertools
import time
from collections.abc import Iterator

import jax

from cmaclip_jax.errors import UserError

SECONDS_TO_WAIT = 600  # for a host that prepares something for all
FINE = "fine"  # what process 0 sends to the others if its block raised no error

_barriers = itertools.count()  # every process reaches the barriers in the same order


def coordination():
    """JAX's state of a run of several processes; its `client` is None before they have joined.

    JAX has no public function for it, and its public barrier has no timeout and names no process.
    """
    from jax._src import distributed  # private: a run of one process must not depend on it

    return distributed.global_state


def exchange(what: str, text: str, seconds: float) -> list[str | None]:
    """The texts of all processes, by number; None for a process that was late.

    what: a name that no other exchange has. The texts go through the coordinator, not through
        devices.
    """
    state = coordination()
    if state.client is None:
        return [text]
    state.client.key_value_set(f"exchange/{what}/{state.process_id}", text)
    deadline, texts = time.monotonic() + seconds, []
    for number in range(state.num_processes):
        left = max(deadline - time.monotonic(), 0.1)
        try:
            key = f"exchange/{what}/{number}"
            texts.append(state.client.blocking_key_value_get(key, round(left * 1000)))
        except jax.errors.JaxRuntimeError:
            texts.append(None)
    return texts


def leads() -> bool:
    """Whether this process writes files and prints: process 0."""
    return jax.process_index() == 0


@contextlib.contextmanager
def leader_first(what: str) -> Iterator[None]:
    """Runs the block on process 0 first, and then on all others.

    If process 0 raises a UserError, all processes raise it, and none waits for process 0.
    """
    if jax.process_count() == 1:
        yield
        return
    client, name = coordination().client, f"first/{next(_barriers)}"
    if not leads():
        with _waiting(what):
            message = client.blocking_key_value_get(name, SECONDS_TO_WAIT * 1000)
        if message != FINE:
            raise UserError(message)
        yield
        return
    try:
        yield
    except UserError as error:
        client.key_value_set(name, str(error))
        raise
    client.key_value_set(name, FINE)


def wait_for_all(what: str) -> None:
    """Waits until every process has called this.

    Raises:
      UserError: a process was late.
    """
    if jax.process_count() == 1:
        return
    with _waiting(what):
        name = f"{what} ({next(_barriers)})"  # every barrier needs a name of its own
        coordination().client.wait_at_barrier(name, SECONDS_TO_WAIT * 1000)


@contextlib.contextmanager
def _waiting(what: str) -> Iterator[None]:
    """Turns a timeout into a UserError that says what this process waited for."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"waited for the other hosts before {what}: {reason}") from error
