"""Arguments that several verbs share."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from ml_collections import ConfigDict

from cmaclip_jax.config_arguments import read_config
from cmaclip_jax.errors import UserError
from cmaclip_jax.tasks import Task

CONFIG_HELP = """\
  --config=FILE            the run's config, for example configs/food101.py
  --config.FIELD=VALUE     changes one of its fields; cmaclip_jax/config.py lists them all"""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, like all errors that a user can cure."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; {self.prog} --help lists the arguments")


def make_parser(verb: str, text: str) -> argparse.ArgumentParser:
    """A parser that shows `text` as it stands; the verb adds its own arguments."""
    parser = Parser(
        prog=f"cmaclip {verb}",
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def add_run_argument(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """The run of a verb that answers with it, and writes elsewhere."""
    parser.add_argument(
        "--workdir",
        required=required,
        metavar="DIR",
        help="the run's folder, or hf://ORG/NAME[@REVISION] on the Hugging Face hub",
    )


def add_checkpoint_argument(parser: argparse.ArgumentParser) -> None:
    """Which of a run's checkpoints is opened."""
    parser.add_argument(
        "--checkpoint",
        default="newest",
        metavar="WHICH",
        help="newest, best (by the score on eval.watch) or a step (default: %(default)s)",
    )


def add_tasks_argument(parser: argparse.ArgumentParser) -> None:
    """The tasks of a verb that reads no data."""
    parser.add_argument("--tasks", default="", help="NAME:CLASSES,... (default: label:100)")


def add_study_arguments(
    parser: argparse.ArgumentParser, name: str, variants: Sequence[str]
) -> None:
    """The arguments that say which runs a study trains, and where."""
    parser.add_argument("--workdir", help=f"the study's folder (default: runs/CONFIG-{name})")
    parser.add_argument("--seeds", type=int, default=3, help="how many: config.seed and the next")
    parser.add_argument(
        "--variants",
        type=lambda text: text.split(","),
        help=f"a,b (default: {', '.join(variants)})",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        help="train each run for so many minutes instead of train.steps",
    )


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
    """The assumptions of a verb that reads no data, each with the flag that replaces it.

    sized: whether --sizes gives the size of the encoders.
    """
    if not tasks:
        yield "assumed: one task of 100 classes; set yours with --tasks=NAME:CLASSES,..."
    if config.data.text_length == -1:
        yield (
            "assumed: texts as long as the encoder takes them; set the length of your data with "
            "--config.data.text_length=32"
        )
    if config.model.pretrained and not sized:
        yield (
            f"assumed: {config.model.pretrained} is of the size model.image={config.model.image}, "
            "if it is not on this disk"
        )


def read_named_config(arguments: list[str]) -> tuple[ConfigDict, str]:
    """The config that `--config=FILE --config.a.b=value ...` describe, and its file's name."""
    config = read_config(arguments)
    file = next(a for a in reversed(arguments) if a.startswith("--config="))
    return config, Path(file).stem
