"""What a process is set to before JAX is imported, and what that brings."""

import importlib.util
import os
import subprocess
import sys

import pytest

from cmaclip_jax import process

# Bytes that the update of one parameter of 4 MiB needs beside its arguments.
ROOM_OF_AN_UPDATE = """
from cmaclip_jax import process
process.prepare()
import jax, jax.numpy as jnp, optax
from cmaclip_jax.training.cpu_adamw import clipped_adam

adam = optax.chain(clipped_adam(1.0, 0.9, 0.98, 1e-6), optax.scale_by_learning_rate(1e-3))

def step(params, state, gradients):
    updates, new = adam.update(gradients, state, params)
    bad = ~jnp.isfinite(optax.global_norm(gradients))
    keep = lambda old, new: jnp.where(bad, old, new)
    return jax.tree.map(keep, (params, state), (optax.apply_updates(params, updates), new))

params = {"kernel": jnp.ones((1024, 1024))}
arguments = params, adam.init(params), params
program = jax.jit(step, donate_argnums=(0, 1)).lower(*arguments).compile()
print(program.memory_analysis().temp_size_in_bytes)
"""

# Pages that came anew while a step's worth of memory was taken and given back, twice.
NEW_PAGES = """
import ctypes, resource, sys
from cmaclip_jax import process
process.prepare()

def use(size):
    ctypes.memset(block := libc.malloc(size), 1, size)
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
ctypes.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
before = use(2**28)
print(use(2**28) - before)
"""

# Mebibytes that a process holds before small pieces of memory are taken and freed, after that, and
# after what is left of them is given back.
HELD = """
import ctypes
from cmaclip_jax import process
process.prepare()

def held():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) // 256

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
before, size = held(), 2**20
blocks = [libc.malloc(size) for _ in range(200)]
for block in blocks:
    ctypes.memset(block, 1, size)
for block in blocks[:-1]:
    libc.free(block)
kept = held()
process.give_memory_back()
print(1000 * (kept - before) + max(held() - before, 0))
"""

# Kibibytes of huge pages in the process after 256 MiB of memory were used.
HUGE_PAGES_USED = """
import ctypes
from cmaclip_jax import process
process.restart_with_huge_pages()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
libc.memset(libc.malloc(2**28), 1, 2**28)
with open("/proc/self/smaps_rollup") as file:
    print(next(line.split()[1] for line in file if line.startswith("AnonHugePages")))
"""

# How often Python looks for what can be thrown away while a hundred thousand objects are made.
COLLECTIONS = """
import gc
from cmaclip_jax import process
process.prepare()
def collections():
    return sum(generation["collections"] for generation in gc.get_stats())
before = collections()
made = [[] for _ in range(100_000)]
print(collections() - before)
"""


UNSET = ("XLA_FLAGS", process.PLAIN, process.MALLOC_SETTINGS)


def printed(program: str, **environment: str) -> int:
    """The number that a Python program prints, on a CPU, with nothing set but what is said."""
    clean = {k: v for k, v in os.environ.items() if k not in UNSET}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=clean | {"JAX_PLATFORMS": "cpu"} | environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return int(done.stdout)


def test_a_cpu_updates_a_parameter_in_one_pass_where_it_lies():
    assert printed(ROOM_OF_AN_UPDATE) < 2**16
    assert printed(ROOM_OF_AN_UPDATE, CMACLIP_PLAIN="1") >= 2**22


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc can be told")
def test_memory_that_was_used_once_is_used_again():
    assert printed(NEW_PAGES) < 100
    assert printed(NEW_PAGES, CMACLIP_PLAIN="1") > 10_000


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc can be told")
def test_what_was_freed_is_given_back_between_two_pieces_of_work():
    kept, left = divmod(printed(HELD), 1000)
    assert kept > 150  # though one piece alone is still in use
    assert left < 20


@pytest.mark.skipif(not process.huge_pages_on_request(), reason="Linux gives no huge pages here")
def test_a_command_restarts_itself_with_huge_pages():
    assert printed(HUGE_PAGES_USED) > 2**17
    assert printed(HUGE_PAGES_USED, CMACLIP_PLAIN="1") == 0
    assert printed(HUGE_PAGES_USED, GLIBC_TUNABLES="glibc.malloc.perturb=0") == 0
    assert printed(HUGE_PAGES_USED, JAX_PLATFORMS="cuda") == 0


def test_python_seldom_looks_through_what_stays():
    assert printed(COLLECTIONS, CMACLIP_PLAIN="1") > 5 * printed(COLLECTIONS)


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")
@pytest.mark.skipif(process.may_have_tpus(), reason="is about machines without TPUs")
def test_libtpu_is_silent_where_no_tpu_is(monkeypatch):
    for name in process.NO_TPU_HERE.keys() - {"ALLOW_MULTIPLE_LIBTPU_LOAD"}:  # else another
        monkeypatch.delenv(name, raising=False)  # process that has it loaded silences it
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    code = "import jax; assert jax.devices()[0].platform == 'cpu'"
    ours = f"from cmaclip_jax import process; process.prepare(); {code}"
    loud, silent = (
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
        for program in (code, ours)
    )
    assert b"TPU" in loud.stderr
    assert (silent.stdout, silent.stderr) == (b"", b"")


@pytest.fixture
def environment(monkeypatch):
    """An environment of our own to be changed, and a memory and a collector that are not."""
    changed = {"HOME": "/nowhere", "JAX_PLATFORMS": "cpu"}
    monkeypatch.setattr(os, "environ", changed)
    monkeypatch.setattr(process, "keep_memory", lambda: None)
    monkeypatch.setattr(process.gc, "set_threshold", lambda *thresholds: None)
    return changed


@pytest.mark.parametrize(
    ("given", "flags"),
    [
        ({}, "--xla_backend_extra_options=xla_cpu_use_multi_output_fusion"),
        (
            {"XLA_FLAGS": "--xla_dump_to=x"},
            "--xla_dump_to=x --xla_backend_extra_options=xla_cpu_use_multi_output_fusion",
        ),
        ({"XLA_FLAGS": "--xla_backend_extra_options=a"}, "--xla_backend_extra_options=a"),
        ({"CMACLIP_PLAIN": "1"}, None),
        ({"JAX_PLATFORMS": "tpu"}, None),
    ],
)
def test_flags_are_added_to_what_the_user_says(environment, given, flags):
    environment.update(given)
    process.prepare()
    assert environment.get("XLA_FLAGS") == flags


@pytest.mark.parametrize(
    ("given", "file"),
    [
        ({}, "/dev/accel0"),
        ({}, "/dev/vfio/0"),
        ({"JAX_PLATFORMS": "tpu,cpu"}, None),
        ({"JAX_FORCE_TPU_INIT": "1"}, None),
    ],
)
def test_nothing_is_said_of_tpus_where_one_may_be(environment, monkeypatch, given, file):
    monkeypatch.setattr(process.glob, "glob", lambda p: [file] * (p[:8] == (file or "")[:8]))
    environment.update({"JAX_PLATFORMS": ""} | given)
    process.prepare()
    assert not environment.keys() & process.NO_TPU_HERE.keys()


def test_what_the_user_says_of_tpus_stays(environment, monkeypatch):
    monkeypatch.setattr(process.glob, "glob", lambda pattern: [])
    environment["TPU_ACCELERATOR_TYPE"] = "v4-8"
    process.prepare()
    assert environment["TPU_ACCELERATOR_TYPE"] == "v4-8"
    assert environment["TPU_WORKER_HOSTNAMES"] == "localhost"


def test_an_accelerator_is_left_alone(environment, monkeypatch):
    del environment["JAX_PLATFORMS"]
    monkeypatch.setattr(process.glob, "glob", lambda pattern: [])
    assert process.computes_on_cpu()
    monkeypatch.setattr(process.glob, "glob", lambda pattern: ["/dev/accel0"])
    assert not process.computes_on_cpu()
