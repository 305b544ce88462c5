"""cmaclip robustness: the accuracy of trained runs on noisy pictures and words."""

import argparse

from cmaclip_jax.commands.arguments import add_checkpoint_argument, make_parser
from cmaclip_jax.errors import UserError

HELP = """\
Evaluates a trained run with every noise of data.noise at every severity. Writes the accuracy and
the image weight of every task to robustness.json, .md and .csv in DIR, and their curves to
robustness.png. The same command continues where it was stopped.

  --config.FIELD=VALUE     changes a field of all runs' configs, such as data.path
"""


def run(arguments: list[str]) -> None:
    """Reads the arguments and evaluates."""
    parser = make_parser("robustness", HELP)
    parser.add_argument("--workdir", required=True, help="the run, and where to write")
    add_checkpoint_argument(parser)
    parser.add_argument("--against", default="", help="other runs to draw beside it, DIR2,DIR3")
    parser.add_argument("--split", default="", help="the split (default: test, else val)")
    parser.add_argument("--noises", default="", help="which, 'blur,text.blank' (default: all)")
    parser.add_argument("--severities", default="", help="which (default: 1,2,3,4,5)")
    parser.add_argument(
        "--share", type=float, help="of the pairs that get the noise, 0 to 1 (default: 1)"
    )
    parser.add_argument(
        "--protocol",
        choices=("half",),
        help="instead: half of the pairs with Gaussian pictures (strength 5, then 10) and no "
        "words, as published for Food101; writes robustness-half.*",
    )
    options, rest = parser.parse_known_args(arguments)
    # the imports below take seconds
    from cmaclip_jax.studies.robustness_study import evaluate_robustness
    from cmaclip_jax.training.workdir import run_folder

    others = options.against.split(",") if options.against else []
    paths = [run_folder(path).resolve() for path in (options.workdir, *others)]
    report = "robustness-half" if options.protocol else "robustness"
    workdirs, noises = list(dict.fromkeys(paths)), named_noises(options)
    evaluate_robustness(workdirs, noises, report, rest, options.split, options.checkpoint)


def named_noises(options: argparse.Namespace) -> list:
    """The noises that the options name; the first one is no noise."""
    # the import below takes seconds
    from cmaclip_jax.studies.robustness import SEVERITIES, conditions, half_conditions

    if options.protocol:
        if options.noises or options.severities or options.share is not None:
            raise UserError(
                "--protocol=half says which noise; leave --noises, --severities and --share out"
            )
        return half_conditions()
    try:
        severities = [int(x) for x in options.severities.split(",")] if options.severities else ()
    except ValueError as error:
        raise UserError(f"--severities={options.severities} are numbers such as 1,3,5") from error
    names = options.noises.split(",") if options.noises else ()
    share = 1.0 if options.share is None else options.share
    return conditions(names, severities or SEVERITIES, share)
