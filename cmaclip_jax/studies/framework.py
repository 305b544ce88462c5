"""The parts that all studies share: runs of arms with seeds, summaries, and files of reports.

A study compares arms. Every arm is trained with several seeds. Each of these runs is an ordinary
run in the folder STUDY/ARM/seed-N, so a study that was stopped continues with its next run.
"""

import csv
import dataclasses
import io
import json
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

import jax
from ml_collections import ConfigDict

from cmaclip_jax.errors import UserError
from cmaclip_jax.files import whole_file, write_text
from cmaclip_jax.process import give_memory_back
from cmaclip_jax.studies.own_process import in_own_process
from cmaclip_jax.training.workdir import open_workdir

MEAN = "(mean)"  # a row in place of a task: the mean over tasks. No task can have this name


class NamedArm(Protocol):
    """One of the things that a study compares; `name` is the name of its folder."""

    @property
    def name(self) -> str: ...


Arm = TypeVar("Arm", bound=NamedArm)


@dataclasses.dataclass(frozen=True, eq=False)
class StudyRun(Generic[Arm]):
    """The run of an arm with one seed."""

    arm: Arm
    seed: int
    config: ConfigDict
    folder: Path

    def __str__(self) -> str:
        return f"{self.arm.name}, seed {self.seed}"

    def read(self, result: str) -> dict | None:
        """The JSON file that the run writes when it is finished; None before that.

        Raises:
          UserError: the folder belongs to a run of another config.
        """
        file = self.folder / result
        if not file.exists():
            return None
        open_workdir(self.folder, self.config)
        return json.loads(file.read_text())

    def figures(self, split: str) -> dict | None:
        """The figures of the run on a split after its last step; None before that."""
        figures = self.read(f"evaluation/{split}.json")
        return figures if figures and figures["step"] == self.config.train.steps else None


def make_run(arm: Arm, seed: int, config: ConfigDict, workdir: Path) -> StudyRun[Arm]:
    """The run of an arm in its folder; `config` has the seed already."""
    return StudyRun(arm, seed, config, workdir / arm.name / f"seed-{seed}")


def train_one(run: StudyRun, train: Callable[[], Any], same_programs: bool = False) -> Any:
    """Calls `train` and returns its result; the message of an error names the run.

    Afterwards memory is given back to the system. Compiled programs are dropped too, unless
    `same_programs` says that the next runs have the same shapes.
    """
    try:
        result = train()
    except UserError as error:
        raise UserError(f"{run}: {error}") from error
    if not same_programs:
        jax.clear_caches()
    give_memory_back()
    return result


def train_unfinished(
    runs: Sequence[StudyRun],
    finished: Callable[[StudyRun], Any],
    train: Callable[[ConfigDict, Path], Any],
    say: Callable[[str], None],
    after: Callable[[], Any] = lambda: None,
) -> None:
    """Trains the runs that are not finished, each in a process of its own.

    train: is called with the config and the folder of a run.
    say: prints which run it is. after: is called after every run.
    """
    for number, run in enumerate(runs, 1):
        name = f"run {number} of {len(runs)}: {run}"
        if finished(run):
            say(f"{name}: done before")
            continue
        say(f"\n{name}")
        try:
            in_own_process(train, run.config, run.folder)
        except UserError as error:
            raise UserError(f"{run}: {error}") from error
        after()


def deviation(values: Sequence[float]) -> float | None:
    """The sample standard deviation; None for a single value."""
    return statistics.stdev(values) if len(values) > 1 else None


def with_deviation(mean: float, spread: float | None, decimals: int) -> str:
    """'0.912 ±0.004', or the mean alone."""
    return f"{mean:.{decimals}f}" + ("" if spread is None else f" ±{spread:.{decimals}f}")


def markdown_table(cells: Iterable[list[str]], words: Sequence[int] = (0,)) -> Iterator[str]:
    """The lines of a Markdown table, the head first. All columns but `words` are aligned right."""
    head, *body = (f"| {' | '.join(row)} |" for row in cells)
    columns = head.count(" | ") + 1
    yield head
    yield "|" + "|".join("---" if place in words else "---:" for place in range(columns)) + "|"
    yield from body


def task_title(task: str) -> str:
    """The title of the table or the panel of a task, or of MEAN."""
    return "mean over tasks" if task == MEAN else task


def style_axes(axes, size: int, grid: Literal["both", "x"] = "both") -> None:
    """The style of all panels: small labels, a light grid, no frame at the top and the right."""
    axes.tick_params(labelsize=size)
    axes.grid(axis=grid, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def csv_text(columns: Sequence[str], rows: Iterable[dict]) -> str:
    """Rows as CSV, under a header."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_files(stem: Path, texts: dict[str, str], figure: Any) -> list[Path]:
    """Writes the files of a report: STEM with the suffix of each text, and STEM.png."""
    paths = [stem.with_suffix(suffix) for suffix in (*texts, ".png")]
    for path, text in zip(paths, texts.values(), strict=False):
        write_text(path, text)
    with whole_file(paths[-1]) as part:
        figure.savefig(part)
    return paths
