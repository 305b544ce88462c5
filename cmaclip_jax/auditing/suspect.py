"""A label that is probably wrong."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Suspect:
    """A label of a row that a model which has not seen the row contradicts.

    row: the number of the row among all audited rows, from 0.
    id, split: of the row.
    label, suggestion: the given label, and the one that the model would give. The labels of a
        many-label task are joined by the table's separator.
    label_probability, suggestion_probability: what the model gives to either.
    doubt: the larger, the more probably the label is wrong; comparable within a task.
    likely: whether confident learning calls the label wrong, rather than only ranks it.
    twins: the ids of the same or nearly the same pair that have another label.
    """

    row: int
    id: str
    split: str
    task: str
    label: str
    suggestion: str
    label_probability: float
    suggestion_probability: float
    doubt: float
    likely: bool
    twins: tuple[str, ...] = ()
