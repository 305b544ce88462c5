"""What does not fit into memory: told in one line, with what to change, on every kind of device."""

import jax.numpy as jnp
import pytest
from support.commands import QUICKSTART, mistake

from cmaclip_jax.commands.memory_advice import out_of_memory
from cmaclip_jax.main import main
from cmaclip_jax.parallel.memory import refusal_of
from cmaclip_jax.training.checkpoints import Checkpoints

# As they were met: by us on a CPU and with the compiler for TPUs, by others on GPUs and TPUs.
CPU = "RESOURCE_EXHAUSTED: Out of memory allocating 68719476736 bytes."
GPU = (
    "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 12.50GiB. "
    "[executable_name='jit_train_step'] [tf-allocator-allocation-error='']"
)
GPU_ALLOCATOR = (
    "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1.95GiB\n"
    "with allocator GPU_0_bfc on device 0.\n[executable_name='jit_greater']"
)
GPU_BEFORE = """\
RESOURCE_EXHAUSTED: Out of memory while trying to allocate 4770354232 bytes.
BufferAssignment OOM Debugging.
BufferAssignment stats:
             parameter allocation:  372.76MiB"""
GPU_REQUEST = (
    "RESOURCE_EXHAUSTED: Failed to allocate request for 176.00MiB (184549376B) on device ordinal 0"
)
TPU_COMPILER = (
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries "
    "(32.12G) exceeds available HBM (15.75G)."
)
TPU_REPORT = """\
RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used \
63.80G of 30.75G hbm. Exceeded hbm capacity by 33.05G.

Total hbm usage >= 65.05G:
    reserved          1.25G"""
TPU_PROGRAM = (
    "RESOURCE_EXHAUSTED: Error loading program 'jit_train_step': Attempting to reserve 29.49G at "
    "the bottom of memory. That was not possible. There are 147.64M free, 0B reserved, and "
    "147.64M reservable. Scope: unknown..: while running replica 0 and partition 34"
)
TPU_ARRAY = (
    "RESOURCE_EXHAUSTED: Error allocating device buffer: Attempting to allocate 8.00M. That was "
    "not possible. There are 6.43M free.; (0x0x1_HBM0)"
)
HOST = "Unable to allocate 128. TiB for an array with shape (17592186044416,) and data type float64"
FULL_DISK = (
    "RESOURCE_EXHAUSTED: Error writing local file: Failed to write: No space left on device "
    "[OS error 28: ENOSPC No space left on device]"
)
K, M, G, T = (2.0**power for power in (10, 20, 30, 40))


@pytest.mark.parametrize(
    ("text", "asked", "available"),
    [
        (CPU, 64 * G, None),
        (GPU, 12.5 * G, None),
        (GPU_ALLOCATOR, 1.95 * G, None),
        (GPU_BEFORE, 4770354232, None),
        (GPU_REQUEST, 176 * M, None),
        (TPU_COMPILER, 32.12 * G, 15.75 * G),
        (TPU_REPORT, 63.8 * G, 30.75 * G),
        (TPU_PROGRAM, 29.49 * G, 147.64 * M),
        (TPU_ARRAY, 8 * M, 6.43 * M),
        (HOST, 128 * T, None),
    ],
)
def test_what_was_asked_for_is_read_from_what_each_device_says(text, asked, available):
    refusal = refusal_of(RuntimeError(text))
    assert refusal.asked == pytest.approx(asked)
    assert refusal.available == (available and pytest.approx(available))


@pytest.mark.parametrize("text", [FULL_DISK, "INVALID_ARGUMENT: shapes differ", ""])
def test_other_errors_are_not_taken_for_a_lack_of_memory(text):
    assert refusal_of(RuntimeError(text)) is None
    assert out_of_memory("train", RuntimeError(text)) is None


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("train", ("train.batch_size", "train.accumulate", "model.remat=full", "mesh.fsdp")),
        ("bench", ("train.batch_size", "train.accumulate", "eval.batch_size")),
        ("evaluate", ("--config.eval.batch_size",)),
        ("predict", ("eval.batch_size in the run's config.json",)),
        ("prepare", ("a machine with more",)),
    ],
)
def test_the_advice_is_what_the_command_can_change(command, names):
    said = out_of_memory(command, RuntimeError(TPU_COMPILER))
    assert said.startswith("32.1 GiB of memory were asked for where there are 15.8 GiB; ")
    assert all(name in said for name in names)
    assert ("train." in said) == (command in ("train", "bench"))
    assert "\n" not in out_of_memory(command, RuntimeError(TPU_REPORT))
    assert out_of_memory(command, MemoryError()).startswith("memory ran out; ")


def test_a_cpu_that_has_not_enough_says_so_in_one_line(capsys, monkeypatch):
    """No machine has an address for every byte of 256 TiB."""

    def run(arguments):
        jnp.ones((2**46,), jnp.float32)

    monkeypatch.setattr("cmaclip_jax.commands.bench.run", run)
    said = mistake(capsys, "bench", QUICKSTART)
    assert "262,144.0 GiB of memory were asked for; lower --config.train.batch_size" in said


def test_debug_shows_where_memory_ran_out(monkeypatch):
    def run(arguments):
        raise RuntimeError(CPU)

    monkeypatch.setattr("cmaclip_jax.commands.bench.run", run)
    assert main(["bench", QUICKSTART]) == 2
    with pytest.raises(RuntimeError, match="Out of memory"):
        main(["bench", QUICKSTART, "--debug"])


def test_a_checkpoint_is_not_set_aside_because_there_was_no_memory_for_it(tmp_path, monkeypatch):
    (tmp_path / "checkpoints").mkdir()
    checkpoints = Checkpoints(tmp_path, 1)
    monkeypatch.setattr(checkpoints._manager, "all_steps", lambda: [3, 7])

    def refuse(shapes, step):
        raise RuntimeError(CPU)

    monkeypatch.setattr(checkpoints, "_check_tree", refuse)
    with pytest.raises(RuntimeError, match="Out of memory"):
        checkpoints.restore_newest(None, None, print)
    checkpoints.close()
