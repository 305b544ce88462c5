"""What the arguments of all verbs have in common."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from ml_collections import ConfigDict

from cmaclip_jax.config import read_config
from cmaclip_jax.errors import UserError
from cmaclip_jax.tasks import Task


def make_parser(verb: str, text: str) -> argparse.ArgumentParser:
    """A parser that shows `text` as it stands; the verb adds its own arguments."""
    parser = argparse.ArgumentParser(
        prog=f"cmaclip {verb}",
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def add_checkpoint_argument(parser: argparse.ArgumentParser) -> None:
    """Which of a run's checkpoints is opened."""
    parser.add_argument(
        "--checkpoint",
        default="newest",
        metavar="WHICH",
        help="newest, best (by the score on eval.watch) or a step (default: %(default)s)",
    )


def add_tasks_argument(parser: argparse.ArgumentParser) -> None:
    """The tasks of a run whose data is not looked at."""
    parser.add_argument("--tasks", default="", help="NAME:CLASSES,... (default: label:100)")


def named_tasks(text: str) -> list[Task]:
    """The tasks that 'dish:101,gender:5' names."""
    tasks = []
    for part in (text or "label:100").split(","):
        name, _, classes = part.rpartition(":")
        if not name or not classes.isdigit():
            raise UserError(f"--tasks={text}: write NAME:CLASSES, as --tasks=dish:101,gender:5")
        tasks.append(Task(name, tuple(map(str, range(int(classes))))))
    return tasks


def assumptions(config: ConfigDict, tasks: str, sized: bool = False) -> Iterator[str]:
    """What is taken for granted where no data is looked at; each with the way to say it.

    sized: whether the encoders' size was said apart from the config.
    """
    if not tasks:
        yield "assumed: one task of 100 classes; say yours with --tasks=NAME:CLASSES,..."
    if config.data.text_length == -1:
        yield (
            "assumed: texts as long as the encoder takes them; say what your data needs with "
            "--config.data.text_length=32"
        )
    if config.model.pretrained and not sized:
        yield (
            f"assumed: {config.model.pretrained} is of the size model.image={config.model.image}, "
            "where it does not lie on this disk"
        )


def read_named_config(arguments: list[str]) -> tuple[ConfigDict, str]:
    """The config that `--config=FILE --config.a.b=value ...` describe, and its file's name."""
    config = read_config(arguments)
    file = next(a for a in reversed(arguments) if a.startswith("--config="))
    return config, Path(file).stem
