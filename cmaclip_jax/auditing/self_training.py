"""Self-training: label, train with these labels, and again.

Round r trains a run on the original rows and on the labels that the run of round r - 1 gave to the
table. Each run starts anew, with the original config and `train.pseudo`; so a wrong label of an
early round can disappear in a later one. Labelling and training have a process of their own each.
What is finished is not done again when the same command is given again.
"""

import dataclasses
import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cmaclip_jax.auditing.labelling import Wanted, label_table
from cmaclip_jax.config import with_changes
from cmaclip_jax.config_arguments import with_overrides
from cmaclip_jax.data.storage import EMBEDDED
from cmaclip_jax.data.table_files import base_folder
from cmaclip_jax.errors import UserError
from cmaclip_jax.runs.training import train_and_evaluate
from cmaclip_jax.screen import Screen, text_table
from cmaclip_jax.studies.own_process import in_own_process, leave_devices_to_others
from cmaclip_jax.training.workdir import saved_config


@dataclasses.dataclass(frozen=True)
class Round:
    """A run, and the table that it labels. number: of the trainings before, 0 for the first run."""

    number: int
    workdir: Path
    output: Path


def rounds_of(wanted: Wanted, rounds: int, folder: Path) -> list[Round]:
    """All rounds. The last one labels `wanted.output`; the others write beside it.

    folder: the run of round r is `folder`-round-r.
    """
    if rounds < 1:
        raise UserError(f"--rounds={rounds}; give 1 or more, or leave it out")
    ending = wanted.output.suffix
    made = [Round(0, wanted.workdir, wanted.output.with_suffix(f".round-1{ending}"))]
    for number in range(1, rounds + 1):
        name = f".round-{number + 1}{ending}"
        output = wanted.output if number == rounds else wanted.output.with_suffix(name)
        made.append(Round(number, folder.with_name(f"{folder.name}-round-{number}"), output))
    return made


def self_train(wanted: Wanted, rounds: int, folder: Path, screen: Screen) -> list[dict[str, Any]]:
    """Labels and trains in turn; returns the report of every labelling.

    The accuracies in the reports are those of the runs of rounds 0 to `rounds`.
    """
    reports, made = [], rounds_of(wanted, rounds, folder)
    check_pictures_move(wanted)
    leave_devices_to_others()
    for one, following in zip(made, [*made[1:], None], strict=True):
        reports.append(_labelled(wanted, one, following is None, screen))
        if following is not None:
            if not reports[-1]["rows_filled"]:
                raise UserError(
                    f"{one.workdir} has no answer to accept, so there is nothing to learn from; "
                    f"lower --precision or --confidence, or label more rows of {wanted.calibrate}"
                )
            screen.say(f"round {following.number} of {rounds}: training {following.workdir}")
            _train(wanted, one.output, following.workdir)
    return reports


def _labelled(wanted: Wanted, one: Round, last: bool, screen: Screen) -> dict[str, Any]:
    """The report of a labelling that is done now or was done before."""
    own = dataclasses.replace(
        wanted,
        workdir=one.workdir,
        output=one.output,
        review=wanted.review if last else 0,
        checkpoint=wanted.checkpoint if one.number == 0 else "newest",
    )
    if not last and own.output.exists() and own.report.exists():
        report = json.loads(own.report.read_text(encoding="utf-8"))
        if not own.made(report):
            raise UserError(
                f"{own.output} was labelled by another run, from another table or to another "
                "precision; remove it or name another --output"
            )
        screen.say(f"{own.output}: done before")
        return report
    screen.say(f"labelling with {one.workdir}")
    return in_own_process(label_table, own)


def _train(wanted: Wanted, labels: Path, workdir: Path) -> None:
    """Trains a run with pseudo-labels, unless it has finished."""
    config = with_overrides(saved_config(wanted.workdir), list(wanted.overrides))
    config = with_changes(config, {"train.pseudo": str(labels.absolute())})
    figures = [json.loads(file.read_text()) for file in workdir.glob("evaluation/*.json")]
    if not any(found.get("step") == config.train.steps for found in figures):
        in_own_process(train_and_evaluate, config, workdir)


def check_pictures_move(wanted: Wanted) -> None:
    """Raises UserError if the pictures of the table would not be found from the output's folder."""
    here, there = Path(base_folder(wanted.table.path) or "."), wanted.output.parent
    if here.resolve() == there.resolve() or not wanted.table.image:
        return
    for cell in wanted.table.pictures():
        if "://" not in cell and not EMBEDDED.fullmatch(cell) and not Path(cell).is_absolute():
            raise UserError(
                f"the table names pictures relative to its folder, as {cell!r}, so labelled rows "
                f"find them only there; name an --output in {here}"
            )
        return


def round_table(reports: Sequence[dict[str, Any]], wanted: Wanted):
    """A table of the rounds: the accuracy of each run, and the labels that it gave."""
    return text_table(_lines(reports), f"accuracies on {wanted.calibrate}; labels given")


def _lines(reports: Sequence[dict[str, Any]]) -> Iterator[list[str]]:
    names = list(reports[0]["tasks"])
    yield ["round", "mean accuracy", *names, "labels", "rows with one"]
    for number, report in enumerate(reports):
        tasks = report["tasks"]
        known = [tasks[name]["accuracy"] for name in names]
        mean = statistics.fmean([x for x in known if x is not None] or [0.0])
        cells = ["" if x is None else f"{x:.3f}" for x in known]
        labels = sum(task["filled"] for task in tasks.values())
        yield [f"{number}", f"{mean:.3f}", *cells, f"{labels:,}", f"{report['rows_filled']:,}"]
