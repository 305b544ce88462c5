"""A whole study: its runs, the table, and its files."""

import functools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from cmaclip_jax.landmarks import study_report as report
from cmaclip_jax.landmarks.sources import open_faces
from cmaclip_jax.landmarks.study import Arm, check_fitted, runs_of, scores_of, train_and_score
from cmaclip_jax.screen import Screen, text_table, time_left
from cmaclip_jax.studies.framework import StudyRun, train_one
from cmaclip_jax.training.lock import holding


def compare_remedies(config: ConfigDict, workdir: Path) -> None:
    """Trains what is not there yet, and writes and shows the table of all runs."""
    screen = Screen()
    with holding(workdir):
        runs = runs_of(config, workdir)
        results = {run: scores for run in runs if (scores := scores_of(run))}
        missing = [run for run in runs if run not in results]
        screen.say(f"{len(runs)} runs, {len(results)} of them done before")
        if missing:
            faces = open_faces(config, max(run.arm.faces for run in runs))
            check_fitted(config, faces.train.points.shape[1])
        for run, left in with_time_left(missing):
            screen.say(f"run {len(results) + 1} of {len(runs)}: {run}{left}")
            train = functools.partial(train_and_score, config, run, faces, workdir)
            results[run] = train_one(run, train)
            if run.seed not in [other.seed for other in runs if other not in results]:
                report.write_report(workdir, report.table_rows(runs, results))
        rows = report.table_rows(runs, results)
        paths = report.write_report(workdir, rows)
        screen.say()
        screen.show(text_table(report.table_cells(rows), "Landmarks from noisy annotations"))
        for line in (report.ABOUT, *report.remarks(rows)):
            screen.say(line)
        screen.say(f"written to {', '.join(map(str, paths))}")


def with_time_left(runs: Sequence[StudyRun[Arm]]) -> Iterator[tuple[StudyRun[Arm], str]]:
    """Each run with ', about 4:30 left', as the runs before it went; the first one with ''."""
    start = time.monotonic()
    for done, run in enumerate(runs):
        seconds = (time.monotonic() - start) / max(done, 1) * (len(runs) - done)
        yield run, f", about {time_left(seconds)} left" if done else ""
