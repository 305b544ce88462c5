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
  --precision=0.95         chooses thresholds on the split of --calibrate, so that this share of the
                           accepted answers is right; writes DIR/thresholds.json and prints what
                           the thresholds reach on SPLIT

Or evaluates CLIP without training. The sentences of config.eval.prompts describe every class; the
answer is the class whose sentences are most similar to the pair:

  --zero-shot --source=CLIP --config=FILE [--config.FIELD=VALUE]
                           model.inputs='image' uses pictures only; --split and --precision work
                           as above
"""


def run(arguments: list[str]) -> None:
    """Reads the arguments and evaluates."""
    parser = make_parser("evaluate", HELP)
    parser.add_argument(
        "--workdir", help="the folder of the run; with --zero-shot the folder to write"
    )
    parser.add_argument("--split", default="", help="the split (default: test, else val)")
    parser.add_argument(
        "--precision", type=float, help="the share of accepted answers that shall be right"
    )
    parser.add_argument(
        "--confidence", type=float, help="reach the precision with this probability, such as 0.9"
    )
    parser.add_argument("--per-class", action="store_true", help="a threshold for every class")
    parser.add_argument(
        "--calibrate", default="", help="the split to choose thresholds on (default: val)"
    )
    parser.add_argument("--zero-shot", action="store_true", help="evaluate CLIP without training")
    parser.add_argument("--source", help="the CLIP, as `cmaclip convert --source` takes it")
    add_checkpoint_argument(parser)
    options, rest = parser.parse_known_args(arguments)
    _check(options)
    evaluate(options, rest)


def _check(options) -> None:
    """Raises UserError for arguments that contradict one another."""
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
    """Evaluates a run or a CLIP, and chooses thresholds with --precision; returns the figures."""
    # the imports below take seconds
    from cmaclip_jax.parallel.cluster import leads
    from cmaclip_jax.runs.calibration import write_chosen
    from cmaclip_jax.runs.results import write_results
    from cmaclip_jax.screen import Screen

    screen = Screen(quiet=not leads())
    trained = (_zero_shot if options.zero_shot else _run)(options, overrides, screen)
    screen.say(f"computing in {trained.dtype}")
    split = options.split or trained.data.last_split()
    outcome = trained.outcome(split, screen.track)
    figures = write_results(trained, outcome, split, trained.step, screen)
    if options.precision is not None:
        wanted = options.precision, options.confidence, options.per_class
        write_chosen(trained, outcome, split, options.calibrate or "val", *wanted, screen=screen)
    return figures


def _run(options, overrides: list[str], screen):
    """Opens the run of --workdir."""
    from cmaclip_jax.config_arguments import with_overrides
    from cmaclip_jax.runs.judged import open_judged
    from cmaclip_jax.training.workdir import saved_config

    config = with_overrides(saved_config(options.workdir), overrides)
    return open_judged(options.workdir, config, checkpoint=options.checkpoint)


def _zero_shot(options, overrides: list[str], screen):
    """Opens the CLIP of --source, which classifies by the prompts of the config."""
    config, name = read_named_config(overrides)
    config.model.pretrained = options.source
    from cmaclip_jax.runs.zero_shot import open_zero_shot

    return open_zero_shot(config, Path(options.workdir or f"runs/{name}-zero-shot"), screen)
