"""The report on a run, made from its folder and its data."""

import functools
from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from cmaclip_jax.config_arguments import with_overrides
from cmaclip_jax.errors import UserError
from cmaclip_jax.report.explanation import Explanation, PairView
from cmaclip_jax.report.mistakes import Cases, cases
from cmaclip_jax.report.pages import report_page
from cmaclip_jax.report.results import RunResults, read_results
from cmaclip_jax.report.split_pairs import SplitPairs
from cmaclip_jax.training.saved_parameters import chosen_step
from cmaclip_jax.training.workdir import saved_config

PICTURES = 120  # on a page, approximately
MOST = 6  # mistakes of a task at most, and as many answers that are held back
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


def run_report(
    workdir: str, overrides: list[str], split: str, checkpoint: str
) -> tuple[str, list[str]]:
    """The page on a run, and a line for everything missing besides files of the run's folder.

    overrides: '--config.FIELD=VALUE', changes to the config of the run.
    """
    config = with_overrides(saved_config(workdir), overrides)
    chosen_step(Path(workdir), checkpoint)  # raises UserError if there is no such step
    results = read_results(workdir, split)
    most = max(1, min(MOST, PICTURES // (2 * len(results.tasks))))
    judged = results.tasks if results.outcome else ()
    task_cases = {task.name: cases(results, task, most) for task in judged}
    shown, explained, missing, why_no_heat = _pairs(results, config, task_cases, checkpoint)
    page = report_page(results, facts(config), task_cases, shown, explained, missing, why_no_heat)
    return page, missing


def facts(config: ConfigDict) -> dict[str, str]:
    """The fields of a config that the report shows: {name in the report: value}."""
    values = {
        name: [str(functools.reduce(getattr, field.split("."), config)) for field in fields]
        for name, fields in FACTS.items()
    }
    return {name: ", ".join(filter(None, some)) or "-" for name, some in values.items()}


def _pairs(
    results: RunResults, config: ConfigDict, task_cases: Mapping[str, Cases], checkpoint: str
) -> tuple[dict[int, PairView], list[Explanation], list[str], str]:
    """The arguments of `report_page` after `task_cases`."""
    if not results.outcome:
        return {}, [], [], f"the answers to {results.split} are not kept"
    try:
        pairs = SplitPairs(results.workdir, config, results.split, results.thresholds, checkpoint)
    except UserError as error:
        lacking = f"pictures and words, because data or model cannot be opened ({error})"
        return {}, [], [lacking], "data or model cannot be opened"
    missing, step = [], pairs.trained.step
    if step != results.figures["step"]:
        judged = results.figures["step"]
        again = results.command(f"--split={results.split}", f"--checkpoint={step}")
        missing = [
            f"figures of step {step}, whose answers the single pairs show: they are of step "
            f"{judged}; {again} makes them, or take --checkpoint={judged}"
        ]
    rows = [case.row for task in task_cases.values() for case in task.mistakes + task.abstentions]
    explained = pairs.explain(results.outcome, EXPLAINED)
    return pairs.show(rows), explained, missing, pairs.explainer.why_no_heat
