"""cmaclip push: a trained run for others, as a folder or on the Hugging Face hub."""

import argparse
import re
import sys
from pathlib import Path

from cmaclip_jax.commands.arguments import add_checkpoint_argument, add_run_argument, make_parser
from cmaclip_jax.errors import UserError

HELP = """\
Writes what others need to answer with a trained run: parameters, config, tasks, tokenizer,
thresholds, figures, and a model card made from what the run knows. No checkpoint, no log, no record
and no path of this machine is among them.

  --to=ORG/NAME            a repository on the Hugging Face hub, unless there is a folder ORG here
  --to=hf://ORG/NAME       the same, in any case
  --to=FOLDER              a new folder, and nothing is uploaded; ./ORG/NAME is always a folder

A new repository is private unless --public is given. The login is that of `hf auth login`, or the
variable HF_TOKEN. The same command replaces an earlier push; it never replaces anything else.

`cma.load("ORG/NAME")` and --workdir=hf://ORG/NAME[@REVISION] read it back, without running code
from it. A pushed folder is named like any run: cma.load("FOLDER"), --workdir=FOLDER.
"""


def run(arguments: list[str]) -> None:
    """Reads the arguments and pushes."""
    parser = make_parser("push", HELP)
    add_run_argument(parser)
    add_checkpoint_argument(parser)
    parser.add_argument("--to", required=True, help="where: ORG/NAME, hf://ORG/NAME or a folder")
    parser.add_argument("--public", action="store_true", help="let everyone read the repository")
    parser.add_argument(
        "--licence", default="", metavar="ID", help="of the model, as SPDX names it: apache-2.0"
    )
    options = parser.parse_args(arguments)
    if not re.fullmatch(r"[\w.+-]*", options.licence):
        raise UserError(f"--licence={options.licence} is one word, such as apache-2.0")
    push(options)


def push(options: argparse.Namespace) -> None:
    """Pushes the run that the options name, and says what was pushed where."""
    # the imports below take seconds
    from cmaclip_jax.parallel.rules import parameter_count
    from cmaclip_jax.report.model_card import model_card
    from cmaclip_jax.runs.pushed import local_run
    from cmaclip_jax.screen import Screen
    from cmaclip_jax.serving.pushing import (
        Pushable,
        hub_destination,
        push_to_folder,
        push_to_hub,
    )
    from cmaclip_jax.weights.writer import check_new_folder

    screen = Screen(sys.stdout)
    name = hub_destination(options.to)
    if options.public and not name:
        raise UserError("--public is for the hub; leave it out for a folder")
    if not name:
        check_new_folder(Path(options.to), "--to")
    screen.entry("reading", options.workdir)
    found = Pushable.open(local_run(options.workdir), options.checkpoint)
    screen.entry("found", f"step {found.step:,}, {parameter_count(found.params):,} parameters")
    card = model_card(found, name, options.to, options.licence)
    if name:
        address = push_to_hub(found, card, name, options.public)
        screen.entry("pushed", f"{address}; load it with cma.load({name!r})")
        return
    push_to_folder(found, card, Path(options.to))
    files = sorted(path.name for path in Path(options.to).iterdir())
    screen.entry("written", f"{options.to}: {', '.join(files)}")
