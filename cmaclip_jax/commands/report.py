"""cmaclip report: all there is to know about a run, on one page."""

import functools
from pathlib import Path

from cmaclip_jax.commands.arguments import add_checkpoint_argument, make_parser
from cmaclip_jax.errors import UserError

HELP = """\
Writes DIR/report.html: how the run learned, and for every task its curve of precision over recall
with the threshold, its confusions, its calibration, what picture and words counted for, the surest
mistakes and what was held back; and for a few pairs where the words look in the picture. One file,
with everything in it. It is made from what `cmaclip evaluate` wrote; pictures come from the data.

  --config.FIELD=VALUE     changes a field of the run's config, as config.data.path
"""
PICTURES = 120  # on a page, about
MOST = 6  # mistakes of a task, and as many answers that were held back
EXPLAINED = 4  # pairs
FACTS = {
    "data": ("data.source", "data.path"),
    "towers": ("model.image", "model.text"),
    "inputs": ("model.inputs",),
    "sequence-wise attention, layers": ("model.sequence_layers",),
    "modality-wise": ("model.modality",),
    "started from": ("model.pretrained",),
    "steps": ("train.steps",),
    "batch size": ("train.batch_size",),
    "learning rate": ("train.learning_rate",),
    "seed": ("seed",),
}


def run(arguments: list[str]) -> None:
    """Reads the arguments and reports."""
    parser = make_parser("report", HELP)
    parser.add_argument("--workdir", required=True, help="the folder of the run")
    parser.add_argument("--split", default="", help="the split (default: test, else val)")
    add_checkpoint_argument(parser)
    parser.add_argument("--output", help="the page to write (default: DIR/report.html)")
    options, rest = parser.parse_known_args(arguments)
    report(options, rest)


def report(options, overrides: list[str]) -> None:
    """Gathers what the page is made from, and writes it."""
    # what is below takes seconds to import
    from cmaclip_jax.config import with_overrides
    from cmaclip_jax.report.mistakes import cases
    from cmaclip_jax.report.pages import report_page, write_page
    from cmaclip_jax.report.results import read_results
    from cmaclip_jax.screen import Screen
    from cmaclip_jax.training.checkpoints import chosen_step
    from cmaclip_jax.training.workdir import saved_config

    workdir, screen = Path(options.workdir), Screen()
    config = with_overrides(saved_config(workdir), overrides)
    chosen_step(workdir, options.checkpoint)  # a step that is not there ends here
    results = read_results(workdir, options.split)
    most = max(1, min(MOST, PICTURES // (2 * len(results.tasks))))
    found = (
        {task.name: cases(results, task, most) for task in results.tasks} if results.outcome else {}
    )
    shown, explained, missing, why_no_heat = _pairs(results, config, found, options.checkpoint)
    text = report_page(results, facts(config), found, shown, explained, missing, why_no_heat)
    path = write_page(options.output or workdir / "report.html", text)
    for line in (*missing, f"written to {path}"):
        screen.say(line)


def facts(config) -> dict[str, str]:
    """What was trained on what, of a config."""
    values = {
        name: [str(functools.reduce(getattr, field.split("."), config)) for field in fields]
        for name, fields in FACTS.items()
    }
    return {name: ", ".join(filter(None, some)) or "-" for name, some in values.items()}


def _pairs(results, config, found, checkpoint: str) -> tuple:
    """The pairs to show and to explain, what is missing, and why there is no heat."""
    from cmaclip_jax.report.split_pairs import SplitPairs

    if not results.outcome:
        return {}, [], [], f"the answers to {results.split} are not kept"
    try:
        pairs = SplitPairs(results.workdir, config, results.split, results.thresholds, checkpoint)
    except UserError as error:
        lacks = f"pictures and words, because data or model cannot be opened ({error})"
        return {}, [], [lacks], "data or model cannot be opened"
    missing, step = [], pairs.trained.step
    if step != results.figures["step"]:
        judged = results.figures["step"]
        anew = results.command(f"--split={results.split}", f"--checkpoint={step}")
        missing = [
            f"figures of step {step}, whose answers the single pairs show: they are of step "
            f"{judged}; {anew} makes them, or take --checkpoint={judged}"
        ]
    rows = [case.row for task in found.values() for case in task.mistakes + task.abstentions]
    explained = pairs.explain(results.outcome, EXPLAINED)
    return pairs.show(rows), explained, missing, pairs.explainer.why_no_maps
