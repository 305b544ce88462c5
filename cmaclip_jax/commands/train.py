"""cmaclip train: from a config to a trained, evaluated run in its folder."""

from pathlib import Path

from cmaclip_jax.commands.arguments import make_parser, read_named_config

HELP = """\
Trains a model and evaluates it; the same command again continues a run that was stopped.

  --config=FILE            the run's config, for example configs/quickstart.py
  --config.FIELD=VALUE     changes one of its fields; cmaclip_jax/config.py lists them all
"""


def run(arguments: list[str]) -> None:
    """Reads the arguments and trains."""
    parser = make_parser("train", HELP)
    parser.add_argument("--workdir", help="the run's folder (default: runs/NAME-OF-THE-CONFIG)")
    options, rest = parser.parse_known_args(arguments)
    config, name = read_named_config(rest)
    train_and_evaluate(config, Path(options.workdir or f"runs/{name}"))


def train_and_evaluate(config, workdir: Path) -> dict:
    """A whole run; returns what it wrote to `evaluation/SPLIT.json`."""
    from cmaclip_jax.training.lock import holding  # takes seconds to import

    with holding(workdir):
        return _train_and_evaluate(config, workdir)


def _train_and_evaluate(config, workdir: Path) -> dict:
    from cmaclip_jax.runs.run import open_run

    run = open_run(config, workdir)
    try:
        state = run.train()
        split = run.data.last_split()
        outcome = run.outcome(state, split)
    finally:
        run.watcher.close()
    from cmaclip_jax.evaluation.tables import report  # slow to import, and wanted last

    return report(run, outcome, split, config.train.steps, run.watcher.console)
