"""Several processes as one run: joining, waiting for one another, and losing a process."""

import contextlib
import itertools
import os
import re
import time
from collections.abc import Iterator

import jax

from cmaclip_jax.errors import UserError
from cmaclip_jax.parallel.rendezvous import meet

SECONDS_TO_JOIN = 300
SECONDS_TO_WAIT = 600  # for a host that prepares something for all
SECONDS_TO_END = 15  # for the other hosts to end, after an error on this one
FINE = "fine"  # what process 0 sends to the others if its block raised no error
SECONDS_OF_SILENCE = 30  # after which a silent host counts as lost

# Texts of errors: the coordination service names a lost process; a collective lost its connection.
GONE = re.compile(r"[Tt]ask[:/ ](?:index )?(\d+) (?:heartbeat timeout|failed|disconnected)")
BROKEN = ("Gloo", "gloo", "Connection reset", "Connection closed", "coordination service")

_barriers = itertools.count()  # every process reaches the barriers in the same order


def join(cluster: str, seconds: float | None = None, silence: int = SECONDS_OF_SILENCE) -> None:
    """Joins this process to a cluster; does nothing if `cluster` is empty.

    cluster: 'auto' for a cluster that JAX detects (TPU pods, SLURM, GKE, Open MPI), or
        'HOST:PORT,K/N': this is process K of N, and process 0 listens at that address.
    seconds: how long to wait for all processes.
    silence: the seconds after which a silent host counts as lost.

    Raises:
      UserError: a process is missing, or process 0 cannot be reached.
    """
    if not cluster:
        return
    meet(*place(cluster), seconds or SECONDS_TO_JOIN)
    parameters = {} if cluster == "auto" else _parsed(cluster)
    jax.config.update("jax_enable_preemption_service", True)  # passes SIGTERM on to all processes
    try:
        jax.distributed.initialize(
            **parameters,
            initialization_timeout=SECONDS_TO_JOIN,
            heartbeat_timeout_seconds=silence,
        )
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"--cluster={cluster}: cannot join the other processes ({reason})"
        ) from error


def _parsed(cluster: str) -> dict:
    address, _, place = cluster.partition(",")
    number, _, count = place.partition("/")
    port = address.rpartition(":")[2]
    if not (port.isdigit() and number.isdigit() and count.isdigit() and int(number) < int(count)):
        raise UserError(
            f"--cluster={cluster}: write auto, or HOST:PORT,K/N as 10.0.0.2:8476,0/4 (this is "
            "process K of N, numbered from 0, and process 0 listens there)"
        )
    return {
        "coordinator_address": address,
        "process_id": int(number),
        "num_processes": int(count),
    }


def place(cluster: str) -> tuple[str, int, int]:
    """(address of process 0, number of this process, number of processes), without joining."""
    if not cluster:
        return "", 0, 1
    if cluster != "auto":
        return tuple(_parsed(cluster).values())
    from jax._src.clusters import ClusterEnv  # the public function also joins

    address, count, number, _ = ClusterEnv.auto_detect_unset_distributed_params(
        None, None, None, None, None, SECONDS_TO_JOIN
    )
    if None in (address, count, number):
        raise UserError(
            "--cluster=auto: JAX finds no TPU pod, SLURM, GKE or Open MPI here; write "
            "--cluster=HOST:PORT,K/N"
        )
    return address, number, count


def exchange(what: str, text: str, seconds: float) -> list[str | None]:
    """The texts of all processes, by number; None for a process that was late.

    what: a name that no other exchange has. The texts go through the coordinator, not through
        devices.
    """
    from jax._src import distributed  # there is no public function

    state = distributed.global_state
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
    from jax._src import distributed  # there is no public function

    client, name = distributed.global_state.client, f"first/{next(_barriers)}"
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
    from jax._src import distributed  # the public barrier has no timeout and names no process

    with _waiting(what):
        name = f"{what} ({next(_barriers)})"  # every barrier needs a name of its own
        distributed.global_state.client.wait_at_barrier(name, SECONDS_TO_WAIT * 1000)


@contextlib.contextmanager
def _waiting(what: str) -> Iterator[None]:
    """Turns a timeout into a UserError that says what this process waited for."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"waited for the other hosts before {what}: {reason}") from error


def end_with_others(status: int) -> None:
    """Ends this process with `status`, at once if the other hosts go on.

    Otherwise JAX would wait minutes for them at exit, and then abort with another status.
    """
    if jax.process_count() == 1:
        return
    from jax._src import distributed

    try:
        distributed.global_state.client.wait_at_barrier("end", SECONDS_TO_END * 1000)
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
    from jax._src import distributed

    try:
        distributed.global_state.client.wait_at_barrier("roll", 2 * SECONDS_OF_SILENCE * 1000)
    except jax.errors.JaxRuntimeError as error:
        return ", ".join(sorted(set(GONE.findall(str(error)))))
    return ""
