"""Records of several sources as one."""

import dataclasses

import numpy as np

from cmaclip_jax.data.gathered import Gathered
from cmaclip_jax.data.records import Record
from cmaclip_jax.tasks import Task

TASKS = (Task("colour", ("red", "blue")),)


@dataclasses.dataclass
class Listed:
    """A source of records that are held in a list."""

    records: list[Record]
    chunks: np.ndarray | None = None
    tasks: tuple[Task, ...] = TASKS

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        return self.records[index]

    def text(self, index):
        return self.records[index].text

    def labels(self, task):
        return [record.labels[task] for record in self.records]


def listed(names, **attributes):
    records = [Record(n, None, f"text {n}", {"colour": "red" if n < "c" else None}) for n in names]
    return Listed(records, **attributes)


def test_all_records_in_order():
    both = Gathered([listed("ab"), listed(""), listed("cd")])
    assert [both[i].id for i in range(len(both))] == list("abcd")
    assert both.labels("colour") == ["red", "red", None, None]
    assert both.text(3) == "text d"
    assert both.tasks == TASKS
    assert both.chunks is None
    assert both.paths == [None] * 4


def test_chosen_records_keep_their_blocks():
    first, second = listed("ab", chunks=np.array([0, 1])), listed("cde", chunks=np.array([0, 0, 1]))
    some = Gathered([first, second], np.array([4, 0, 2]))
    assert [some[i].id for i in range(3)] == list("eac")
    assert some.chunks.tolist() == [3, 0, 2]
    assert some.labels("colour") == [None, "red", None]


def test_a_source_without_blocks_beside_one_with_them():
    both = Gathered([listed("ab", chunks=np.array([0, 1])), listed("cd")])
    assert both.chunks.tolist() == [0, 1, 2, 2]
