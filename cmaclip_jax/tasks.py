"""What is asked of a pair: tasks, their classes, and the file that keeps them."""

import dataclasses
import json
import re
from collections.abc import Container, Iterable, Sequence
from pathlib import Path

from cmaclip_jax.errors import UserError
from cmaclip_jax.files import write_text

NO_TASKS = "none"  # as data.labels: no column is a task
TASK_NAME = r"[\w .-]+"
UNKNOWN = -1  # a label nobody gave: of one-label tasks the class, of many-label tasks the row


@dataclasses.dataclass(frozen=True)
class Task:
    """One question with a fixed list of answers.

    many: whether several classes may hold at once (sigmoid) or exactly one does (softmax).
    """

    name: str
    classes: tuple[str, ...]
    many: bool = False

    def __post_init__(self):
        if not re.fullmatch(TASK_NAME, self.name):
            raise UserError(
                f"task name {self.name!r} must be letters, digits, space, '.', '_' or '-'; "
                "rename the column"
            )
        if len(set(self.classes)) != len(self.classes):
            raise UserError(f"task {self.name!r} lists a class twice")
        minimum = 1 if self.many else 2
        if len(self.classes) < minimum:
            raise UserError(
                f"task {self.name!r} has {len(self.classes)} class(es), needs {minimum}; "
                "leave it out of data.labels"
            )


def task_name(name: str) -> str:
    """The name of a task for a column called `name`: what no task's name may hold becomes '-'."""
    if re.fullmatch(TASK_NAME, name):
        return name
    return re.sub(r"[^\w .-]+", "-", name).strip("- ")


def select_tasks(tasks: Sequence[Task], names: Iterable[str]) -> tuple[Task, ...]:
    """The tasks called `names`, in that order; all of them where `names` is empty.

    A task whose name was shortened is found by either name.
    """
    known = {task.name: task for task in tasks}
    names = tuple(names)
    if without_tasks(names, known):
        return ()
    names = tuple(name if name in known else task_name(name) for name in names) or tuple(known)
    for name in names:
        if name not in known:
            raise UserError(f"unknown task {name!r} in data.labels; this data has {list(known)}")
    return tuple(known[name] for name in names)


def without_tasks(names: Sequence[str], known: Container[str]) -> bool:
    """Whether `data.labels` is `none`: pairs are learned from without any label."""
    return tuple(names) == (NO_TASKS,) and NO_TASKS not in known


def write_tasks(path: str | Path, tasks: Sequence[Task]) -> None:
    """Writes `tasks.json`, by which a run's outputs keep their meaning."""
    rows = [dataclasses.asdict(task) for task in tasks]
    write_text(path, json.dumps({"tasks": rows}, indent=2, ensure_ascii=False) + "\n")


def read_tasks(path: str | Path) -> tuple[Task, ...]:
    """The tasks that `write_tasks` wrote."""
    rows = json.loads(Path(path).read_text(encoding="utf-8"))["tasks"]
    return tuple(Task(row["name"], tuple(row["classes"]), row["many"]) for row in rows)
