"""The study of noisy annotations: what it compares, that it goes on, and what its marks say."""

import dataclasses
import json
import re
import statistics
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.commands import mistake
from support.landmarks import CONFIG, arguments

from cmaclip_jax.config_arguments import read_config
from cmaclip_jax.landmarks import study, study_report
from cmaclip_jax.landmarks.detector_scores import DetectorScores
from cmaclip_jax.landmarks.study import Arm, arms, runs_of
from cmaclip_jax.main import main

ARMS = ("none-plain-8", "none-maps-8", "none-plain-12", "bias-0.2-plain-8")
ARMS += ("bias-0.2-distilled-8", "bias-0.2-plain-12")


def test_the_usual_study_has_every_noise_and_plain_training_beside_every_remedy():
    found = arms(read_config([CONFIG]))
    assert len(set(found)) == len(found)
    assert {arm.noise for arm in found} == {"none", *study.KINDS}
    for arm in found:
        assert dataclasses.replace(arm, remedy="plain") in found
        assert Arm("none", 0.0, "plain", arm.faces) in found


def test_remedies_are_named_for_all_noises_or_for_some():
    config = read_config(arguments(landmarks__study__strengths="(0.1,0.2)"))
    assert [arm.name for arm in arms(config)] == [
        *ARMS[:3],
        *(f"bias-{x}-{arm}" for x in (0.1, 0.2) for arm in ("plain-8", "distilled-8", "plain-12")),
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished study, and the command that made it."""
    workdir = tmp_path_factory.mktemp("study") / "of-landmarks"
    command = ["landmarks", "study", *arguments(), f"--workdir={workdir}"]
    assert main(command) == 0
    return workdir, command


@pytest.mark.slow
def test_a_study_writes_its_table_its_figures_and_its_picture(finished):
    workdir, _ = finished
    rows = json.loads((workdir / "study.json").read_text())
    assert [f"{row['noise']}-{row['remedy']}-{row['faces']}" for row in rows] == [
        name.replace("-0.2", "") for name in ARMS
    ]
    table = (workdir / "study.md").read_text()
    for row, name in zip(rows, ARMS, strict=True):
        kept = [json.loads((workdir / name / f"seed-{x}/result.json").read_text()) for x in (0, 1)]
        for measure in study_report.MEASURES:
            values = [one[measure] for one in kept]
            assert list(row[measure]["seeds"].values()) == values
            assert row[measure]["mean"] == pytest.approx(statistics.fmean(values))
            assert row[measure]["sd"] == pytest.approx(statistics.stdev(values))
        cell = f"{100 * row['nme']['mean']:.2f} ±{100 * row['nme']['sd']:.2f}"
        assert re.search(rf"^\| {row['noise']}.*\| {row['remedy']} \| {cell}", table, re.MULTILINE)
    with Image.open(workdir / "study.png") as picture:
        assert min(picture.size) > 200


@pytest.mark.slow
def test_the_same_command_trains_nothing_again_and_adds_what_is_new(finished, capsys, monkeypatch):
    workdir, command = finished
    before = (workdir / "study.json").read_text()
    trained = []
    real = study.train_detector
    monkeypatch.setattr(study, "train_detector", lambda *x: trained.append(x[2]) or real(*x))
    assert main(command) == 0
    assert not trained
    assert "12 runs, 12 of them done before" in capsys.readouterr().err
    assert (workdir / "study.json").read_text() == before
    (workdir / "bias-0.2-distilled-8/seed-1/result.json").unlink()
    assert main([*command, "--config.landmarks.study.noises=('bias','drift')"]) == 0
    names = [str(folder.relative_to(workdir)) for folder in trained]
    assert names.count("bias-0.2-distilled-8/seed-1") == 1
    assert "none-plain-8/seed-0" not in names
    assert sum(name.startswith("drift-0.2-plain-8/") for name in names) == 4  # and as teachers
    found = json.loads((workdir / "study.json").read_text())
    assert [row for row in found if row["noise"] != "drift"] == json.loads(before)
    said = mistake(capsys, *command, "--config.landmarks.test=5")
    assert "landmarks.test is 4 there and 5 here" in said


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("study.noises", "('bais',)", "study.noises has no 'bais'; there is isotropic, contour"),
        ("study.remedies", "('wings',)", "study.remedies has no 'wings'; there is plain, maps"),
        ("study.remedies", "('wing:bais',)", "study.remedies has no 'bais'; there is none, iso"),
        ("study.seeds", "0", "study.seeds=0 must be at least 1"),
        ("head", "maps", "head has no 'maps'; there is coordinates, heatmaps"),
        ("loss", "l3", "loss has no 'l3'; there is l2, l1, wing"),
        ("source", "web", "source has no 'web'; there is drawn, folder, the300w_lp"),
    ],
)
def test_what_there_is_not_is_said_in_one_line(tmp_path, capsys, field, value, said):
    command = ["landmarks", "study", *arguments(), f"--workdir={tmp_path}"]
    assert said in mistake(capsys, *command, f"--config.landmarks.{field}={value}")


def test_a_config_of_something_else_is_refused(capsys, tmp_path):
    other = CONFIG.replace("landmarks.py", "quickstart.py")
    assert "no config of landmarks" in mistake(capsys, "landmarks", "study", other)


def judged(error, motion=0.02, jitter=0.01):
    return DetectorScores(error, 0.0, motion, jitter, 0.05)


def rows_of(**errors):
    """Rows from each remedy's figures, seed by seed, all under one noise."""
    config = read_config(arguments(landmarks__study__remedies="('l1','wing')"))
    wanted = {"none-plain-8": errors.pop("clean")}
    wanted |= {f"bias-0.2-{name}-8": values for name, values in errors.items()}
    config.landmarks.study.seeds = 3
    runs = runs_of(config, Path("somewhere"))
    results = {run: wanted[run.arm.name][run.seed] for run in runs if run.arm.name in wanted}
    clean, *others = study_report.table_rows(runs, results)
    return {"clean": clean} | {row.arm.remedy: row for row in others}


def test_marks_are_of_differences_seed_by_seed():
    rows = rows_of(
        clean=[judged(0.05), judged(0.06), judged(0.07)],
        plain=[judged(0.10), judged(0.15), judged(0.20)],  # seeds differ much
        l1=[judged(0.09), judged(0.14), judged(0.185)],  # and it is better with each
        wing=[judged(0.05), judged(0.20), judged(0.19)],  # better on average, not surely
    )
    assert rows["plain"].verdict("nme") == "worse"
    assert rows["l1"].verdict("nme") == "better"
    assert rows["wing"].verdict("nme") == ""
    assert rows["l1"].verdict("motion_error") == ""  # as much as before
    said = study_report.remarks([rows["clean"], rows["plain"], rows["l1"], rows["wing"]])
    assert "better than plain training in accuracy alone: l1 under bias 0.2" in said
    assert "better than plain training in accuracy and in both metrics of video: none" in said
    adds = "what bias 0.2 adds to the error of the same training without it: "
    assert f"{adds}plain (8 faces) +9.00 ±4.00" in said  # nothing to compare the others with
    assert "with 3 seeds and no difference at all, 11% of the cells would be" in said[-1]


def test_the_chance_that_is_told_is_what_chance_does():
    draws = np.random.default_rng(0).normal(size=(20_000, 3))
    marked = draws.mean(1) > draws.std(1, ddof=1)
    assert marked.mean() == pytest.approx(0.113, abs=0.01)


def test_seeds_that_are_not_done_yet_are_left_out():
    rows = rows_of(clean=[judged(0.05)] * 3, plain=[judged(0.1), judged(0.2), judged(0.3)])
    row = dataclasses.replace(rows["plain"], scores={1: judged(0.2)})
    assert row.spread("nme") is None
    assert row.verdict("nme") == ""
    assert row.gains("nme") == [pytest.approx(-0.15)]
