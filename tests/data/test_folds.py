"""Folds: each record is tested once, by a model that has learned from the other folds."""

import numpy as np
import pytest
from support.small import small_config

from cmaclip_jax.config import with_changes
from cmaclip_jax.data.bad_records import BadRecords
from cmaclip_jax.data.folds import all_records, divided, split_names, write_folds
from cmaclip_jax.data.sources import open_sources
from cmaclip_jax.errors import UserError


@pytest.fixture(scope="module")
def sources():
    return open_sources(small_config().data, BadRecords(None, "skip", 0.05))


@pytest.fixture
def numbered(sources, tmp_path):
    """The number of each record's fold, and the file that holds them."""
    numbers = np.arange(len(all_records(sources))) % 3 + 1
    write_folds(tmp_path / "folds.npy", numbers)
    return numbers, str(tmp_path / "folds.npy")


def test_every_record_is_tested_once(sources, numbered):
    numbers, path = numbered
    records = all_records(sources)
    assert len(records) == sum(map(len, sources.values())) == len(split_names(sources))
    tested = []
    for fold in (1, 2, 3):
        parts = divided(sources, path, fold)
        own = [parts["test"][i].id for i in range(len(parts["test"]))]
        learned = [parts["train"][i].id for i in range(len(parts["train"]))]
        assert not set(own) & set(learned)
        assert own == [records[i].id for i in np.flatnonzero(numbers == fold)]
        tested += own
    assert sorted(tested) == sorted(records[i].id for i in range(len(records)))


def test_data_that_has_changed_is_refused(sources, numbered, tmp_path):
    _, path = numbered
    with pytest.raises(UserError, match="the data has changed since"):
        divided({"train": sources["train"]}, path, 1)
    with pytest.raises(UserError, match=r"data.fold=7: .* has the folds \[1, 2, 3\]"):
        divided(sources, path, 7)
    with pytest.raises(UserError, match="cannot be read"):
        divided(sources, str(tmp_path / "none.npy"), 1)


def test_a_run_learns_from_the_other_folds(sources, numbered, tmp_path):
    from cmaclip_jax.runs.data import open_data
    from cmaclip_jax.runs.towers import open_towers

    numbers, path = numbered
    config = with_changes(
        small_config(), {"data.folds": path, "data.fold": 2, "eval.every": 0, "eval.split": "test"}
    )
    data = open_data(config, tmp_path, open_towers(config, None))
    assert len(data.source("test")) == (numbers == 2).sum()
    assert len(data.source("train")) == (numbers != 2).sum()
    assert next(data.train_batches(0))["weight"].all()
