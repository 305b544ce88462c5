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
    from rich.console import Console  # what is below takes seconds to import

    from cmaclip_jax.assembly import build_objective
    from cmaclip_jax.commands.score_table import score_table
    from cmaclip_jax.evaluation.evaluator import collect, make_predict_step, score, write_score
    from cmaclip_jax.features import with_features
    from cmaclip_jax.inputs import open_data
    from cmaclip_jax.parallel.mesh import check_batch, make_mesh
    from cmaclip_jax.towers import open_towers
    from cmaclip_jax.training import Watcher, open_workdir, train

    mesh = make_mesh(**config.mesh)
    check_batch(mesh, config.train.batch_size, config.train.accumulate)
    check_batch(mesh, config.eval.batch_size, name="eval.batch_size")
    workdir = open_workdir(workdir, config)
    towers = open_towers(config, workdir)
    data = open_data(config, workdir, towers)
    objective = build_objective(config, data, towers)
    watcher = Watcher(workdir, config.train.steps, config.train.batch_size, Console(stderr=True))
    reads, about = with_features(
        data, objective, config.train, mesh, workdir / "features", watcher.track
    )
    predict_step = None

    def evaluate(state, step: int, split: str = config.eval.watch) -> dict:
        nonlocal predict_step
        params = objective.ready(state.best_params)
        predict_step = predict_step or make_predict_step(objective, mesh, params)
        outcome = collect(predict_step, params, reads.eval_batches(split, params), mesh)
        return score(outcome, data.tasks, split, step)

    def watch(state, step: int) -> float | None:
        figures = evaluate(state, step)
        accuracies = {name: task["accuracy"] for name, task in figures["tasks"].items()}
        known = {name: value for name, value in accuracies.items() if value is not None}
        watcher.write(step, {f"{figures['split']}/{name}": value for name, value in known.items()})
        watcher.say(
            f"      {figures['split']} accuracy: "
            + "  ".join(f"{name} {value:.3f}" for name, value in known.items())
        )
        return figures["mean"].get("accuracy")

    try:
        example = data.encode.empty(1)
        for line in filter(None, [*data.lines(), about]):
            watcher.say(line)
        state = train(
            config,
            objective,
            mesh,
            example,
            reads.train_batches,
            workdir,
            watcher,
            watch,
            towers.params,
        )
        figures = evaluate(state, config.train.steps, data.last_split())
        path = write_score(workdir, figures)
    finally:
        watcher.close()
    if data.bad.reasons:
        watcher.console.print(f"not used as they were: {data.bad.summary()}", soft_wrap=True)
    watcher.console.print(score_table(figures))
    watcher.console.print(f"written to {path}", highlight=False, soft_wrap=True)
    return figures
