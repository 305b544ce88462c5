"""Joining the processes of a run, before JAX looks for devices."""

import jax

from cmaclip_jax.errors import UserError
from cmaclip_jax.parallel.rendezvous import meet
from cmaclip_jax.process import computes_on_cpu

SECONDS_TO_JOIN = 300
SECONDS_OF_SILENCE = 30  # after which a silent host counts as lost


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
    if computes_on_cpu():
        # XLA often aborts CPU hosts that run a program from the cache of compiled programs: in a
        # Gloo collective, the message of one host has another size than the other host expects.
        jax.config.update("jax_compilation_cache_dir", None)
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
