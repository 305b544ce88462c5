"""cmaclip compare: the methods of the paper's tables, on your own data."""

from pathlib import Path

from cmaclip_jax.commands.arguments import (
    CONFIG_HELP,
    add_study_arguments,
    make_parser,
    read_named_config,
)
from cmaclip_jax.config import with_changes
from cmaclip_jax.screen import Screen
from cmaclip_jax.studies.variants import METHODS, VARIANTS, described

RECALLED_AT = 0.9  # the precision of the paper's tables

HELP = f"""\
Trains CMA-CLIP and the methods that its paper compares it with on the data of a config, each with
several seeds. Writes recall at 90 % precision and accuracy, a row for every method and a column
for every task, to comparison.md, comparison.csv and comparison.png in DIR. Each run is an ordinary
one, in DIR/METHOD/seed-N, and has a process of its own. The files are written after every run. The
same command continues where it was stopped.

Start from pretrained encoders with --config.model.pretrained=CLIP, such as a run of
configs/pretrain.py on the same pairs. Without them, raw-clip is left out.

{CONFIG_HELP}

methods, which are the variants of `cmaclip ablate`:
{described(METHODS)}
"""


def run(arguments: list[str]) -> None:
    """Reads the arguments and trains."""
    parser = make_parser("compare", HELP)
    add_study_arguments(parser, "comparison", METHODS)
    options, rest = parser.parse_known_args(arguments)
    config, name = read_named_config(rest)
    if RECALLED_AT not in config.eval.precisions:
        precisions = (RECALLED_AT, *config.eval.precisions)
        config = with_changes(config, {"eval.precisions": precisions})
    methods = options.variants or METHODS
    if not options.variants and not config.model.pretrained:
        Screen().say("raw-clip is left out, because config.model.pretrained is empty")
        methods = [method for method in METHODS if not VARIANTS[method].from_clip]
    # the imports below take seconds
    from cmaclip_jax.studies.variant_report import COMPARISON
    from cmaclip_jax.studies.variant_study import train_variants

    workdir = Path(options.workdir or f"runs/{name}-comparison")
    train_variants(config, workdir, methods, COMPARISON, options.seeds, options.minutes)
