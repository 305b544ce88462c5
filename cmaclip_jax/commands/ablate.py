"""cmaclip ablate: what each part of the model gives, over several seeds."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from cmaclip_jax.commands.arguments import CONFIG_HELP, make_parser, read_named_config
from cmaclip_jax.studies.variants import ABOUT, USUAL, VARIANTS

HELP = f"""\
Trains the model of a config and variants of it without one of its parts, each with several seeds,
and writes their accuracies to ablation.md, ablation.csv and ablation.png in DIR. Each run is an
ordinary one, in DIR/VARIANT/seed-N, and has a process of its own. The files are written after every
run. The same command continues where it was stopped.

{CONFIG_HELP}

variants:
""" + "".join(f"  {name:16}{ABOUT[name]}\n" for name in VARIANTS)


def run(arguments: list[str]) -> None:
    """Reads the arguments and trains."""
    parser = make_parser("ablate", HELP)
    add_study_arguments(parser, "ablation", USUAL)
    parser.add_argument(
        "--tasks-apart", action="store_true", help="also train a run for every single task"
    )
    options, rest = parser.parse_known_args(arguments)
    config, name = read_named_config(rest)
    from cmaclip_jax.studies.variant_report import ABLATION  # takes seconds to import

    workdir = Path(options.workdir or f"runs/{name}-ablation")
    variants = options.variants or USUAL
    train_variants(config, options, variants, ABLATION, workdir, options.tasks_apart)


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


def train_variants(
    config: ConfigDict,
    options: argparse.Namespace,
    variants: Sequence[str],
    report,
    workdir: Path,
    apart: bool = False,
) -> None:
    """Trains what is not there yet, and writes and shows the tables of the report."""
    # the imports below take seconds
    from cmaclip_jax.screen import Screen
    from cmaclip_jax.studies.ablation import open_study, train_all, with_equal_minutes
    from cmaclip_jax.studies.own_process import in_own_process, leave_devices_to_others
    from cmaclip_jax.studies.variant_report import show_report, write_report
    from cmaclip_jax.training.lock import holding

    leave_devices_to_others()
    screen = Screen()
    with holding(workdir):
        study = in_own_process(open_study, config, workdir, variants, options.seeds, apart)
        if options.minutes is not None:
            study = with_equal_minutes(study, options.minutes, screen.say)
        train_all(study, screen.say, lambda: write_report(study, report))
        show_report(study, report, screen)
