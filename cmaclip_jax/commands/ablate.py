"""cmaclip ablate: what each part of the model gives, over several seeds."""

from pathlib import Path

from cmaclip_jax.commands.arguments import (
    CONFIG_HELP,
    add_study_arguments,
    make_parser,
    read_named_config,
)
from cmaclip_jax.studies.variants import USUAL, VARIANTS, described

HELP = f"""\
Trains the model of a config and variants of it without one of its parts, each with several seeds,
and writes their accuracies to ablation.md, ablation.csv and ablation.png in DIR. Each run is an
ordinary one, in DIR/VARIANT/seed-N, and has a process of its own. The files are written after every
run. The same command continues where it was stopped.

{CONFIG_HELP}

variants:
{described(VARIANTS)}
"""


def run(arguments: list[str]) -> None:
    """Reads the arguments and trains."""
    parser = make_parser("ablate", HELP)
    add_study_arguments(parser, "ablation", USUAL)
    parser.add_argument(
        "--tasks-apart", action="store_true", help="also train a run for every single task"
    )
    options, rest = parser.parse_known_args(arguments)
    config, name = read_named_config(rest)
    # the imports below take seconds
    from cmaclip_jax.studies.variant_report import ABLATION
    from cmaclip_jax.studies.variant_study import train_variants

    workdir, variants = Path(options.workdir or f"runs/{name}-ablation"), options.variants or USUAL
    size = options.seeds, options.minutes, options.tasks_apart
    train_variants(config, workdir, variants, ABLATION, *size)
