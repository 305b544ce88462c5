"""What the arguments of all verbs have in common."""

import argparse
from pathlib import Path

from ml_collections import ConfigDict

from cmaclip_jax.config import read_config


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


def read_named_config(arguments: list[str]) -> tuple[ConfigDict, str]:
    """The config that `--config=FILE --config.a.b=value ...` describe, and its file's name."""
    config = read_config(arguments)
    file = next(a for a in reversed(arguments) if a.startswith("--config="))
    return config, Path(file).stem
