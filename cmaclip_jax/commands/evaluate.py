"""cmaclip evaluate: the accuracy of a trained run, or of CLIP alone."""

from pathlib import Path

from cmaclip_jax.commands.arguments import (
    add_checkpoint_argument,
    make_parser,
    read_named_config,
)
from cmaclip_jax.errors import UserError

HELP = """\
Evaluates a trained run on a split of its data:

  --workdir=DIR [--split=test] [--config.FIELD=VALUE]
                           writes figures to DIR/evaluation/SPLIT.json and answers to SPLIT.npz
  --precision=0.95         chooses a threshold for every task on the split `--calibrate`, so that
                           this share of the accepted answers is right; writes
                           DIR/thresholds.json and prints what the thresholds reach on SPLIT

Or evaluates CLIP without training: the sentences of config.eval.prompts describe every class, and
the answer is the class whose sentences are most similar to the pair.

  --zero-shot --source=CLIP --config=FILE [--config.FIELD=VALUE]
                           model.inputs='image' uses pictures alone; splits and thresholds work
                           as above
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
    parser.add_argument(
        "--calibrate", default="", help="the split to choose thresholds on (default: val)"
    )
    parser.add_argument("--zero-shot", action="store_true", help="classify by sentences alone")
    parser.add_argument("--source", help="the CLIP: what `cmaclip convert --source` takes")
    add_checkpoint_argument(parser)
    options, rest = parser.parse_known_args(arguments)
    _check(options)
    evaluate(options, rest)


def _check(options) -> None:
    """Raises UserError for arguments that do not go together."""
    if options.zero_shot:
        if not options.source:
            raise UserError("--zero-shot needs --source=CLIP and --config=FILE")
        if options.checkpoint != "newest":
            raise UserError("--zero-shot judges --source, which has no steps; drop --checkpoint")
    elif not options.workdir:
        raise UserError("evaluate needs --workdir=RUN, or --zero-shot --source=CLIP --config=FILE")
    of_thresholds = options.confidence is not None, options.per_class, options.calibrate
    if options.precision is None and any(of_thresholds):
        raise UserError(
            "--confidence, --per-class and --calibrate are about thresholds; add --precision=0.95"
        )


def evaluate(options, overrides: list[str]) -> dict:
    """Evaluates a run or a CLIP, chooses thresholds if that is wanted; returns what it wrote."""
    from cmaclip_jax.parallel.cluster import leads
    from cmaclip_jax.runs.results import write_results
    from cmaclip_jax.screen import Screen
    # what is below takes seconds to import

    screen = Screen(quiet=not leads())
    trained = (_zero_shot if options.zero_shot else _run)(options, overrides, screen)
    split = options.split or trained.data.last_split()
    outcome = trained.outcome(split, screen.track)
    figures = write_results(trained, outcome, split, trained.step, screen)
    if options.precision is not None:
        _choose_thresholds(trained, outcome, split, options, screen)
    return figures


def _run(options, overrides: list[str], screen):
    """The run that the options name."""
    from cmaclip_jax.config import with_overrides
    from cmaclip_jax.runs.judged import open_judged
    from cmaclip_jax.training.workdir import saved_config

    config = with_overrides(saved_config(options.workdir), overrides)
    return open_judged(options.workdir, config, checkpoint=options.checkpoint)


def _zero_shot(options, overrides: list[str], screen):
    """The CLIP that the options name, to be judged by its prompts."""
    config, name = read_named_config(overrides)
    config.model.pretrained = options.source
    from cmaclip_jax.runs.zero_shot import open_zero_shot

    return open_zero_shot(config, Path(options.workdir or f"runs/{name}-zero-shot"), screen)


def _choose_thresholds(trained, outcome, split: str, options, screen) -> None:
    """Chooses thresholds, writes them, and shows what they reach on pairs that did not choose."""
    # what is below takes seconds to import
    from cmaclip_jax.evaluation.tables import abstentions, threshold_table
    from cmaclip_jax.evaluation.thresholds import THRESHOLDS, write_thresholds
    from cmaclip_jax.parallel.cluster import leads
    from cmaclip_jax.runs.calibration import choose_thresholds

    calibrated = options.calibrate or "val"
    if calibrated == split:
        screen.say(f"thresholds are chosen on one half of {split} and looked at on the other")
    how = options.precision, options.confidence, options.per_class
    thresholds, reached = choose_thresholds(
        trained, outcome, split, calibrated, *how, track=screen.track
    )
    path = trained.workdir / THRESHOLDS
    if leads():
        write_thresholds(path, thresholds)
    promise = f" in {options.confidence:.0%} of such choices" if options.confidence else ""
    screen.say(
        f"accepted answers are to be right {options.precision:.4g} of the time{promise}; chosen on "
        f"{calibrated}, reached on {split}, both at step {trained.step:,}:"
    )
    screen.show(threshold_table(thresholds, reached))
    if silent := abstentions(thresholds):
        screen.say(silent)
    screen.say(f"written to {path}")
