"""cmaclip train: from a config to a trained, evaluated run in its folder."""

from pathlib import Path

from cmaclip_jax.commands.arguments import CONFIG_HELP, make_parser, read_named_config

HELP = f"""\
Trains a model and evaluates it. The same command continues a run that was stopped.

{CONFIG_HELP}
"""


def run(arguments: list[str]) -> None:
    """Reads the arguments and trains."""
    parser = make_parser("train", HELP)
    parser.add_argument("--workdir", help="the run's folder (default: runs/NAME-OF-THE-CONFIG)")
    options, rest = parser.parse_known_args(arguments)
    config, name = read_named_config(rest)
    from cmaclip_jax.runs.training import train_and_evaluate  # takes seconds to import

    train_and_evaluate(config, Path(options.workdir or f"runs/{name}"))
