"""A whole study of variants: its runs, its tables and its files."""

from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from cmaclip_jax.screen import Screen
from cmaclip_jax.studies.ablation import open_study, train_all, with_equal_minutes
from cmaclip_jax.studies.own_process import in_own_process, leave_devices_to_others
from cmaclip_jax.studies.variant_report import Report, show_report, write_report
from cmaclip_jax.training.lock import holding


def train_variants(
    config: ConfigDict,
    workdir: Path,
    variants: Sequence[str],
    report: Report,
    seeds: int,
    minutes: float | None = None,
    apart: bool = False,
) -> None:
    """Trains what is not there yet, and writes and shows the tables of the report.

    minutes: how long every run trains, instead of its steps. apart: whether every task also gets a
        run of its own.
    """
    leave_devices_to_others()
    screen = Screen()
    with holding(workdir):
        study = in_own_process(open_study, config, workdir, variants, seeds, apart)
        if minutes is not None:
            study = with_equal_minutes(study, minutes, screen.say)
        train_all(study, screen.say, lambda: write_report(study, report))
        show_report(study, report, screen)
