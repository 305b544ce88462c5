"""What a run finds in its data before its first step, and what it says of it."""

import csv

import pytest

from cmaclip_jax.inputs import open_data
from cmaclip_jax.towers import open_towers

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"


@pytest.fixture
def write_table(tmp_path):
    """Writes rows as a table; returns a small config of runs on it."""

    def write(config, rows):
        with (tmp_path / "table.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        config.data.source, config.data.path = "table", str(tmp_path / "table.csv")
        return config

    return write


def opened(config):
    return open_data(config, None, open_towers(config, None))


def wordy(words: str, rows: int = 40) -> list[dict]:
    """Rows with words alone."""
    splits = {3: "val", 2: "test"}
    return [
        {"title": f"{words} {n}", "kind": "ab"[n % 2], "split": splits.get(n % 4, "train")}
        for n in range(rows)
    ]


@pytest.mark.parametrize(("repeats", "length"), [(1, 24), (20, 77)])
def test_texts_from_scratch_are_as_long_as_they_need(config, write_table, repeats, length):
    """And not as the small text encoder's 12 tokens."""
    config = write_table(config, wordy(" ".join([LONG] * repeats)))
    config.data.text_length = -1
    config.data.vocabulary = 1_000
    data = opened(config)
    assert data.encode.text_length == length
    needed = [line for line in data.lines() if "are cut" in line]
    assert bool(needed) == (repeats > 1)


def test_cut_texts_name_the_flag(config, write_table, clip_folder):
    config = write_table(config, wordy(LONG))
    config.data.text_length, config.data.vocabulary = 12, 1_000
    (line,) = [line for line in opened(config).lines() if "are cut" in line]
    assert "100.0% of the texts are longer than 12 tokens" in line
    config.data.text_length = int(line.split("--config.data.text_length=")[1].split()[0])
    assert not opened(config).texts_cut()
    config.model.pretrained, config.data.text_length = str(clip_folder), -1
    data = opened(config)
    assert data.encode.text_length == 16  # for which the weights have positions
    assert "text_length" not in data.texts_cut()
