"""The pairs of a split of a finished run, shown by their row."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from cmaclip_jax.data.pairs import Pair
from cmaclip_jax.data.records import Label, Record, RecordError
from cmaclip_jax.evaluation.predictor import Outcome
from cmaclip_jax.evaluation.thresholds import TaskThresholds, chosen_at
from cmaclip_jax.report.explainer import Explainer
from cmaclip_jax.report.explanation import Explanation, PairView
from cmaclip_jax.runs.judged import open_judged
from cmaclip_jax.serving.classifier import Classifier
from cmaclip_jax.training.saved_parameters import NEWEST

UNREADABLE = Record("unreadable", None, None, {})


class SplitPairs:
    """A run with its data, opened as `config` says. Only the pairs that are shown are read."""

    def __init__(
        self,
        workdir: str | Path,
        config: ConfigDict,
        split: str,
        thresholds: dict[str, TaskThresholds],
        checkpoint: str | int = NEWEST,
    ):
        self.trained = open_judged(workdir, config, checkpoint=checkpoint)
        self.source = self.trained.data.source(split)
        fitting = thresholds if chosen_at(thresholds) in (None, self.trained.step) else {}
        self.explainer = Explainer(Classifier(self.trained, fitting))

    def show(self, rows: Sequence[int]) -> dict[int, PairView]:
        """The pairs at these rows of the split."""
        rows = sorted(set(rows))
        records = list(map(self._record, rows))
        shown = self.explainer.show([record.id for record in records], list(map(_pair, records)))
        return dict(zip(rows, shown, strict=True))

    def explain(self, outcome: Outcome, most: int) -> list[Explanation]:
        """Explanations of some scored pairs, spread evenly over the split."""
        rows = outcome["row"]
        places = np.unique(np.linspace(0, len(rows) - 1, most).round().astype(int))
        records = [self._record(int(row)) for row in rows[places]]
        names = [record.id for record in records]
        truths = [
            {task: _named(label) for task, label in record.labels.items() if label is not None}
            for record in records
        ]
        return list(self.explainer.explain(names, list(map(_pair, records)), truths))

    def _record(self, row: int) -> Record:
        try:
            return self.source[row]
        except (RecordError, IndexError):  # the data has changed since
            return UNREADABLE


def _pair(record: Record) -> Pair:
    return Pair(record.image, record.text)


def _named(label: Label) -> str:
    return ", ".join(label) or "-" if isinstance(label, tuple) else label
