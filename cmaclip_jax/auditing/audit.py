"""An audit: the runs of the folds, and what follows from their answers and from twins.

An audit's folder holds the runs of the folds (`fold-1`, ...), the run on the splits as given
(`as-given`, only if twins lie across splits), and the results: `audit.csv`, `twins.csv` and
`audit.html`. An audit that was stopped continues with its next run.
"""

import json
from pathlib import Path

from ml_collections import ConfigDict

from cmaclip_jax.auditing.audited_data import open_audited
from cmaclip_jax.auditing.findings import write_findings
from cmaclip_jax.auditing.fold_runs import FOLDS, choose_folds, fold_runs, train_folds
from cmaclip_jax.auditing.leaks import GIVEN, given_run
from cmaclip_jax.auditing.twin_files import TWINS, read_twins, write_twins
from cmaclip_jax.auditing.twins import find_twins, leaks, twin_groups
from cmaclip_jax.config import check_config
from cmaclip_jax.data.folds import write_folds
from cmaclip_jax.errors import UserError
from cmaclip_jax.files import write_text
from cmaclip_jax.runs.data import last_split
from cmaclip_jax.runs.training import train_and_evaluate
from cmaclip_jax.screen import Screen
from cmaclip_jax.studies.own_process import in_own_process, leave_devices_to_others
from cmaclip_jax.training.lock import holding
from cmaclip_jax.training.workdir import differences

ABOUT = "audit.json"


def run_audit(
    config: ConfigDict, workdir: Path, folds: int, most: int, studio: bool = False
) -> None:
    """Trains what is not there yet, and writes and shows the findings.

    most: how many suspects the page shows. studio: whether files for Label Studio are written.
    """
    _check(config, folds)
    leave_devices_to_others()
    screen = Screen()
    with holding(workdir):
        _check_same(workdir, config, folds)
        if not (workdir / FOLDS).exists():
            in_own_process(prepare, config, workdir, folds)
        runs = fold_runs(config, workdir, folds)
        train_folds(runs, screen.say)
        split = in_own_process(leaking_split, config, workdir)
        if split:
            screen.say(f"\n{GIVEN}: rows of {split} have twins in train")
            train_given(config, workdir, split)
        in_own_process(write_findings, config, workdir, folds, split, most, studio)


def prepare(config: ConfigDict, workdir: Path, folds: int) -> None:
    """Finds the twins, and divides all records into folds."""
    screen = Screen()
    data = open_audited(config, workdir)
    screen.say(data.records.description)
    twins = find_twins(data.records, track=screen.track)
    write_twins(workdir / TWINS, twins)
    groups = twin_groups(twins, len(data))
    # The folds come last: where they are written, everything is prepared.
    write_folds(workdir / FOLDS, choose_folds(groups, folds, config.seed))


def leaking_split(config: ConfigDict, workdir: Path) -> str:
    """The split by which a run is judged, if its rows have twins in the training split; else ''."""
    splits = open_audited(config, workdir).splits
    split = last_split(config, set(splits))
    leaked = leaks(read_twins(workdir / TWINS).sure, splits)
    return split if leaked[splits == split].any() else ""


def train_given(config: ConfigDict, workdir: Path, split: str) -> None:
    """Trains the run on the splits as given, unless it is finished."""
    given = given_run(config, workdir, split)
    if not given.figures(split):
        in_own_process(train_and_evaluate, given.config, given.folder)


def _check(config: ConfigDict, folds: int) -> None:
    if folds < 2:
        raise UserError(f"--folds={folds} must be at least 2")
    if config.train.objective != "classification":
        raise UserError("an audit judges labels; use train.objective='classification'")
    check_config(config)


def _check_same(workdir: Path, config: ConfigDict, folds: int) -> None:
    """Raises UserError if the folder belongs to an audit of another config.

    The folds give the folder its config. Until then, a command with a mistake can be mended.
    """
    about = {"folds": folds, "config": json.loads(config.to_json_best_effort())}
    file = workdir / ABOUT
    if not (workdir / FOLDS).exists():
        write_text(file, json.dumps(about, indent=2) + "\n")
        return
    changed = list(differences(json.loads(file.read_text()), about))
    if changed:
        name, was, now = changed[0]
        raise UserError(
            f"{workdir} is another audit: {name} is {was!r} there and {now!r} here; name another "
            "--workdir"
        )
