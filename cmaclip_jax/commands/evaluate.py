"""cmaclip evaluate: how well a model does that was trained already."""

import dataclasses
from pathlib import Path

from cmaclip_jax.commands.arguments import make_parser, read_named_config
from cmaclip_jax.errors import UserError

HELP = """\
Evaluates a trained run on a split of its data:

  --workdir=DIR [--split=test] [--config.FIELD=VALUE]
                           writes DIR/evaluation/SPLIT.json, and every answer to SPLIT.npz
  --precision=0.95         chooses for every task the threshold from which its answers are accepted,
                           so that they are right so often, on the split `--calibrate`; writes
                           DIR/thresholds.json and says what they reach on the other split

Or evaluates CLIP without any training of ours: every class is described by the sentences of
config.eval.prompts, and the class whose sentences lie nearest wins. Nothing is learned.

  --zero-shot --source=CLIP --config=FILE [--config.FIELD=VALUE]
                           model.inputs='image' looks at pictures alone
"""


def run(arguments: list[str]) -> None:
    """Reads the arguments and evaluates."""
    parser = make_parser("evaluate", HELP)
    parser.add_argument("--workdir", help="the run; of --zero-shot, where to write")
    parser.add_argument("--split", default="", help="the split (default: test, else val)")
    parser.add_argument("--precision", type=float, help="the share of accepted answers to be right")
    parser.add_argument(
        "--confidence", type=float, help="promise that precision, this surely, such as 0.9"
    )
    parser.add_argument("--per-class", action="store_true", help="a threshold for every class")
    parser.add_argument("--calibrate", default="val", help="the split to choose thresholds on")
    parser.add_argument("--zero-shot", action="store_true", help="classify by sentences alone")
    parser.add_argument("--source", help="the CLIP: what `cmaclip convert --source` takes")
    options, rest = parser.parse_known_args(arguments)
    if options.zero_shot:
        if not options.source:
            raise UserError("--zero-shot needs --source=CLIP and --config=FILE")
        config, name = read_named_config(rest)
        config.model.pretrained = options.source
        zero_shot(config, Path(options.workdir or f"runs/{name}-zero-shot"))
        return
    if not options.workdir:
        raise UserError("evaluate needs --workdir=RUN, or --zero-shot --source=CLIP --config=FILE")
    if options.precision is None and (options.confidence is not None or options.per_class):
        raise UserError("--confidence and --per-class are about thresholds; add --precision=0.95")
    evaluate(options, rest)


def evaluate(options, overrides: list[str]) -> dict:
    """Evaluates a run, chooses its thresholds if that is wanted; returns what it wrote."""
    from cmaclip_jax.commands.figures import report  # what is below takes seconds to import
    from cmaclip_jax.commands.following import leader_console
    from cmaclip_jax.config import with_overrides
    from cmaclip_jax.trained import open_trained
    from cmaclip_jax.training.workdir import saved_config

    workdir, console = Path(options.workdir), leader_console()
    config = with_overrides(saved_config(workdir), overrides)
    trained = open_trained(workdir, config, sources=True)
    split = options.split or trained.data.last_split()
    outcome = trained.outcome(split, _tracker(console))
    figures = report(trained, outcome, split, trained.step, console)
    if options.precision is not None:
        _choose_thresholds(trained, outcome, split, options, console)
    return figures


def zero_shot(config, workdir: Path) -> dict:
    """Evaluates `model.pretrained` by its prompts; returns what it wrote."""
    from cmaclip_jax.commands.figures import report  # what is below takes seconds to import
    from cmaclip_jax.commands.following import leader_console
    from cmaclip_jax.zero_shot import open_zero_shot

    console = leader_console()
    trained = open_zero_shot(config, workdir, console)
    split = trained.data.last_split()
    return report(trained, trained.outcome(split, _tracker(console)), split, 0, console)


def _choose_thresholds(trained, outcome, split: str, options, console) -> None:
    """Chooses thresholds, writes them, and shows what they reach where they were not chosen."""
    from cmaclip_jax.commands.figures import abstentions, threshold_table
    from cmaclip_jax.evaluation.evaluator import halves
    from cmaclip_jax.evaluation.thresholds import THRESHOLDS, calibrate, reached, write_thresholds
    from cmaclip_jax.parallel.cluster import leads

    if options.calibrate == split:
        console.print(
            f"thresholds are chosen on one half of {split} and looked at on the other",
            highlight=False,
        )
        chosen_on, outcome = halves(outcome)
    else:
        chosen_on = trained.outcome(options.calibrate, _tracker(console))
    thresholds, rows = [], []
    for task in trained.tasks:
        known = chosen_on["probabilities"][task.name], chosen_on["labels"][task.name]
        chosen = calibrate(task, *known, options.precision, options.confidence, options.per_class)
        thresholds.append(dataclasses.replace(chosen, split=options.calibrate))
        fresh = outcome["probabilities"][task.name], outcome["labels"][task.name]
        rows.append(reached(thresholds[-1], *fresh))
    path = trained.workdir / THRESHOLDS
    if leads():
        write_thresholds(path, thresholds)
    promise = f" in {options.confidence:.0%} of such choices" if options.confidence else ""
    for line in (
        f"accepted answers are to be right {options.precision:.4g} of the time{promise}; chosen on "
        f"{options.calibrate}, reached on {split}:",
        threshold_table(thresholds, rows),
        abstentions(thresholds),
        f"written to {path}",
    ):
        if line:
            console.print(line, highlight=False, soft_wrap=True)


def _tracker(console):
    """Shows how far an evaluation is."""
    import functools

    from cmaclip_jax.commands.following import follow

    return functools.partial(follow, console=console)
