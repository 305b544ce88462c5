"""Files are replaced as a whole: who reads sees the old one or all of the new one."""

import shutil

import pytest

import cmaclip_jax as cma
from cmaclip_jax.files import whole_file, write_text
from cmaclip_jax.main import main
from cmaclip_jax.runs.training import train_and_evaluate
from cmaclip_jax.training.workdir import open_workdir, saved_config


def test_a_file_is_replaced_only_when_its_writer_is_done(tmp_path):
    path = tmp_path / "figures.json"
    write_text(path, "old")

    def write_half():
        with whole_file(path) as part:
            part.write_text("half")
            assert path.read_text() == "old"
            assert part.suffix == path.suffix
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "old"
    write_text(path, "new")
    assert [file.name for file in tmp_path.iterdir()] == ["figures.json"]
    assert path.read_text() == "new"


def test_what_a_run_writes_again_replaces_the_file_and_is_never_written_into_it(
    finished_run, tmp_path
):
    """A hard link keeps what a name held before: it sees all that is written in place."""
    run, before = shutil.copytree(finished_run, tmp_path / "run"), tmp_path / "before"
    before.mkdir()
    names = ["config.json", "parameters.txt", "evaluation/test.json", "evaluation/test.npz"]
    names += ["thresholds.json", "report.html", "robustness.json"]
    names += [f"robustness.{kind}" for kind in ("md", "csv", "png")]
    for name in names[1:]:
        (run / name).write_text("old")
    for name in names:
        (before / name.replace("/", "-")).hardlink_to(run / name)
    config = saved_config(run)
    config.eval.batch_size = 8
    train_and_evaluate(config, run)
    assert main(["evaluate", f"--workdir={run}", "--precision=0.9"]) == 0
    assert main(["report", f"--workdir={run}"]) == 0
    assert main(["robustness", f"--workdir={run}", "--noises=image.blank"]) == 0
    for name in names:
        kept = before / name.replace("/", "-")
        assert kept.read_bytes() == (b"old" if name in names[1:] else old_config(finished_run))
        assert (run / name).read_bytes() != kept.read_bytes(), name
    assert not [path for path in run.rglob(".*") if path.is_file()]


def old_config(run):
    return (run / "config.json").read_bytes()


def test_a_config_that_stays_is_not_written_again(finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run")
    before = (run / "config.json").stat()
    open_workdir(run, saved_config(run))
    after = (run / "config.json").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_a_run_lists_the_versions_that_trained_it(finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run")
    versions = run / "version.txt"
    assert versions.read_text() == f"{cma.__version__}\n"
    versions.write_text("0.0.1\n")
    for _ in range(2):
        open_workdir(run, saved_config(run))
    assert versions.read_text() == f"0.0.1\n{cma.__version__}\n"
    versions.unlink()  # as in a run that was made before versions were recorded
    open_workdir(run, saved_config(run))
    assert versions.read_text() == f"{cma.__version__}\n"


def test_a_path_in_a_bucket_stays_one(tmp_path):
    pytest.importorskip("etils")
    from etils import epath

    write_text(epath.Path(tmp_path) / "a.json", "{}")
    assert (tmp_path / "a.json").read_text() == "{}"
