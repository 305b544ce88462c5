"""What the arguments of all verbs have in common."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from ml_collections import ConfigDict

from cmaclip_jax.config import base_config, read_config
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


def add_table_arguments(parser: argparse.ArgumentParser) -> None:
    """The table to be answered, by a run, and which of its columns is what."""
    parser.add_argument("--workdir", required=True, help="the folder of the run")
    add_checkpoint_argument(parser)
    parser.add_argument("--input", required=True, help="a .csv, .tsv, .jsonl or .parquet")
    parser.add_argument("--image", default="", help="the column of pictures, 'none' for none")
    parser.add_argument("--text", default="", help="the column or columns of words, 'title,brand'")
    parser.add_argument("--id", default="", help="the column of the rows' names, 'none' for none")
    parser.add_argument(
        "--outside", action="store_true", help="let the table name pictures outside its folder"
    )


def open_named_table(options: argparse.Namespace):
    """The table that those arguments name, with the columns that the run was trained on.

    A run without pictures in it is not told of those that cannot be opened.
    """
    from cmaclip_jax.serving.labelling import open_table  # takes seconds to import
    from cmaclip_jax.training.workdir import saved_config

    config = saved_config(options.workdir)
    data = config.data if config.data.source == "table" else base_config().data
    data.image, data.text = options.image or data.image, options.text or data.text
    data.outside = options.outside or config.data.outside
    table = open_table(options.input, data, options.id)
    if config.model.inputs != "text":
        table.check_pictures()
    return table


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
