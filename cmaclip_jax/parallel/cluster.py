"""Several processes that are one run: joining them, waiting for one another, agreeing."""

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
SECONDS_TO_WAIT = 600  # for a host that prepares something alone
SECONDS_TO_END = 15  # for the other hosts, where this one ends with an error
FINE = "fine"  # what process 0 says when it has done its part
SECONDS_OF_SILENCE = 30  # after which a host is given up

# How the coordination service names a process that it lost, and what broken collectives say.
GONE = re.compile(r"[Tt]ask[:/ ](?:index )?(\d+) (?:heartbeat timeout|failed|disconnected)")
BROKEN = ("Gloo", "gloo", "Connection reset", "Connection closed", "coordination service")

_barriers = itertools.count()  # every process comes to them in the same order


def join(cluster: str, seconds: float | None = None, silence: int = SECONDS_OF_SILENCE) -> None:
    """Makes this process one of a cluster; nothing where `cluster` is empty.

    cluster: 'auto' for what JAX finds by itself (TPU pods, SLURM, GKE, Open MPI), or
        'HOST:PORT,K/N': this is process K of N, and process 0 can be reached there.
    seconds: for all of them to come.
    silence: the seconds after which a host that says nothing is given up.

    Raises:
      UserError: somebody did not come, or process 0 cannot be reached.
    """
    if not cluster:
        return
    meet(*place(cluster), seconds or SECONDS_TO_JOIN)
    found = {} if cluster == "auto" else _parsed(cluster)
    jax.config.update("jax_enable_preemption_service", True)  # SIGTERM of one reaches all
    try:
        jax.distributed.initialize(
            **found,
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
    """(address of process 0, number of this process, how many there are), without joining."""
    if not cluster:
        return "", 0, 1
    if cluster != "auto":
        return tuple(_parsed(cluster).values())
    from jax._src.clusters import ClusterEnv  # the public way finds and joins at once

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
    """What every process says, by number, once for every `what`; None for one that was late.

    Needs no devices: it goes by the way of the coordinator.
    """
    from jax._src import distributed  # there is no public way

    state = distributed.global_state
    if state.client is None:
        return [text]
    state.client.key_value_set(f"exchange/{what}/{state.process_id}", text)
    deadline, said = time.monotonic() + seconds, []
    for number in range(state.num_processes):
        left = max(deadline - time.monotonic(), 0.1)
        try:
            key = f"exchange/{what}/{number}"
            said.append(state.client.blocking_key_value_get(key, round(left * 1000)))
        except jax.errors.JaxRuntimeError:
            said.append(None)
    return said


def leads() -> bool:
    """Whether this process is the one that writes and speaks."""
    return jax.process_index() == 0


@contextlib.contextmanager
def leader_first(what: str) -> Iterator[None]:
    """Runs the block on process 0 first, then on all others, which find what process 0 made.

    If process 0 raises a UserError, all processes raise it: none waits for one that has ended.
    """
    if jax.process_count() == 1:
        yield
        return
    from jax._src import distributed  # there is no public way

    client, name = distributed.global_state.client, f"first/{next(_barriers)}"
    if not leads():
        with _waiting(what):
            said = client.blocking_key_value_get(name, SECONDS_TO_WAIT * 1000)
        if said != FINE:
            raise UserError(said)
        yield
        return
    try:
        yield
    except UserError as error:
        client.key_value_set(name, str(error))
        raise
    client.key_value_set(name, FINE)


def wait_for_all(what: str) -> None:
    """Until every process is here.

    Raises:
      UserError: somebody did not come in time.
    """
    if jax.process_count() == 1:
        return
    from jax._src import distributed  # the public barrier has no timeout and names nobody

    with _waiting(what):
        name = f"{what} ({next(_barriers)})"  # of no two may have the same
        distributed.global_state.client.wait_at_barrier(name, SECONDS_TO_WAIT * 1000)


@contextlib.contextmanager
def _waiting(what: str) -> Iterator[None]:
    """Says for what this process waited in vain."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"waited for the other hosts before {what}: {reason}") from error


def end_with_others(status: int) -> None:
    """Ends this process at once where the other hosts go on.

    In an orderly end JAX would wait minutes for them, and then abort with a status of its own.
    """
    if jax.process_count() == 1:
        return
    from jax._src import distributed

    try:
        distributed.global_state.client.wait_at_barrier("end", SECONDS_TO_END * 1000)
    except jax.errors.JaxRuntimeError:
        os._exit(status)


def lost_peer(error: BaseException | None) -> str:
    """What to say of an error that means that another process is gone; '' for any other."""
    said = _chain(error)
    gone = sorted(set(GONE.findall(said)))
    if not gone and not any(word in said for word in BROKEN):
        return ""
    what = f"host {', '.join(gone)} is gone" if gone else "the connection to another host broke"
    here = f"host {jax.process_index()} of {jax.process_count()} stops"
    return f"{here}: {what}; the same command continues"


def _chain(error: BaseException | None) -> str:
    """All that an error and those it came from have to say."""
    said = ""
    while error is not None:
        said += f" {error}"
        error = error.__cause__ or error.__context__
    return said


def missing_hosts() -> str:
    """Which processes do not answer any more, found by calling the roll.

    That takes as long as a silent process is waited for. JAX may end this one first, naming them
    in its own words.
    """
    from jax._src import distributed

    try:
        distributed.global_state.client.wait_at_barrier("roll", 2 * SECONDS_OF_SILENCE * 1000)
    except jax.errors.JaxRuntimeError as error:
        return ", ".join(sorted(set(GONE.findall(str(error)))))
    return ""
