"""The command: `python -m cmaclip_jax.main [VERB] ...`, and `cmaclip` on the PATH.

`train` is the verb when none is named. An error that a user can cure, a lack of memory or
disk space included, ends in one line that says what to do. The status is then 2; `--debug` shows
the traceback.
"""

import contextlib
import dataclasses
import importlib
import os
import sys

from cmaclip_jax import process
from cmaclip_jax.commands.memory_advice import out_of_memory
from cmaclip_jax.errors import Interrupted, UserError
from cmaclip_jax.files import full_disk

VERBS = {
    "train": "train a model from a config (the verb when none is named)",
    "evaluate": "evaluate a trained run, choose its thresholds; or evaluate CLIP (zero-shot)",
    "predict": "answer every row of a table with a trained run",
    "label": "fill the missing labels of a table, at a promised precision; train on them again",
    "report": "write a page about a run: curves, thresholds, confusions, mistakes, pictures",
    "serve": "answer pairs over HTTP with a trained run",
    "explain": "write a page on single rows: which words and patches the answers rest on",
    "export": "write a trained run as StableHLO or ONNX that runs without this project",
    "push": "write a trained run for others: a folder or a hub repository, with a model card",
    "prepare": "write any data set as record files of small pictures to train from",
    "ablate": "train with and without each part of the model, over seeds, and compare",
    "compare": "train CMA-CLIP and what its paper compares it with, over seeds, on your data",
    "audit": "find labels that are probably wrong, twins and leaks; correct the table",
    "robustness": "evaluate trained runs on pictures and words with noise of rising severity",
    "doctor": "check this machine, or all hosts of a cluster, before a job",
    "plan": "compile a run for TPUs you do not have yet: does it fit, how long does it take",
    "bench": "measure the steps of a run, and its input pipeline, on this machine",
    "convert": "read or write other people's CLIP checkpoints",
    "landmarks": "measure the stability of facial landmarks in video; study annotation noise",
}

# Verbs that continue where they were stopped when the same command is given again.
CONTINUING = ("train", "predict", "label", "prepare", "ablate", "compare", "audit", "robustness")
CONTINUING += ("landmarks study",)

CLUSTER = "CMACLIP_CLUSTER"  # the environment variable that stands for --cluster


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb; returns the exit status."""
    try:
        return run_verb(list(sys.argv[1:] if arguments is None else arguments))
    except KeyboardInterrupt:
        return 130


def run_verb(arguments: list[str]) -> int:
    """Runs one verb; returns the exit status.

    Raises:
      KeyboardInterrupt: Ctrl-C, after a line that says what the same command would do.
    """
    process.prepare()
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    cluster, arguments = cluster_option(arguments)
    if arguments in (["-h"], ["--help"]):
        print(overview())
        return 0
    called = Called()
    try:
        return call(called, cluster, arguments)
    except KeyboardInterrupt:
        would = "continues" if called.name in CONTINUING else "begins again"
        print(f"cmaclip: interrupted; the same command {would}", file=sys.stderr)
        raise
    except Interrupted as stop:
        print(f"cmaclip: {stop}", file=sys.stderr)
        return stop.status
    except Exception as error:
        if debug:
            raise
        if line := one_line(called.name, error):
            return end(line, called.joined)
        if cluster:
            leave_without(error)
        raise


@dataclasses.dataclass
class Called:
    """The verb that runs, and whether this process has joined the other hosts."""

    name: str = ""
    joined: bool = False


def call(called: Called, cluster: str, arguments: list[str]) -> int:
    """Finds the verb, joins the other hosts if there are some, and runs the verb."""
    verb, rest = split_verb(arguments)
    called.name = " ".join([verb, *rest[:1]]) if verb == "landmarks" else verb
    command = importlib.import_module(f"cmaclip_jax.commands.{verb}")
    if cluster and verb == "doctor":  # the doctor checks the hosts before it joins them
        rest = [*rest, f"--cluster={cluster}"]
    elif cluster:
        join_cluster(cluster)
        called.joined = True
    return command.run(rest) or 0


def one_line(verb: str, error: Exception) -> str:
    """The line for an error that a user can cause or cure; '' for any other error."""
    if isinstance(error, UserError):
        return str(error)
    return full_disk(error) or out_of_memory(verb, error)


def cluster_option(arguments: list[str]) -> tuple[str, list[str]]:
    """The value of `--cluster=...`, or of the environment variable, and the other arguments."""
    given = [a.split("=", 1)[1] for a in arguments if a.startswith("--cluster=")]
    rest = [a for a in arguments if not a.startswith("--cluster=")]
    return (given or [os.environ.get(CLUSTER, "")])[-1], rest


def join_cluster(cluster: str) -> None:
    """Joins the other hosts, which must happen before JAX looks for devices."""
    from cmaclip_jax.parallel.joining import join, place  # imports JAX

    address, number, count = place(cluster)
    if number == 0 and count > 1:
        print(f"waiting for {count - 1} other host(s) at {address} ...", file=sys.stderr)
    join(cluster)


def end(line: str, joined: bool) -> int:
    """Prints the line of an error that a user can cure; returns status 2."""
    print(f"cmaclip: {line}", file=sys.stderr, flush=True)
    if joined:
        from cmaclip_jax.parallel.lost_hosts import end_with_others  # imports JAX

        end_with_others(2)
    return 2


def leave_without(error: BaseException) -> None:
    """Ends this process at once if the error came from the loss of another host.

    In an orderly exit JAX would wait for the lost process, and then abort.
    """
    from cmaclip_jax.parallel.lost_hosts import lost_peer, missing_hosts  # imports JAX

    lost = lost_peer(error)
    if not lost:
        return
    print(f"cmaclip: {lost}", file=sys.stderr, flush=True)
    if missing := missing_hosts():
        print(f"cmaclip: host {missing} failed or was preempted", file=sys.stderr, flush=True)
    os._exit(1)


def overview() -> str:
    """The help text of the whole command: its verbs."""
    verbs = "".join(f"  cmaclip {verb:10} {what}\n" for verb, what in VERBS.items())
    return (
        "cmaclip --config=FILE [--workdir=DIR] [--config.FIELD=VALUE ...] trains and evaluates.\n\n"
        f"{verbs}\ncmaclip VERB --help lists the arguments of a verb."
    )


def split_verb(arguments: list[str]) -> tuple[str, list[str]]:
    """The verb and what follows it."""
    if not arguments or arguments[0].startswith("-"):
        return "train", arguments
    if arguments[0] not in VERBS:
        raise UserError(f"unknown verb {arguments[0]!r}; there is {', '.join(VERBS)}")
    return arguments[0], arguments[1:]


def console() -> None:
    """The entry point of the console script."""
    process.restart_with_huge_pages()
    try:
        sys.exit(run_verb(sys.argv[1:]))
    except KeyboardInterrupt:
        # Devices may still be computing. An orderly exit would free their memory and crash.
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(130)


if __name__ == "__main__":
    console()
