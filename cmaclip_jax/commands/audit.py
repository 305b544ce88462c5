"""cmaclip audit: labels that are probably wrong, twins, leaks; and their correction."""

from pathlib import Path

from cmaclip_jax.commands.arguments import CONFIG_HELP, make_parser, read_named_config
from cmaclip_jax.errors import UserError

HELP = f"""\
Looks for labels that are probably wrong, for the same or nearly the same pair twice, and for such
twins across splits. All rows are divided into folds. For each fold a model is trained on the other
folds, so that every row is answered by a model that has not seen it. Writes to DIR

  audit.html               the worst suspects, to decide by keyboard; the page saves decisions.csv
  audit.csv, twins.csv     all suspects and all twins

The same command continues where it was stopped.

{CONFIG_HELP}

Applies decisions:

  --apply=decisions.csv --output=FILE
                           writes the corrected table; a column `changed` says what was changed
"""


def run(arguments: list[str]) -> None:
    """Reads the arguments, and audits or applies decisions."""
    parser = make_parser("audit", HELP)
    parser.add_argument("--workdir", help="the audit's folder (default: runs/CONFIG-audit)")
    parser.add_argument("--folds", type=int, default=5, help="how many (default: %(default)s)")
    parser.add_argument(
        "--most", type=int, default=500, help="suspects on the page (default: %(default)s)"
    )
    parser.add_argument(
        "--label-studio", action="store_true", help="also write label_studio.json and .xml"
    )
    parser.add_argument("--apply", help="the decisions: decisions.csv, or Label Studio's JSON")
    parser.add_argument("--input", help="the table to correct (default: the audited one)")
    parser.add_argument("--id", default="", help="its column of ids")
    parser.add_argument("--output", help="the corrected table to write")
    options, rest = parser.parse_known_args(arguments)
    if options.apply:
        correct(options)
        return
    if options.output or options.input:
        raise UserError("--output and --input belong to --apply=decisions.csv; add it")
    config, name = read_named_config(rest)
    from cmaclip_jax.auditing.audit import run_audit  # takes seconds to import

    workdir = Path(options.workdir or f"runs/{name}-audit")
    run_audit(config, workdir, options.folds, options.most, options.label_studio)


def correct(options) -> None:
    """Applies the decisions that the options name."""
    if not options.output:
        raise UserError("--apply needs --output=FILE, the corrected table to write")
    from cmaclip_jax.auditing.correction import apply_file  # takes seconds to import
    from cmaclip_jax.screen import Screen

    screen = Screen()
    for line in apply_file(options.apply, options.output, options.input or "", options.id):
        screen.say(line)
