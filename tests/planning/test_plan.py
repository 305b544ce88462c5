"""Plans for TPUs that are not here: what the compiler says, and what is read off its program."""

import contextlib
import dataclasses
import functools
import importlib.util
import io
import json
import math
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding
from support.commands import QUICKSTART, mistake
from support.small import small_config

from cmaclip_jax.config_arguments import with_overrides
from cmaclip_jax.errors import UserError
from cmaclip_jax.main import main
from cmaclip_jax.parallel.mesh import make_mesh
from cmaclip_jax.planning import costs, estimate
from cmaclip_jax.planning import fit as fit_module
from cmaclip_jax.planning import text as plan_text
from cmaclip_jax.planning.chips import TPUS
from cmaclip_jax.planning.costs import Memory, Step, TooLarge, compile_step, step_times
from cmaclip_jax.planning.program import Collective, Program, by_kind, group_size
from cmaclip_jax.planning.run import Operations, plan_run, unrolled_flops
from cmaclip_jax.planning.topology import open_topology
from cmaclip_jax.planning.verdict import Verdict, judge
from cmaclip_jax.tasks import Task

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="planning needs libtpu: pip install jax[tpu]"
)

SMALL = ["--config.model.image=test/8", "--config.model.text=test/8", "--tasks=a:10,b:4"]
SMALL += ["--config.model.sequence_heads=2", "--config.train.batch_size=64"]
# The TPU compiler needs seconds for every layer that is written out, and for every loss.
SMALL += ["--config.model.sequence_layers=1", "--config.model.unroll=1"]
SMALL += ["--config.train.contrastive=0.0"]
TURNS, WIDTH = 7, 256
ROOM = {"none": 16, "dots": 32, "full": 64}  # pairs that a chip has room for
ROWS, WHOLE = PartitionSpec("data"), PartitionSpec()


@functools.cache
def plan(*more):
    """The figures of a plan of a tiny model."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["plan", QUICKSTART, *SMALL, "--json", *more]) == 0
    (figures,) = json.loads(printed.getvalue())
    return figures


def compiled(function, topology, *shapes, rows=WHOLE):
    """The program of a function over all chips, its first argument laid out like this."""
    mesh = make_mesh(devices=topology.devices)
    placed = [NamedSharding(mesh, spec) for spec in (rows, *[WHOLE] * (len(shapes) - 1))]
    lowered = jax.jit(lambda *x: function(mesh, *x), in_shardings=placed).lower(*shapes)
    return Program(lowered.compile().as_text(), len(topology.devices))


def summed_in_a_loop(mesh, x, w):
    """Every turn sums [WIDTH,WIDTH] over all chips; afterwards everybody gets every row."""

    @jax.shard_map(mesh=mesh, in_specs=(ROWS, WHOLE), out_specs=WHOLE)
    def step(rows, w):
        def turn(carry, layer):
            return jnp.tanh(jax.lax.psum(rows.T @ (rows @ carry), "data") @ layer), None

        summed = jax.lax.scan(turn, jnp.zeros((WIDTH, WIDTH)), w)[0]
        return jax.lax.pmean(summed, "data")

    return step(x, w)


def test_a_loops_collectives_count_as_often_as_it_turns():
    shapes = [
        jax.ShapeDtypeStruct((1024, WIDTH), jnp.float32),
        jax.ShapeDtypeStruct((TURNS, WIDTH, WIDTH), jnp.float32),
    ]
    program = compiled(summed_in_a_loop, open_topology("v5e:2x2"), *shapes, rows=ROWS)
    (times, sent) = by_kind(program.collectives())["all-reduce"]
    assert times == TURNS + 1
    ring, numbers = 2 * 3 / 4, WIDTH * WIDTH
    # What feeds a product may go in bfloat16, as the product takes it.
    assert sent in [ring * numbers * (TURNS * width + 4) for width in (2, 4)]
    least = 4 * np.prod(shapes[1].shape)  # every layer is read, once
    assert least <= program.traffic() < 40 * least


def test_what_goes_between_slices_is_told_apart():
    def gather(mesh, x):
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, WHOLE))

    topology = open_topology("v5e:2x2", slices=2)
    assert (len(topology.devices), topology.hosts, str(topology)) == (8, 2, "2 x v5e:2x2")
    shape = jax.ShapeDtypeStruct((8, 1024), jnp.float32)
    found = compiled(gather, topology, shape, rows=ROWS).collectives()
    between = [one for one in found if one.slices]
    assert [(one.kind, one.members) for one in between] == [("all-gather", 2)]
    # A chip sends the other slice its own row, or its slice's rows.
    assert between[0].sent in (1024 * 4, 4 * 1024 * 4)


@pytest.mark.parametrize(
    ("attributes", "members"),
    [
        ("replica_groups={{0,1},{2,3}}, x", 2),
        ("replica_groups=[2,4]<=[8], x", 4),
        ("replica_groups=[4,2]<=[2,4]T(1,0), x", 2),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}, x", 4),
        ("replica_groups=mesh['a'=2,'b'=4] {'a','b'}, x", 8),
        ("replica_groups={}, x", 16),
    ],
)
def test_every_way_of_writing_a_group(attributes, members):
    assert group_size(attributes, 16) == members


def test_times_are_amounts_over_rates():
    topology, chip = open_topology("v5e:2x2", slices=2), TPUS["v5e"]
    moved = [Collective("all-reduce", 100, 4, 3), Collective("all-gather", 80, 2, 1, slices=True)]
    step = Step(Memory({"parameters": 5}, 6, 7), 1e9, moved)
    assert step.memory.total == 18
    times = step_times(step, 8e15, topology)
    assert times.arithmetic == pytest.approx(1e15 / chip.flops)
    assert times.memory == pytest.approx(1e9 / chip.bandwidth)
    assert times.link == pytest.approx(2 * 3 / 4 * 100 * 3 / chip.link)
    assert times.network == pytest.approx(40 / chip.network)
    assert times.step == pytest.approx(times.arithmetic + times.link + times.network)


@pytest.mark.parametrize(
    ("name", "chips", "hosts", "kind"),
    [
        ("v4-16", 8, 2, "TPU v4"),
        ("v4:2x2x2", 8, 2, "TPU v4"),
        ("v5e-8", 8, 1, "TPU v5 lite"),
        ("v5e:16x16", 256, 64, "TPU v5 lite"),
        ("v5p-8", 4, 1, "TPU v5"),
        ("v6e-256", 256, 64, "TPU v6 lite"),
    ],
)
def test_topologies_by_shape_and_as_they_are_rented(name, chips, hosts, kind):
    topology = open_topology(name)
    assert (len(topology.devices), topology.hosts) == (chips, hosts)
    assert {device.device_kind for device in topology.devices} == {kind} == {topology.chip.kind}


def test_a_plan_adds_up():
    whole = plan("--topology=v5e:2x2")
    memory = whole["memory"]["train"]
    assert whole["fits"]
    assert memory["parameters"] == 4 * whole["parameters"]
    assert 0 <= memory["moments"] - 2 * memory["parameters"] < 64  # and numbers of the step
    parts = sum(size for name, size in memory.items() if name != "total")
    assert memory["total"] == parts < whole["memory"]["of"] == 2**34
    seconds = whole["seconds"]
    assert seconds["step"] >= max(seconds["arithmetic"], seconds["memory"])
    assert whole["examples_per_second"] == pytest.approx(64 / seconds["step"])
    assert whole["hours"] == pytest.approx(4800 * seconds["step"] / 3600)
    assert whole["chip_hours"] == pytest.approx(4 * whole["hours"])
    # The gradients are summed over all chips, in the precision of either.
    sent = sum(moved["bytes"] for moved in whole["collectives"].values())
    assert sent >= 2 * 3 / 4 * 2 * whole["parameters"]


def test_fsdp_splits_what_stays_and_names_what_it_gathers():
    whole = plan("--topology=v5e:2x2")
    split = plan("--topology=v5e:2x2", "--config.mesh.fsdp=4")
    for part in ("parameters", "moments"):
        assert split["memory"]["train"][part] < 0.4 * whole["memory"]["train"][part]
    assert "all-gather" in split["collectives"]
    assert split["mesh"] == {"data": 1, "fsdp": 4, "tensor": 1}


class Compiler:
    """Stands for the compiler: what fits is a matter of pairs a chip, layout and recomputing."""

    def __init__(self, room):
        self.room, self.asked = room, []

    def __call__(self, run, topology, operations, evaluation=True):
        settings, remat = run.config.train, run.config.model.remat
        rows = settings.batch_size // settings.accumulate // run.mesh.shape["data"]
        rows //= run.mesh.shape["fsdp"]
        self.asked.append((dict(run.mesh.shape), remat, settings.accumulate, settings.batch_size))
        fits = rows <= self.room[remat]
        step = Step(Memory({}, 1, 1), 1e9, []) if fits else TooLarge({}, 2.0, 1.0)
        if fits and run.mesh.shape["fsdp"] > 1:
            step = Step(step.memory, 1e9, [Collective("all-gather", 10**9, 4, 1)])
        return Verdict(run, topology, operations, step, None)

    def evaluation(self, verdict):
        """Stands for with_evaluation: 16 pairs a chip fit."""
        fits = verdict.run.config.eval.batch_size <= 16 * len(verdict.topology.devices)
        step = Step(Memory({}, 1, 1), 1e9, []) if fits else TooLarge({}, 2.0, 1.0)
        return dataclasses.replace(verdict, evaluation=step)


@functools.cache
def operations_a_pair(remat: str) -> float:
    """XLA's count for the small config; lowering a step for it takes seconds."""
    config = small_config()
    config.model.remat = remat
    return unrolled_flops(config, [Task("a", ("b", "c"))]) / config.train.batch_size


def count_operations(config, _):
    """Stands for unrolled_flops: what it counts grows with the pairs."""
    return operations_a_pair(config.model.remat) * config.train.batch_size


def fitted(monkeypatch, batch, room=ROOM):
    compiler, said = Compiler(room), []
    monkeypatch.setattr(fit_module, "judge", compiler)
    monkeypatch.setattr(fit_module, "with_evaluation", compiler.evaluation)
    monkeypatch.setattr(fit_module, "unrolled_flops", count_operations)
    config = small_config()
    config.train.batch_size = config.eval.batch_size = batch
    found = fit_module.fit(config, [Task("a", ("b", "c"))], open_topology("v5e:2x2"), said.append)
    return found, compiler.asked, said


def test_the_fastest_that_fits_is_found(monkeypatch):
    found, asked, said = fitted(monkeypatch, 4 * 20)  # 20 pairs a chip
    assert found.fits
    # Split over nothing, no time goes into gathering; as little as need be is recomputed, and a
    # larger batch takes more recomputing, or fits and pays until it no longer does.
    assert found.run.mesh.shape["fsdp"] == 1
    assert [remat for mesh, remat, _, size in asked if mesh["data"] == 4 and size == 80] == [
        "none",
        "dots",
    ]
    assert found.settings.batch_size == 80 * 2
    assert found.run.config.model.remat == "full"
    assert found.settings.accumulate == 1
    assert any("does not fit" in line for line in said)
    # The suggestion is flags that a config reads; as many pairs are seen, and evaluation fits.
    flags = said[-2].splitlines()[-1].split()
    pasted = with_overrides(small_config(), flags)
    assert (pasted.train.batch_size, pasted.train.steps, pasted.model.remat) == (160, 4, "full")
    assert pasted.eval.batch_size == 40
    assert said[-2].startswith(f"{len(asked) + 2} steps compiled")


def test_what_fits_as_it_is_is_compiled_once(monkeypatch):
    monkeypatch.setattr(fit_module, "_could_gain", lambda best: False)
    found, asked, _ = fitted(monkeypatch, 4 * 8)
    assert len(asked) == 1
    assert found.settings.batch_size == 32


def test_what_is_far_too_large_is_not_compiled(monkeypatch):
    monkeypatch.setattr(estimate, "kept_a_pair", lambda run: 2**30)
    found, asked, said = fitted(monkeypatch, 4 * 64)
    assert asked[0][2] == 4  # 16 of 16 GiB; in fewer parts it is told, and not compiled
    assert found.fits
    skipped = [line for line in said if line.startswith("not compiled")]
    assert "about 64.0 of 16.0 GiB" in skipped[0]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_estimate_learns_from_what_was_compiled(dtype):
    config = small_config()
    config.model.dtype = dtype
    runs = {}
    for remat in fit_module.REMATS:
        config.model.remat = remat
        runs[remat] = plan_run(config, [Task("a", ("b", "c"))], jax.devices()[:1])
    kept = {remat: estimate.kept_a_pair(run) for remat, run in runs.items()}
    assert kept["none"] > 1.5 * kept["dots"] > 2 * kept["full"] > 0
    guess, run = estimate.Estimate(), runs["none"]
    first = guess.needs(run, state=0)
    assert not guess.rules_out(run, 0, first / 1.4)
    guess.learn(run, TooLarge({"parameters": 7}, 7 + 2 * first, 1.0))
    assert guess.needs(run, state=100) == pytest.approx(100 + 2 * first)
    assert guess.rules_out(run, 0, first / 1.4)
    # What it learnt of a batch holds for another: gradients stay, the rest grows with the pairs.
    config.model.remat, config.train.batch_size = "none", 2 * config.train.batch_size
    twice = plan_run(config, [Task("a", ("b", "c"))], jax.devices()[:1])
    gradients = 4 * sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(run.parameter_shapes))
    assert guess.needs(twice, 0) == pytest.approx(gradients + 2 * (2 * first - gradients))


def test_a_batch_that_never_fits_at_once_is_taken_in_parts(monkeypatch):
    found, _, _ = fitted(monkeypatch, 4 * 256)
    assert found.run.config.model.remat == "full"
    assert (found.settings.batch_size, found.settings.accumulate) == (1024, 4)
    with pytest.raises(UserError, match="nothing found that fits v5e:2x2"):
        fitted(monkeypatch, 64, dict.fromkeys(ROOM, 0))


def test_a_wrong_field_is_not_taken_for_a_layout_that_does_not_fit(capsys):
    wrong = "--config.train.freeze=('imag/.*',)"
    said = mistake(capsys, "plan", QUICKSTART, *SMALL, "--topology=v5e:2x2", "--fit", wrong)
    assert "matches no parameter" in said


def test_a_plan_for_nothing_that_fits_ends_with_status_1(capsys, monkeypatch):
    compiler = Compiler(dict.fromkeys(ROOM, 0))
    monkeypatch.setattr("cmaclip_jax.planning.candidates.judge", compiler)
    assert main(["plan", QUICKSTART, *SMALL, "--topology=v5e:2x2"]) == 1
    assert "The train step does not fit: it needs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("train", "evaluation", "told"),
    [
        (TooLarge({"parameters": 10, "moments": 20}, 35, 16), None, "--config.mesh.fsdp=4"),
        (TooLarge({"parameters": 3}, 35, 16), None, "--config.model.remat=dots"),
        (TooLarge({"parameters": 3}, 35, 16), None, "--config.train.accumulate=2"),
        (None, TooLarge({"parameters": 3}, 35, 16), "--config.eval.batch_size=8"),
    ],
)
def test_what_is_too_large_is_said_with_what_to_change(train, evaluation, told):
    fitting, topology = Step(Memory({}, 1, 1), 1e9, []), open_topology("v5e:2x2")
    run = plan_run(small_config(), [Task("a", ("b", "c"))], topology.devices)
    verdict = Verdict(run, topology, Operations(1.0, 1.0), train or fitting, evaluation)
    assert told in " ".join(plan_text.too_large(verdict))
    largest = "parameters, moments" if "moments" in (train or evaluation).parts else "computes"
    assert f"Too large: {largest}" in plan_text.in_short(verdict) or largest == "computes"


def test_parameters_that_do_not_fit_are_not_compiled(monkeypatch):
    topology = open_topology("v5e:2x2")
    small = dataclasses.replace(topology, chip=dataclasses.replace(topology.chip, memory=1000))
    run = plan_run(small_config(), [Task("a", ("b", "c"))], topology.devices)
    monkeypatch.setattr("cmaclip_jax.planning.verdict.compile_step", None)
    verdict = judge(run, small, Operations(1.0, 1.0))
    assert not verdict.fits
    assert verdict.train.temporary == 0
    assert "Too large: parameters, moments" in plan_text.in_short(verdict)


def test_sizes_carry_fields_and_the_batch_grows_with_the_chips(capsys, monkeypatch):
    monkeypatch.setattr("cmaclip_jax.planning.candidates.judge", Compiler(dict.fromkeys(ROOM, 4)))
    command = ["plan", QUICKSTART, *SMALL, "--topology=v5e:1x1,v5e:2x2"]
    command += ["--config.train.steps=100", "--pairs-per-chip=4"]
    sizes = "--sizes=test/8,test/8:mesh.fsdp=1:model.remat=full"
    assert main([*command, sizes, "--json"]) == 0
    shown = capsys.readouterr()
    plans = json.loads(shown.out)
    assert [plan["batch_size"] for plan in plans] == [4, 16, 4, 16]
    assert [plan["steps"] for plan in plans] == [1600, 400, 1600, 400]
    assert [plan["remat"] for plan in plans] == ["none", "none", "full", "full"]
    for one in plans:
        flops = one["flops"]
        recomputes = one["remat"] == "full"
        assert (flops["xla_with_recomputing"] > 1.1 * flops["xla"]) == recomputes
    assert "4 of 4: compiling test/8 for v5e:2x2" in shown.err
    assert main([*command, sizes.replace("test/8,", "")]) == 0
    table = capsys.readouterr().out
    assert re.search(r"test/8 +v5e:2x2 +4x1x1 +full +16 ", table)
    assert "Estimated: HBM traffic" in table
    assert "v5e:1x1: mesh.data" in mistake(capsys, *command, "--sizes=test/8:mesh.fsdp=4")
    assert "did you mean" in mistake(capsys, *command, "--sizes=test/8:mesh.fsd=4")
    assert "write SIZE:FIELD=VALUE" in mistake(capsys, *command, "--sizes=test/8:fsdp")
    assert "must be 1 or more" in mistake(capsys, *command, "--pairs-per-chip=-1")


@pytest.mark.parametrize(("name", "slices"), [("v6e-256", 1), ("v5e-256", 2)])
def test_a_mesh_may_take_part_of_a_physical_axis(name, slices):
    topology = open_topology(name, slices)
    mesh = make_mesh(fsdp=8, devices=topology.devices)
    assert dict(mesh.shape) == {"data": 32 * slices, "fsdp": 8, "tensor": 1}
    assert len({getattr(device, "slice_index", 0) for device in mesh.devices[0].flat}) == 1


@pytest.mark.slow
def test_the_compilers_own_verdict_is_understood(capsys):
    large = ["--config.train.batch_size=65536", "--config.train.contrastive=0.0", "--tasks=a:9"]
    large += ["--config.model.sequence_layers=1", "--config.model.unroll=1"]
    assert main(["plan", QUICKSTART, *large, "--topology=v5e:1x1", "--json"]) == 1
    (told,) = json.loads(capsys.readouterr().out)
    memory = told["memory"]["train"]
    assert not told["fits"]
    assert memory["total"] > memory["available"] > 0.9 * told["memory"]["of"]
    stays = memory["parameters"] + memory["moments"] + memory["batch"]
    assert memory["temporary"] == pytest.approx(memory["total"] - stays)


def test_the_compilers_figure_has_the_arguments_in_it():
    """20 GiB in place, and next to nothing beside them: it is told that 20 GiB are needed."""
    device = SingleDeviceSharding(open_topology("v5e:1x1").devices[0])
    many = [jax.ShapeDtypeStruct((2**13, 2**13), jnp.float32)] * 80
    halve = jax.jit(
        lambda arrays: [x / 2 for x in arrays],
        in_shardings=device,
        out_shardings=device,
        donate_argnums=0,
    )
    found = compile_step(halve.lower(many), {"parameters": 80 * 2**28}, 1, 16 * 2**30)
    assert found.needed == pytest.approx(20 * 2**30, rel=0.02)
    assert found.temporary < 2**29


def test_what_fits_is_not_told_to_need_more_than_there_is():
    """Temporaries that share their room count twice in the compiler's sum, and not in its peak."""
    found = types.SimpleNamespace(
        argument_size_in_bytes=2,
        output_size_in_bytes=1,
        alias_size_in_bytes=1,
        temp_size_in_bytes=9,
        generated_code_size_in_bytes=1,
        peak_memory_in_bytes=8,
    )
    assert costs.memory_of(found, {"parameters": 2}, available=16).total == 12
    assert costs.memory_of(found, {"parameters": 2}, available=10).total == 9


def test_the_screen_and_the_table(capsys, monkeypatch):
    without_tasks = [argument for argument in SMALL if not argument.startswith("--tasks")]
    assert main(["plan", QUICKSTART, *without_tasks, "--topology=v5e:2x2"]) == 0
    shown = capsys.readouterr()
    monkeypatch.setattr("cmaclip_jax.planning.candidates.judge", Compiler(ROOM | {"none": 64}))
    assert main(["plan", QUICKSTART, *SMALL, "--topology=v5e:1x1,v6e:1x1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(" v5e:1x1 " in line or " v6e:1x1 " in line for line in lines) == 2
    assert "one task of 100 classes" in shown.err
    assert "GiB of a chip, which has 16" in shown.out
    assert "chip-hours" in shown.out


def test_mistakes_end_in_one_line(capsys, monkeypatch):
    command = ["plan", QUICKSTART]
    for topology in ("v9:2x2", "v5e", "v5e:3x5", "v5e-7"):
        assert f"no topology '{topology}'" in mistake(capsys, *command, f"--topology={topology}")
    assert "write NAME:CLASSES" in mistake(capsys, *command, "--topology=v5e:1x1", "--tasks=dish")
    assert "which only data may cross" in mistake(
        capsys, *command, "--topology=v5e:2x2", "--slices=2", "--config.mesh.fsdp=8"
    )
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "libtpu" else find(name)
    )
    with pytest.raises(UserError, match=r"pip install 'cmaclip_jax\[tpu\]'"):
        open_topology("v5e:2x2")
