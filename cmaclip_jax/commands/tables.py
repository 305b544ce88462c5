"""The table that a verb answers: its arguments, and how it is opened."""

import argparse
from pathlib import Path

from cmaclip_jax.commands.arguments import add_checkpoint_argument, add_run_argument
from cmaclip_jax.config import base_config


def add_table_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments for a run, a table and the table's columns."""
    add_run_argument(parser)
    add_checkpoint_argument(parser)
    parser.add_argument(
        "--input", required=True, help="a table: a file, a pattern, or a folder of `datasets`"
    )
    parser.add_argument("--image", default="", help="the column of pictures, 'none' for none")
    parser.add_argument("--text", default="", help="the column or columns of words, 'title,brand'")
    parser.add_argument("--id", default="", help="the column of the rows' names, 'none' for none")
    parser.add_argument(
        "--outside", action="store_true", help="let the table name pictures outside its folder"
    )


def open_named_table(options: argparse.Namespace, workdir: Path, counts: bool = True):
    """Opens the table that the arguments name, with the columns that the run was trained on.

    Pictures are checked only if the run reads pictures.
    workdir: the run's folder on this machine.
    counts: whether the rows are counted.
    """
    from cmaclip_jax.serving.input_table import open_table  # takes seconds to import
    from cmaclip_jax.training.workdir import saved_config

    config = saved_config(workdir)
    data = config.data if config.data.source == "table" else base_config().data
    data.image, data.text = options.image or data.image, options.text or data.text
    data.outside = options.outside or config.data.outside
    table = open_table(options.input, data, options.id, counts)
    if config.model.inputs != "text":
        table.check_pictures()
    return table
