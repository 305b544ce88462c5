"""A disk without room ends a command in one line, and costs nothing that was there before."""

import shutil
import subprocess

import jax
import numpy as np
import pytest
from support.commands import mistake

from cmaclip_jax.errors import UserError
from cmaclip_jax.files import full_disk, whole_file
from cmaclip_jax.parallel.mesh import make_mesh
from cmaclip_jax.runs.frozen_features import _reserved
from cmaclip_jax.training.checkpoints import Checkpoints
from cmaclip_jax.training.progress import TrainingProgress


@pytest.fixture
def disk(tmp_path):
    """`disk(megabytes)` gives a small disk, or another size to the one that was given before."""
    folder, mounted = tmp_path / "disk", []
    folder.mkdir()

    def of(megabytes: float):
        size = f"size={round(megabytes * 1e6)}" + (",remount" if mounted else "")
        command = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("a file system of a given size can be mounted by root alone")
        mounted.append(folder)
        return folder

    yield of
    if mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def state(seed: int) -> dict:
    """Four megabytes that no compression makes smaller."""
    kernel = np.random.default_rng(seed).random((1_000, 1_000), np.float32)
    return {"params": {"line": {"kernel": jax.numpy.asarray(kernel)}}}


def test_a_checkpoint_without_room_leaves_the_one_before_and_goes_on_once_there_is_room(
    disk, caplog, capfd
):
    folder = disk(7)
    checkpoints = Checkpoints(folder, 2)
    checkpoints.save(state(1), 1)
    checkpoints.save(state(2), 2)
    wanted = (
        r"no room for the checkpoint of step 2 in .*: it needs up to 4\.0 MB and \d\.\d MB are "
        r"free; the checkpoint of step 1 is intact; make room"
    )
    with pytest.raises(UserError, match=wanted):
        checkpoints.close()
    checkpoints.close()  # as whoever opened them does in the end
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["1"]
    assert not caplog.records
    assert "Traceback" not in capfd.readouterr().err
    disk(20)
    checkpoints = Checkpoints(folder, 2)
    shapes = jax.eval_shape(lambda: state(1))
    step, found = checkpoints.restore_newest(shapes, make_mesh(devices=jax.devices()[:1]), print)
    assert step == 1
    jax.tree.map(np.testing.assert_array_equal, found, state(1))
    checkpoints.save(state(2), 2)
    checkpoints.close()
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["1", "2"]


def fill(folder) -> None:
    """Takes what is left of a disk."""
    with (folder / "filling").open("wb", buffering=0) as file:
        while True:
            try:
                file.write(bytes(4096))
            except OSError:
                return


def test_an_evaluation_without_room_ends_in_one_line(finished_run, disk, capsys):
    folder = disk(30)
    run = shutil.copytree(finished_run, folder / "run")
    before = (run / "evaluation/test.json").read_bytes()
    fill(folder)
    says = mistake(capsys, "evaluate", f"--workdir={run}")
    assert "no room is left on the disk for" in says
    assert "evaluation/test.npz (0.0 MB free); make room, and give the same command again" in says
    assert (run / "evaluation/test.json").read_bytes() == before
    assert sorted(path.name for path in (run / "evaluation").iterdir()) == ["test.json", "test.npz"]


def test_metrics_without_room_are_an_error_where_they_are_written(tmp_path):
    """/dev/full takes no byte."""
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    progress = TrainingProgress(tmp_path, 10, 4)
    with pytest.raises(OSError, match="No space left") as error:
        progress.write(1, {"train/loss": 1.0})
    assert f"for {tmp_path}/metrics.jsonl (" in full_disk(error.value)
    with pytest.raises(OSError, match="No space left"):
        progress.close()  # what it could not write, it says again


def test_room_for_kept_sequences_is_taken_before_they_are_written(disk):
    """Writing into a mapped file without room would be the end of this process."""
    folder = disk(2)
    with pytest.raises(OSError, match="No space left"):
        _reserved(folder / "0.npy", np.dtype(np.float32), (1_000, 1_000))
    (folder / "0.npy").unlink()
    array = _reserved(folder / "0.npy", np.dtype(np.float32), (100, 1_000))
    array[:] = 1
    assert np.load(folder / "0.npy").sum() == 100_000


def test_what_could_not_be_written_is_gone(disk):
    folder = disk(1)

    def write():
        with whole_file(folder / "numbers.npz") as part:
            np.savez(part, x=np.zeros(1_000_000))

    with pytest.raises(OSError, match="No space left") as error:
        write()
    assert f"for {folder}/numbers.npz (1.0 MB free)" in full_disk(error.value)
    assert not list(folder.iterdir())


def test_other_errors_are_not_called_so():
    assert full_disk(RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")) == ""
    assert full_disk(FileNotFoundError(2, "No such file or directory")) == ""
