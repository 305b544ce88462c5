"""cmaclip robustness: the accuracy of trained runs on noisy pictures and words."""

import dataclasses
from pathlib import Path

from cmaclip_jax.commands.arguments import add_checkpoint_argument, make_parser
from cmaclip_jax.errors import UserError

HELP = """\
Evaluates a trained run with every noise of data.noise at every severity. Writes the accuracy and
the image weight of every task to robustness.json, .md and .csv in DIR, and their curves to
robustness.png. The same command continues where it was stopped.

  --config.FIELD=VALUE     changes a field of all runs' configs, such as data.path
"""


def run(arguments: list[str]) -> None:
    """Reads the arguments and evaluates."""
    parser = make_parser("robustness", HELP)
    parser.add_argument("--workdir", required=True, help="the run, and where to write")
    add_checkpoint_argument(parser)
    parser.add_argument("--against", default="", help="other runs to draw beside it, DIR2,DIR3")
    parser.add_argument("--split", default="", help="the split (default: test, else val)")
    parser.add_argument("--noises", default="", help="which, 'blur,text.blank' (default: all)")
    parser.add_argument("--severities", default="", help="which (default: 1,2,3,4,5)")
    parser.add_argument(
        "--share", type=float, help="of the pairs that get the noise, 0 to 1 (default: 1)"
    )
    parser.add_argument(
        "--protocol",
        choices=("half",),
        help="instead: half of the pairs with Gaussian pictures (strength 5, then 10) and no "
        "words, as published for Food101; writes robustness-half.*",
    )
    options, rest = parser.parse_known_args(arguments)
    robustness(options, rest)


def robustness(options, overrides: list[str]) -> list:
    """Evaluates under every noise that is not evaluated yet; returns the findings of all."""
    # the imports below take seconds
    from cmaclip_jax.config import with_overrides
    from cmaclip_jax.parallel.cluster import leads
    from cmaclip_jax.runs.judged import open_judged
    from cmaclip_jax.screen import Screen
    from cmaclip_jax.studies.robustness import ResultsFile, check_same_pairs, check_same_tasks
    from cmaclip_jax.studies.robustness_report import run_names
    from cmaclip_jax.training.lock import holding
    from cmaclip_jax.training.workdir import saved_config

    noises, screen = _noises(options), Screen(quiet=not leads())
    others = options.against.split(",") if options.against else []
    paths = (Path(path).resolve() for path in (options.workdir, *others))
    workdirs = list(dict.fromkeys(paths))
    configs = [with_overrides(saved_config(path), overrides) for path in workdirs]
    check_same_tasks(workdirs)
    stem = workdirs[0] / ("robustness-half" if options.protocol else "robustness")
    kept, split, findings, steps = None, options.split, [], {}
    names = run_names(workdirs)
    bar = _progress(screen, len(workdirs) * len(noises))
    with holding(workdirs[0], f"{stem.name}.lock"), bar:
        for name, path, config in zip(names, workdirs, configs, strict=True):
            trained = open_judged(path, config, checkpoint=options.checkpoint)
            steps[name] = trained.step
            split = split or trained.data.last_split()
            kept = kept or ResultsFile(stem.with_suffix(".json"), split, overrides)
            own = _findings(trained, split, noises, kept, screen, bar, name)
            findings += [dataclasses.replace(finding, run=name) for finding in own]
            check_same_pairs(findings)
    if leads():
        _report(stem, split, findings, steps, screen)
    return findings


def _report(stem: Path, split: str, findings: list, steps: dict[str, int], screen) -> None:
    """Writes the tables and curves, and shows a table for every run."""
    from cmaclip_jax.evaluation.tables import text_table  # takes seconds to import
    from cmaclip_jax.studies import robustness_report as report

    paths = report.write_report(stem, split, findings, steps)
    for name in steps:
        own = [finding for finding in findings if finding.run == name]
        screen.say()
        cells = report.table_cells(own, report.MEAN, weights=False)
        title = f"{name} at step {steps[name]:,}: accuracy, mean over tasks"
        screen.show(text_table(cells, title))
    screen.say(f"written to {', '.join(map(str, paths))}")


def _noises(options) -> list:
    """The noises that the options name; the first one is no noise."""
    from cmaclip_jax.studies.robustness import SEVERITIES, conditions, half_conditions

    if options.protocol:
        if options.noises or options.severities or options.share is not None:
            raise UserError(
                "--protocol=half says which noise; leave --noises, --severities and --share out"
            )
        return half_conditions()
    try:
        severities = [int(x) for x in options.severities.split(",")] if options.severities else ()
    except ValueError as error:
        raise UserError(f"--severities={options.severities} are numbers such as 1,3,5") from error
    names = options.noises.split(",") if options.noises else ()
    share = 1.0 if options.share is None else options.share
    return conditions(names, severities or SEVERITIES, share)


def _findings(trained, split: str, noises: list, kept, screen, bar, name: str) -> list:
    """The findings of a run under every noise; kept findings are not computed again."""
    from cmaclip_jax.studies.robustness import NoiseResult, condition_name, judge
    from cmaclip_jax.studies.robustness_report import MEAN, cell

    run, (task,) = str(trained.workdir), bar.task_ids
    kept.begin(run, trained.step)
    known = [finding.noise for finding in kept.of(run, noises)]
    missing = [noise for noise in noises if noise not in known]
    bar.advance(task, len(known))
    if known:
        screen.say(f"{name}: {len(known)} of {len(noises)} evaluated before")

    def track(batches, noise):
        bar.update(task, description=f"{name}: {condition_name(noise)}")
        return batches

    for noise, figures in judge(trained, split, missing, track) if missing else ():
        finding = NoiseResult(run, noise, **figures)
        kept.add(finding)
        bar.advance(task)
        line = f"{name}: {condition_name(noise)}: {cell(finding, MEAN)}"
        screen.say(line)
    return kept.of(run, noises)


def _progress(screen, conditions: int):
    """A progress bar over all noises of all runs."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import TimeRemainingColumn as TimeLeft

    what = TextColumn("{task.description}")
    columns = (BarColumn(bar_width=24), MofNCompleteColumn(), TimeLeft(), TextColumn("left "), what)
    bar = screen.bar(*columns)
    bar.add_task("opening", total=conditions)
    return bar
