"""`model.dtype='auto'`: the choice by processor and width, and what a run keeps of it."""

import shutil

import jax
import jax.numpy as jnp
import pytest
from support.small import small_config

from cmaclip_jax.commands import export
from cmaclip_jax.runs import compute_type
from cmaclip_jax.runs.towers import new_towers
from cmaclip_jax.runs.trained import open_trained
from cmaclip_jax.runs.training import open_run, train_and_evaluate
from cmaclip_jax.training.workdir import saved_config

# Lines of /proc/cpuinfo on such processors; each processor's flags are a selection.
SAPPHIRE_RAPIDS = """\
model name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
bogomips\t: 5399.99
flags\t\t: fpu vme sse2 avx2 avx512f avx512_bf16 amx_bf16 avx512_fp16 amx_tile amx_int8
vmx flags\t: vnmi preemption_timer
"""
ZEN_4 = """\
model name\t: AMD EPYC
flags\t\t: fpu vme sse2 avx2 avx512f avx512vl avx512_bf16 clzero avx512_vnni
bugs\t\t: sysret_ss_attrs
"""
SKYLAKE = """\
model name\t: Intel(R) Xeon(R) CPU @ 2.00GHz
flags\t\t: fpu vme sse2 avx2 avx512f avx512vl
"""
GRAVITON = "BogoMIPS\t: 2100.00\nFeatures\t: fp asimd evtstrm aes bf16 i8mm\n"
NO_FILE = None  # macOS, Windows


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Makes this machine's processor the one with such a /proc/cpuinfo."""

    def change(text: str | None) -> None:
        file = tmp_path / "cpuinfo"
        file.unlink(missing_ok=True)
        if text is not None:
            file.write_text(text)
        monkeypatch.setattr(compute_type, "CPUINFO", file)

    return change


@pytest.mark.parametrize(
    ("cpuinfo", "wide"),
    [
        (SAPPHIRE_RAPIDS, "bfloat16"),
        (ZEN_4, "bfloat16"),
        (SKYLAKE, "float32"),
        (GRAVITON, "float32"),
        (NO_FILE, "float32"),
    ],
    ids=["amx", "zen4", "skylake", "graviton", "no file"],
)
def test_wide_models_take_bfloat16_where_the_cpu_multiplies_it(machine, cpuinfo, wide):
    machine(cpuinfo)
    chosen = {
        size: compute_type.compute_dtype("auto", new_towers(config_of(size)).width).name
        for size in ("tiny/12", "small/16", "small/12", "B/32", "L/14", "H/14")
    }
    small = dict.fromkeys(("tiny/12", "small/16", "small/12"), "float32")
    assert chosen == small | dict.fromkeys(("B/32", "L/14", "H/14"), wide)
    for name in ("float32", "bfloat16"):  # what the user names is not chosen
        assert compute_type.compute_dtype(name, 768).name == name


def config_of(size: str):
    config = small_config()
    config.model.image = config.model.text = size
    return config


def test_hosts_whose_processors_may_differ_agree(machine, monkeypatch):
    machine(ZEN_4)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert compute_type.fastest_type(768) == "float32"


def test_accelerators_take_bfloat16_at_every_width(machine, monkeypatch):
    machine(SKYLAKE)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compute_type.fastest_type(32) == "bfloat16"


@pytest.fixture
def every_width(monkeypatch):
    """Every width is wide, so that a small run shows what a large one does."""
    monkeypatch.setattr(compute_type, "LEAST_WIDTH", 1)


def types_of(run) -> set:
    """The types of the parts of a run's network."""
    model = run.objective.model
    return {model.image.dtype, model.text.dtype, model.sequence.dtype, model.dtype}


def test_a_run_keeps_its_type_and_an_answer_takes_that_of_its_machine(
    machine, every_width, tmp_path, capsys
):
    config, workdir = small_config(), tmp_path / "run"
    config.train.steps, config.eval.every = 2, 0
    machine(SAPPHIRE_RAPIDS)
    train_and_evaluate(config, workdir)
    assert "computing in bfloat16, as model.dtype=auto chose here" in capsys.readouterr().err
    assert saved_config(workdir).model.dtype == "auto"
    machine(SKYLAKE)
    continued = open_run(config, workdir)
    continued.progress.close()
    assert "computing in bfloat16, in which this run began" in capsys.readouterr().err
    assert types_of(continued.assembly) == {jnp.dtype("bfloat16")}
    answering = open_trained(workdir, saved_config(workdir))
    assert types_of(answering) == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(answering.params)} == {jnp.dtype("float32")}
    machine(SAPPHIRE_RAPIDS)
    assert types_of(open_trained(workdir, saved_config(workdir))) == {jnp.dtype("bfloat16")}


def test_a_run_that_has_not_begun_chooses_again(machine, every_width, tmp_path):
    for cpuinfo, wanted in ((SKYLAKE, "float32"), (ZEN_4, "bfloat16")):
        machine(cpuinfo)
        run = open_run(small_config(), tmp_path / "run")
        run.progress.close()
        assert run.config.model.dtype == wanted


def test_a_run_older_than_the_record_goes_on_in_float32(
    machine, every_width, finished_run, tmp_path
):
    workdir = shutil.copytree(finished_run, tmp_path / "run")
    (workdir / compute_type.RECORD).unlink()
    machine(ZEN_4)
    run = open_run(saved_config(workdir), workdir)
    run.progress.close()
    assert types_of(run.assembly) == {jnp.dtype("float32")}


def test_an_export_on_a_cpu_is_for_every_cpu(machine, every_width, finished_run, tmp_path, capsys):
    machine(ZEN_4)
    export.run([f"--workdir={finished_run}", f"--output={tmp_path / 'out'}", "--platforms=cpu"])
    assert "float32" in capsys.readouterr().out
