"""A whole study of robustness: its evaluations, its tables and its files."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cmaclip_jax.config_arguments import with_overrides
from cmaclip_jax.data.noise import Noise
from cmaclip_jax.parallel.cluster import leads
from cmaclip_jax.runs.judged import JudgedRun, open_judged
from cmaclip_jax.screen import Screen, text_table
from cmaclip_jax.studies.framework import MEAN
from cmaclip_jax.studies.robustness import (
    NoiseResult,
    ResultsFile,
    check_same_pairs,
    check_same_tasks,
    condition_name,
    judge,
)
from cmaclip_jax.studies.robustness_report import cell, run_names, table_cells, write_report
from cmaclip_jax.training.lock import holding
from cmaclip_jax.training.workdir import saved_config


def evaluate_robustness(
    workdirs: Sequence[Path],
    noises: Sequence[Noise],
    report: str,
    overrides: Sequence[str] = (),
    split: str = "",
    checkpoint: str = "newest",
) -> list[NoiseResult]:
    """Evaluates runs under noises, if that is not done yet, and reports all results.

    Args:
      workdirs: the run whose folder gets the report, then the runs that are drawn beside it.
      noises: the first one is no noise.
      report: the name of the report's files, without suffix.
      overrides: changes of all runs' configs, each '--config.FIELD=VALUE'.
      split: '' is the last split of the first run.
    """
    screen, stem = Screen(quiet=not leads()), workdirs[0] / report
    configs = [with_overrides(saved_config(path), list(overrides)) for path in workdirs]
    check_same_tasks(workdirs)
    file: ResultsFile | None = None
    results: list[NoiseResult] = []
    steps: dict[str, int] = {}
    names = run_names(workdirs)
    bar = _progress(screen, len(workdirs) * len(noises))
    with holding(workdirs[0], f"{report}.lock"), bar:
        for name, path, config in zip(names, workdirs, configs, strict=True):
            run = open_judged(path, config, checkpoint=checkpoint)
            steps[name] = run.step
            split = split or run.data.last_split()
            file = file or ResultsFile(stem.with_suffix(".json"), split, overrides)
            own = _evaluate(run, split, noises, file, screen, bar, name)
            results += [dataclasses.replace(result, run=name) for result in own]
            check_same_pairs(results)
    if leads():
        _show(results, steps, screen)
        paths = write_report(stem, split, results, steps)
        screen.say(f"written to {', '.join(map(str, paths))}")
    return results


def _evaluate(
    run: JudgedRun,
    split: str,
    noises: Sequence[Noise],
    file: ResultsFile,
    screen: Screen,
    bar: Progress,
    name: str,
) -> list[NoiseResult]:
    """The results of a run under every noise. Those that the file has are not computed again."""
    folder, (task,) = str(run.workdir), bar.task_ids
    file.begin(folder, run.step)
    known = [result.noise for result in file.of(folder, noises)]
    bar.advance(task, len(known))
    if known:
        screen.say(f"{name}: {len(known)} of {len(noises)} evaluated before")

    def track(batches, noise: Noise):
        bar.update(task, description=f"{name}: {condition_name(noise)}")
        return batches

    for noise, figures in judge(run, split, [x for x in noises if x not in known], track):
        result = NoiseResult(folder, noise, **figures)
        file.add(result)
        bar.advance(task)
        screen.say(f"{name}: {condition_name(noise)}: {cell(result, MEAN)}")
    return file.of(folder, noises)


def _show(results: Sequence[NoiseResult], steps: Mapping[str, int], screen: Screen) -> None:
    """Shows a table for every run; steps: {run: the step of its checkpoint}."""
    for run, step in steps.items():
        own = [result for result in results if result.run == run]
        screen.say(f"\n{run} at step {step:,}: accuracy, mean over tasks")
        screen.show(text_table(table_cells(own, MEAN, weights=False), ""))


def _progress(screen: Screen, evaluations: int) -> Progress:
    """A progress bar over the evaluations of all runs."""
    left = (TimeRemainingColumn(), TextColumn("left {task.description}"))
    bar = screen.bar(BarColumn(bar_width=24), MofNCompleteColumn(), *left)
    bar.add_task("opening", total=evaluations)
    return bar
