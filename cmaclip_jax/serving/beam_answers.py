"""Answers the files of a table on the workers of Apache Beam.

Each file of the table becomes one file of answers, which is written whole or not at all. If a
worker is lost, the file that it was answering is answered again, by another worker or by the same
command given again. Finished files are kept. So every row has exactly one answer, and it is the
answer that `cmaclip predict` gives without Beam.
"""

import dataclasses
import functools
import itertools
import logging
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from etils import epath

from cmaclip_jax import process
from cmaclip_jax.data.table_files import TableFile, table_files
from cmaclip_jax.data.tables import rows_of_file
from cmaclip_jax.errors import UserError, installed_by
from cmaclip_jax.evaluation.thresholds import run_thresholds
from cmaclip_jax.files import whole_file
from cmaclip_jax.serving.answer_files import KINDS, answer_schema, join_parts, write_part
from cmaclip_jax.serving.input_table import InputTable
from cmaclip_jax.serving.table_answers import PART, Counts, about_answers, answered

COUNTERS = "cmaclip"  # the namespace of the counters
ROWS, KEPT, NOTE, ACCEPTED = "rows", "kept", "note ", "accepted "
_OPENING = threading.Lock()


@dataclasses.dataclass(frozen=True)
class BeamAnswers:
    """The job of all workers.

    files: those of the table. output: the name of the answers without a number.
    """

    workdir: str
    step: int
    table: InputTable
    files: tuple[TableFile, ...]
    output: str

    @classmethod
    def of(
        cls, workdir: str, step: int, table: InputTable, output: str, overwrite: bool
    ) -> "BeamAnswers":
        """Checks the output, and claims it for this table and this run.

        Raises:
          UserError: `output` has a wrong ending, or answers of another table or run are there.
        """
        path = epath.Path(output)
        if path.suffix not in KINDS:
            raise UserError(f"cannot write {path.name!r}; --output ends in {', '.join(KINDS)}")
        files = tuple(table_files(table.path))
        job = cls(str(workdir), step, table, files, str(output))
        thresholds = run_thresholds(Path(workdir), step)
        about = about_answers(table, Path(workdir), step, thresholds)
        file = path.with_name(f"{path.name}.about.json")
        if overwrite:
            for old in path.parent.glob(f"{path.stem}-?????-of-?????{path.suffix}"):
                old.unlink()
        elif file.exists() and file.read_text() != about:
            raise UserError(
                f"{file} says that another table's or another run's answers are there; add "
                "--overwrite to replace them, or name another --output"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as part:
            part.write_bytes(about.encode())
        return job

    def shard(self, number: int) -> str:
        """The file of the answers to one of the table's files."""
        path = epath.Path(self.output)
        return str(
            path.with_name(f"{path.stem}-{number:05d}-of-{len(self.files):05d}{path.suffix}")
        )

    def judged(self) -> list[str]:
        """The tasks that have thresholds."""
        return list(run_thresholds(Path(self.workdir), self.step))


def answer_with_beam(job: BeamAnswers, options: Sequence[str]) -> tuple[Counts, int]:
    """Answers all files; returns the counts of the new answers, and how many files were kept."""
    with installed_by("--beam", "cmaclip_jax[beam]"):
        import apache_beam as beam
    pipeline = beam.Pipeline(argv=list(options))
    files = pipeline | beam.Create(list(enumerate(job.files)))
    sizes = files | "share to count" >> beam.Reshuffle() | beam.Map(functools.partial(_size, job))
    _ = (
        files
        | "share to answer" >> beam.Reshuffle()
        | beam.Map(functools.partial(_answer_file, job), beam.pvalue.AsList(sizes))
    )
    result = pipeline.run()
    result.wait_until_finish()
    ours = beam.metrics.MetricsFilter().with_namespace(COUNTERS)
    found = result.metrics().query(ours)["counters"]
    missing = [
        name for name in map(job.shard, range(len(job.files))) if not epath.Path(name).exists()
    ]
    if missing:
        raise UserError(
            f"Beam has ended without {len(missing):,} of {len(job.files):,} files, {missing[0]} "
            "among them; the same command answers what is missing"
        )
    return _counts({counter.key.metric.name: counter.result or 0 for counter in found})


def _counts(counters: dict[str, int]) -> tuple[Counts, int]:
    counts = Counts()
    for name, value in counters.items():
        for prefix, counted in ((NOTE, counts.notes), (ACCEPTED, counts.accepted)):
            if name.startswith(prefix):
                counted[name.removeprefix(prefix)] += value
    counts.rows = counters.get(ROWS, 0)
    return counts, counters.get(KEPT, 0)


def _size(job: BeamAnswers, numbered: tuple[int, TableFile]) -> tuple[int, int]:
    """The number of a file, and how many rows it has: rows without a name are numbered."""
    number, file = numbered
    return number, sum(1 for _ in rows_of_file(file, job.files))


def _answer_file(
    job: BeamAnswers, numbered: tuple[int, TableFile], sizes: Sequence[tuple[int, int]]
) -> None:
    """Writes the answers to one file, unless they are there."""
    number, file = numbered
    target = epath.Path(job.shard(number))
    if target.exists():
        _count({KEPT: 1})
        return
    classifier = _classifier(job.workdir, job.step)
    schema, first = answer_schema(classifier.tasks), sum(rows for n, rows in sizes if n < number)
    counts, rows = Counts(), rows_of_file(file, job.files)
    with tempfile.TemporaryDirectory() as folder:
        parts: list[Path] = []
        while some := list(itertools.islice(rows, PART)):
            lines = []
            for line, answers in answered(classifier, job.table, some, first + PART * len(parts)):
                lines.append(line)
                counts.add(answers, line[-1])
            part = Path(folder) / f"{len(parts):08d}{target.suffix}"
            write_part(part, schema, lines)
            parts.append(part)
        joined = Path(folder) / f"joined{target.suffix}"
        join_parts(parts, schema, joined)
        with whole_file(target) as unfinished:
            epath.Path(joined).copy(unfinished)
    _count(
        {ROWS: counts.rows}
        | {f"{NOTE}{note}": value for note, value in counts.notes.items()}
        | {f"{ACCEPTED}{task}": value for task, value in counts.accepted.items()}
    )


def _count(values: dict[str, int]) -> None:
    """Adds to Beam's counters, which the command shows at its end."""
    from apache_beam.metrics import Metrics

    for name, value in values.items():
        Metrics.counter(COUNTERS, name).inc(value)


def _classifier(workdir: str, step: int) -> Any:
    """The run, opened once in every process; Beam runs several threads in one."""
    with _OPENING:
        return _opened(workdir, step)


@functools.cache
def _opened(workdir: str, step: int) -> Any:
    process.prepare()  # before JAX opens its devices
    logging.getLogger("absl").setLevel(logging.WARNING)  # Beam's log would show the lines of Orbax
    import jax

    from cmaclip_jax.serving.classifier import open_classifier

    return open_classifier(workdir, jax.local_devices(), step)
