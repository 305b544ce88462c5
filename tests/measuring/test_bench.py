"""What bench measures: turns taken fairly, work counted as the model counts it, no TensorFlow."""

import contextlib
import functools
import importlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from support.commands import QUICKSTART, mistake

from cmaclip_jax.main import main
from cmaclip_jax.measuring import peak
from cmaclip_jax.measuring.clock import Timing, interleaved
from cmaclip_jax.measuring.parts import PARTS, made_up
from cmaclip_jax.models.flops import count
from cmaclip_jax.planning.run import plan_run
from cmaclip_jax.tasks import Task

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
SMALL = ["--config.model.image=test/8", "--config.model.text=test/8", "--tasks=a:10,b:4"]
SMALL += ["--config.model.sequence_heads=2", "--config.train.batch_size=16"]
SMALL += ["--config.eval.batch_size=32", "--seconds=0.1"]


def test_ways_take_turns_and_each_is_timed_alone(monkeypatch):
    """With a clock that goes forward by what every way costs, nothing else."""
    now, order = [0.0], []
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def way(name, seconds):
        def turns(count):
            order.append(name)
            now[0] += seconds * count

        return turns

    found = interleaved({"fast": way("fast", 1.0), "slow": way("slow", 4.0)}, 20, rounds=5)
    assert order[-10:] == ["fast", "slow"] * 5
    assert found["fast"].blocks == (1.0,) * 5
    assert found["slow"].median == 4.0


def test_the_spread_is_half_of_the_middle_half():
    assert Timing((1.0, 2.0, 3.0, 4.0, 5.0)).spread == pytest.approx(1 / 3)


def test_the_peak_is_published_or_measured(monkeypatch):
    class Device:
        platform = "gpu"
        device_kind = "NVIDIA H100 80GB HBM3"

    found = peak.peak_of([Device(), Device()], "bfloat16")
    assert found.flops == 2 * 989e12  # NVIDIA's data sheet, dense
    monkeypatch.setattr(peak, "SECONDS", 0.1)
    monkeypatch.setattr(peak, "SIDES", {"cpu": (256,)})
    found = peak.peak_of(jax.devices()[:1], "float32")
    assert 1e8 < found.flops < 1e13
    assert "measured" in found.source


@pytest.fixture(scope="module")
def figures():
    """What bench prints for scripts, in a process of its own that has no TensorFlow to import."""
    code = "import sys; sys.modules['tensorflow'] = None; from cmaclip_jax.main import main; "
    code += "sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "bench", QUICKSTART, *SMALL, "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def test_bench_measures_every_step_without_tensorflow(figures):
    assert list(figures["parts"]) == list(PARTS)
    assert figures["devices"] == 8
    for name, pairs in (("train", 16), ("evaluation", 32), ("inference", 32), ("one-pair", 1)):
        part = figures["parts"][name]
        assert part["pairs"] == pairs
        assert part["pairs_per_second"] == pytest.approx(pairs / part["seconds"])
        assert part["memory"] > 0
        assert part["compiling"] > 0
    assert figures["parts"]["train"]["memory"] > figures["parts"]["one-pair"]["memory"]


def test_operations_are_those_that_the_model_counts(figures, small_run):
    run = small_run
    length = figures["text_length"]
    forward = sum(part.forward for part in count(run.objective.model, length, 1).values())
    assert figures["parts"]["evaluation"]["operations"] == pytest.approx(32 * forward)
    assert figures["parts"]["one-pair"]["operations"] == pytest.approx(forward)
    assert figures["parts"]["train"]["operations"] > 2.5 * 16 * forward


@pytest.fixture(scope="module")
def small_run():
    from cmaclip_jax.commands.arguments import read_named_config

    config, _ = read_named_config([QUICKSTART, *SMALL[:2], *SMALL[3:6]])
    tasks = [Task(name, tuple(map(str, range(n)))) for name, n in (("a", 10), ("b", 4))]
    return plan_run(config, tasks, jax.devices())


def test_made_up_batches_lack_nothing(small_run):
    batch = made_up(small_run.encode, 5)
    assert batch["has_image"].all()
    assert batch["has_text"].all()
    end = small_run.encode.tokenizer.end
    assert (batch["tokens"][:, -1] == end).all()
    assert (batch["tokens"][:, :-1] < end).all()
    assert all((known >= 0).all() for known in batch["labels"].values())


def test_the_table_on_the_screen(capsys):
    assert main(["bench", QUICKSTART, *SMALL, "--parts=one-pair"]) == 0
    shown = capsys.readouterr().out
    assert "one-pair" in shown
    assert "of peak" in shown
    assert "tasks (classes): a (10), b (4)" in shown


def test_ctrl_c_ends_with_its_line_while_devices_still_compute():
    wide = [*SMALL, "--config.train.batch_size=128", "--parts=train", "--seconds=30"]
    command = [sys.executable, "-u", "-m", "cmaclip_jax.main", "bench", QUICKSTART, *wide]
    # A shell lets the jobs that it runs in the background ignore Ctrl-C.
    listen = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=listen) as bench:
        for line in bench.stderr:
            if line.startswith("train: compiling"):
                break
        time.sleep(8)  # it compiles, and then measures
        while bench.poll() is None:  # XLA swallows a signal that arrives while it compiles
            bench.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                bench.wait(5)
        rest = bench.stderr.read()
    assert bench.returncode == 130, rest
    assert rest == "cmaclip: interrupted; the same command begins again\n"


def test_an_unknown_part_is_refused(capsys):
    assert "--parts takes train" in mistake(capsys, "bench", QUICKSTART, "--parts=loss")


@pytest.fixture(scope="module")
def benchmark_scripts():
    pytest.importorskip("torch", reason="the benchmarks compare with it")
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("compare"), importlib.import_module("growth")
    sys.path.remove(str(BENCHMARKS))


def test_growth_is_the_slope_of_the_upper_half(benchmark_scripts):
    _, growth = benchmark_scripts
    values = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    assert growth.exponent(values, 7 + 0 * values) == pytest.approx(0)
    assert growth.exponent(values, 3 * values**2) == pytest.approx(2)


def test_ratios_go_by_rounds(benchmark_scripts):
    """A machine that is slow for two rounds is slow for both sides."""
    compare, _ = benchmark_scripts
    found = compare.ratios((1.0, 1.0, 5.0, 5.0, 1.0), (2.0, 2.0, 10.0, 10.0, 2.0))
    assert found["ratio"] == found["low"] == found["high"] == 0.5


@pytest.mark.slow
def test_the_plain_network_in_torch_learns_as_ours_does(benchmark_scripts, monkeypatch, capsys):
    """Same parameters, same batch: the same loss; then both sides are timed at a tiny size."""
    compare, _ = benchmark_scripts
    command = "compare --size=test/8 --batch=8 --length=12 --tasks=a:5,b:3 --rounds=2 --seconds=0.1"
    command += " --rivals=eager --json --set model.sequence_heads=2 mesh.data=8"
    monkeypatch.setattr(sys, "argv", command.split())
    compare.main()
    shown = capsys.readouterr()
    assert "losses before any step" in shown.err
    results = json.loads(shown.out)["results"]
    assert set(results) == {"train, eager", "inference, eager"}
    assert all(figures["ratio"] > 0 for figures in results.values())
    monkeypatch.setattr(compare, "padded", lambda batch, length: batch)
    monkeypatch.setattr(compare.PlainCMAClip, "loss", lambda *_: 3.0)
    with pytest.raises(SystemExit, match="the losses differ"):
        compare.main()
