"""cmaclip ablate: what each part of the model gives, over several seeds."""

import functools
from pathlib import Path

from cmaclip_jax.commands.arguments import CONFIG_HELP, make_parser, read_named_config
from cmaclip_jax.studies.variants import USUAL, VARIANTS

HELP = f"""\
Trains the model of a config and variants of it without one of its parts, each with several seeds,
and writes their accuracies to ablation.md, ablation.csv and ablation.png in DIR. Each run is an
ordinary one, in DIR/VARIANT/seed-N. The files are written after every run. The same command
continues where it was stopped.

{CONFIG_HELP}

variants:
""" + "".join(f"  {name:13}{about}\n" for name, (_, about) in VARIANTS.items())


def run(arguments: list[str]) -> None:
    """Reads the arguments and compares."""
    parser = make_parser("ablate", HELP)
    parser.add_argument("--workdir", help="the study's folder (default: runs/CONFIG-ablation)")
    parser.add_argument("--seeds", type=int, default=3, help="how many: config.seed and the next")
    parser.add_argument("--variants", default="", help="a,b (default: all but concat and gated)")
    parser.add_argument(
        "--minutes",
        type=float,
        help="train each run for so many minutes instead of train.steps",
    )
    parser.add_argument(
        "--tasks-apart", action="store_true", help="also train a run for every single task"
    )
    options, rest = parser.parse_known_args(arguments)
    config, name = read_named_config(rest)
    from cmaclip_jax.training.lock import holding  # takes seconds to import

    workdir = Path(options.workdir or f"runs/{name}-ablation")
    with holding(workdir):
        ablate(config, workdir, options)


def ablate(config, workdir: Path, options) -> list[dict]:
    """Trains what is not there yet; returns the rows of the table."""
    # the imports below take seconds
    from cmaclip_jax.evaluation.tables import text_table
    from cmaclip_jax.runs.training import train_and_evaluate
    from cmaclip_jax.screen import Screen
    from cmaclip_jax.studies.ablation import figures_of, open_study, with_equal_minutes
    from cmaclip_jax.studies.ablation_report import heading, table_cells, table_rows, write_table
    from cmaclip_jax.studies.framework import train_one

    screen = Screen()

    variants = options.variants.split(",") if options.variants else USUAL
    study = open_study(config, workdir, variants, options.seeds, options.tasks_apart)
    if options.minutes is not None:
        study = with_equal_minutes(study, options.minutes, screen.say)
    for number, run in enumerate(study.runs, 1):
        name = f"run {number} of {len(study.runs)}: {run}"
        if figures_of(run, study.split):
            screen.say(f"{name}: done before")
            continue
        screen.say(f"\n{name}")
        train_one(run, functools.partial(train_and_evaluate, run.config, run.folder))
        write_table(study, table_rows(study))
    rows = table_rows(study)
    paths = write_table(study, rows)
    screen.say()
    screen.show(text_table(table_cells(study, rows), heading(study)))
    screen.say(f"written to {', '.join(map(str, paths))}")
    return rows
