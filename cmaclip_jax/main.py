"""The command: `python -m cmaclip_jax.main [VERB] ...`, and `cmaclip` on the PATH.

`train` is the verb when none is named. A user's mistake ends in one line that says what
to do, with status 2, and so does a lack of memory; `--debug` shows where it was noticed.
"""

import contextlib
import importlib
import os
import sys

from cmaclip_jax import process
from cmaclip_jax.commands.memory_advice import out_of_memory
from cmaclip_jax.errors import Interrupted, UserError
from cmaclip_jax.files import full_disk

VERBS = {
    "train": "train a model from a config (the verb when none is named)",
    "evaluate": "judge a trained run, choose its thresholds; or judge CLIP alone (zero-shot)",
    "predict": "answer every row of a table with a trained run",
    "report": "write a page about a run: curves, thresholds, confusions, mistakes, pictures",
    "explain": "write a page about rows of a table: what the answers to them rest on",
    "export": "write a trained run as StableHLO that runs without this project",
    "prepare": "write any data as record files with small pictures, to train from",
    "ablate": "train with and without each part of the model, over seeds, and compare",
    "robustness": "judge trained runs on pictures and words made worse, step by step",
    "doctor": "check this machine, or all hosts of a cluster, before a job",
    "plan": "say whether a run fits on TPUs that are not here, and how long it will take",
    "bench": "measure the steps of a run, and its input pipeline, on this machine",
    "convert": "read or write other people's CLIP checkpoints",
    "landmarks": "measure how still facial landmarks in video are; study what makes them so",
}

# Those that go on where they were stopped, when the same command is given again.
CONTINUING = ("train", "predict", "prepare", "ablate", "robustness", "landmarks study")

CLUSTER = "CMACLIP_CLUSTER"  # the environment variable that says what --cluster says


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb; returns the exit status."""
    try:
        return run_verb(list(sys.argv[1:] if arguments is None else arguments))
    except KeyboardInterrupt:
        return 130


def run_verb(arguments: list[str]) -> int:
    """Runs one verb; returns the exit status.

    Raises:
      KeyboardInterrupt: Ctrl-C, after the line that says what the same command would do.
    """
    process.prepare()
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    cluster, arguments = cluster_option(arguments)
    joined = False
    if arguments in (["-h"], ["--help"]):
        print(overview())
        return 0
    called = ""
    try:
        verb, rest = split_verb(arguments)
        called = " ".join([verb, *rest[:1]]) if verb == "landmarks" else verb
        command = importlib.import_module(f"cmaclip_jax.commands.{verb}")
        if cluster and verb == "doctor":  # who looks at the hosts before joining them
            rest = [*rest, f"--cluster={cluster}"]
        elif cluster:
            join_cluster(cluster)
            joined = True
        return command.run(rest) or 0
    except UserError as error:
        if debug:
            raise
        return end(f"{error}", joined)
    except KeyboardInterrupt:
        would = "continues" if called in CONTINUING else "begins again"
        print(f"cmaclip: interrupted; the same command {would}", file=sys.stderr)
        raise
    except Interrupted as stop:
        print(f"cmaclip: {stop}", file=sys.stderr)
        return stop.status
    except Exception as error:
        if debug:
            raise
        if line := full_disk(error) or out_of_memory(called, error):
            return end(line, joined)
        if cluster:
            leave_without(error)
        raise


def cluster_option(arguments: list[str]) -> tuple[str, list[str]]:
    """What `--cluster=...` or else the environment says, and the other arguments."""
    given = [a.split("=", 1)[1] for a in arguments if a.startswith("--cluster=")]
    rest = [a for a in arguments if not a.startswith("--cluster=")]
    return (given or [os.environ.get(CLUSTER, "")])[-1], rest


def join_cluster(cluster: str) -> None:
    """Makes this process one of several, before anything asks for devices."""
    from cmaclip_jax.parallel.cluster import join, place  # imports JAX

    address, number, count = place(cluster)
    if number == 0 and count > 1:
        print(f"waiting for {count - 1} other host(s) at {address} ...", file=sys.stderr)
    join(cluster)


def end(line: str, joined: bool) -> int:
    """Prints the one line of a mistake or a limit that the user can change; returns status 2."""
    print(f"cmaclip: {line}", file=sys.stderr, flush=True)
    if joined:
        from cmaclip_jax.parallel.cluster import end_with_others  # imports JAX

        end_with_others(2)
    return 2


def leave_without(error: BaseException) -> None:
    """Ends this process where its run broke because another one is gone.

    At once: in an orderly end JAX would wait for the lost process, and then abort.
    """
    from cmaclip_jax.parallel.cluster import lost_peer, missing_hosts  # imports JAX

    lost = lost_peer(error)
    if not lost:
        return
    print(f"cmaclip: {lost}", file=sys.stderr, flush=True)
    if missing := missing_hosts():
        print(f"cmaclip: host {missing} failed, or was taken", file=sys.stderr, flush=True)
    os._exit(1)


def overview() -> str:
    """What the command can do."""
    verbs = "".join(f"  cmaclip {verb:10} {what}\n" for verb, what in VERBS.items())
    return (
        "cmaclip --config=FILE [--workdir=DIR] [--config.FIELD=VALUE ...] trains and evaluates.\n\n"
        f"{verbs}\ncmaclip VERB --help says what a verb takes."
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
    try:
        sys.exit(run_verb(sys.argv[1:]))
    except KeyboardInterrupt:
        # Devices may still compute what nobody waits for: an orderly end would take the memory
        # from under them, and crash.
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(130)


if __name__ == "__main__":
    console()
