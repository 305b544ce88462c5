"""cmaclip landmarks study: which annotation noise hurts a detector, and which remedy helps."""

import functools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from cmaclip_jax.commands.arguments import make_parser, read_named_config
from cmaclip_jax.errors import UserError

STUDY = """\
Adds several kinds of noise to the points of training faces, trains landmark detectors with several
remedies and seeds, and compares their accuracy and stability on true points. Writes study.md,
study.json and study.png in DIR after each seed. Each run is an ordinary one, in
DIR/NOISE-STRENGTH-REMEDY-FACES/seed-N. The same command continues where it was stopped.

Reconstructed from the abstract of arXiv:2007.15269: metrics, noises and remedies are our choice.

  --config=FILE            configs/landmarks.py; its fields `landmarks.study` define the study
  --config.FIELD=VALUE     changes one of its fields; cmaclip_jax/landmarks/config.py lists them all
                           for example --config.landmarks.study.noises="('bias','outliers')"
"""


def run_study(arguments: list[str]) -> None:
    """Reads the arguments and compares."""
    parser = make_parser("landmarks study", STUDY)
    parser.add_argument("--workdir", help="the study's folder (default: runs/CONFIG-study)")
    options, rest = parser.parse_known_args(arguments)
    config, name = read_named_config(rest)
    if "landmarks" not in config:
        raise UserError(f"{name} is no config of landmarks; use --config=configs/landmarks.py")
    from cmaclip_jax.training.lock import holding  # takes seconds to import

    workdir = Path(options.workdir or f"runs/{name}-study")
    with holding(workdir):
        study(config, workdir)


def study(config, workdir: Path) -> list:
    """Trains what is not there yet; returns the rows of the table."""
    # the imports below take seconds
    from cmaclip_jax.evaluation.tables import text_table
    from cmaclip_jax.landmarks import study_report as report
    from cmaclip_jax.landmarks.sources import open_faces
    from cmaclip_jax.landmarks.study import check_fitted, runs_of, scores_of, train_and_score
    from cmaclip_jax.screen import Screen
    from cmaclip_jax.studies.framework import train_one

    screen = Screen()

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
    return rows


def with_time_left(runs: Sequence) -> Iterator[tuple]:
    """The runs, each with ', 4:30 left' as the runs before it went; the first without."""
    from cmaclip_jax.screen import time_left

    start = time.monotonic()
    for done, run in enumerate(runs):
        seconds = (time.monotonic() - start) / max(done, 1) * (len(runs) - done)
        yield run, f", about {time_left(seconds)} left" if done else ""
