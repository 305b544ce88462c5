"""cmaclip evaluate: how well a model does that was trained already."""

import functools
import sys
from pathlib import Path

from cmaclip_jax.commands.arguments import make_parser, read_named_config
from cmaclip_jax.errors import UserError

HELP = """\
Evaluates CLIP without any training of ours: every class is described by the sentences of
config.eval.prompts, and the class whose sentences lie nearest wins. Nothing is learned.

  --config=FILE            says which data and tasks; model.inputs='image' looks at pictures alone
  --config.FIELD=VALUE     changes one of its fields; cmaclip_jax/config.py lists them all
"""


def run(arguments: list[str]) -> None:
    """Reads the arguments and evaluates."""
    parser = make_parser("evaluate", HELP)
    parser.add_argument("--zero-shot", action="store_true", help="classify by sentences alone")
    parser.add_argument("--source", help="the CLIP: what `cmaclip convert --source` takes")
    parser.add_argument("--workdir", help="where to write (default: runs/CONFIG-zero-shot)")
    options, rest = parser.parse_known_args(arguments)
    if not (options.zero_shot and options.source):
        raise UserError(
            "evaluate needs --zero-shot --source=CLIP; a trained run has its figures in "
            "WORKDIR/evaluation"
        )
    config, name = read_named_config(rest)
    config.model.pretrained = options.source
    zero_shot(config, Path(options.workdir or f"runs/{name}-zero-shot"))


def zero_shot(config, workdir: Path) -> dict:
    """Evaluates `model.pretrained` by its prompts; returns what it wrote."""
    import jax
    from rich.console import Console  # what is below takes seconds to import
    from rich.progress import track

    from cmaclip_jax.assembly import build_contrastive
    from cmaclip_jax.commands.score_table import score_table
    from cmaclip_jax.evaluation.evaluator import collect, make_predict_step, score, write_score
    from cmaclip_jax.inputs import open_data
    from cmaclip_jax.parallel.mesh import check_batch, make_mesh
    from cmaclip_jax.parallel.rules import tree_shardings
    from cmaclip_jax.towers import open_towers
    from cmaclip_jax.training.state import replace_parameters

    if (workdir / "checkpoints").exists():
        raise UserError(f"{workdir} is a run with figures of its own; name another --workdir")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {workdir} ({error.strerror}); name another") from error
    console = Console(stderr=True)
    mesh = make_mesh(**config.mesh)
    check_batch(mesh, config.eval.batch_size, name="eval.batch_size")
    towers = open_towers(config, None)
    data = open_data(config, None, towers)
    objective = build_contrastive(config, data, towers)
    init = functools.partial(objective.init, jax.random.key(0), data.encode.empty(1))
    drawn = jax.jit(init, out_shardings=tree_shardings(jax.eval_shape(init), mesh))()
    params, lines = replace_parameters(drawn, towers.params)
    console.print("\n".join(lines), highlight=False)
    split = data.last_split()
    sentences = sum(tokens.shape[0] * tokens.shape[1] for tokens in objective.prompts.values())
    console.print(f"{sentences:,} sentences describe the classes of {len(data.tasks)} tasks")
    params = objective.ready(params)
    batches = track(
        data.eval_batches(split),
        f"evaluating {split}",
        total=-(-len(data.source(split)) // config.eval.batch_size),
        console=console,
        disable=not sys.stderr.isatty(),
    )
    outcome = collect(make_predict_step(objective, mesh, params), params, batches, mesh)
    wanted = config.eval
    figures = score(outcome, data.tasks, split, 0, wanted.precisions, wanted.top_k)
    path = write_score(workdir, figures)
    console.print(score_table(figures))
    console.print(f"written to {path}", highlight=False, soft_wrap=True)
    return figures
