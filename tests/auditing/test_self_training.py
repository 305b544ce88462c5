"""Self-training: rounds of labelling and training, each finished once."""

import json

import pytest
from support.commands import mistake
from support.small import small_config
from support.tables import read_csv, write

from cmaclip_jax.auditing import self_training
from cmaclip_jax.main import main
from cmaclip_jax.runs.training import train_and_evaluate
from cmaclip_jax.training.workdir import saved_config


@pytest.fixture
def case(catalogue, tmp_path):
    """`(command, own table, folder)`: a run of a few rows, and all rows without colours."""
    rows, folder = read_csv(catalogue), catalogue.parent
    own = write(folder / "own.csv", [r for r in rows if r["split"] != "train"][:24] + rows[:20])
    bare = [row | {"colour": "", "split": "train"} for row in rows]
    table = write(folder / "bare.csv", bare)
    config = small_config()
    config.data.source, config.data.path, config.data.labels = "table", own, ("colour",)
    config.train.steps, config.eval.every = 4, 0
    train_and_evaluate(config, tmp_path / "run")
    yield ["label", f"--workdir={tmp_path}/run", f"--input={table}"], own, folder
    for path in folder.glob("labelled*"):
        path.unlink()


@pytest.mark.slow
def test_rounds_train_on_the_labels_of_the_round_before(case, tmp_path, monkeypatch, capsys):
    begin, own, folder = case
    output = folder / "labelled.csv"
    command = [*begin, f"--output={output}", "--all", "--rounds=2", "--review=3"]
    command += ["--config.train.pseudo_weight=0.25"]
    trained, train = [], self_training.train_and_evaluate

    def note(function, *arguments):
        trained.extend([arguments[1].name] if function is train else [])
        return function(*arguments)

    def stop(function, *arguments):
        if function is train and arguments[1].name.endswith("round-2"):
            raise KeyboardInterrupt
        return note(function, *arguments)

    monkeypatch.setattr(self_training, "leave_devices_to_others", lambda: None)
    monkeypatch.setattr(self_training, "in_own_process", stop)
    unsure = [*begin, f"--output={folder}/labelled-none.csv", "--precision=1", "--rounds=1"]
    assert "has no answer to accept" in mistake(capsys, *unsure)
    assert main(command) == 130
    monkeypatch.setattr(self_training, "in_own_process", note)
    assert main(command) == 0
    assert trained == ["run-round-1", "run-round-2"]  # the first round was not trained again
    said = capsys.readouterr().err
    assert f"{folder}/labelled.round-1.csv: done before" in said
    assert "round  mean accuracy" in said

    for number in (1, 2):
        fields = saved_config(tmp_path / f"run-round-{number}")
        assert fields.train.pseudo == str(folder / f"labelled.round-{number}.csv")
        assert fields.train.pseudo_weight == 0.25
        lines = read_csv(fields.train.pseudo)
        assert all(line["labelled"] == "colour" for line in lines if line["colour"])
    listed = (tmp_path / "run-round-1/bad_records.jsonl").read_text().splitlines()
    left_out = {json.loads(line)["id"] for line in listed if '"pseudo"' in line}
    assert left_out == {row["id"] for row in read_csv(own) if row["split"] != "train"}
    assert sum(bool(line["colour"]) for line in read_csv(output)) == len(
        read_csv(folder / "bare.csv")
    )
    assert len(read_csv(folder / "labelled.review.csv")) == 0  # every answer was accepted
