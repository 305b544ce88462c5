"""Settings of this process that must be made before JAX and TensorFlow are imported.

The user's environment takes precedence. A variable that is set keeps its value, and XLA_FLAGS is
extended. CMACLIP_PLAIN=1 keeps the defaults of Python's garbage collector, XLA on a CPU and malloc.
"""

import contextlib
import ctypes
import gc
import glob
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PLAIN = "CMACLIP_PLAIN"

# TensorFlow only reads data here. These variables suppress its messages at import.
QUIET_TENSORFLOW = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}

# Lets XLA compute AdamW's three results in one pass over their inputs (see
# `training/cpu_adamw.py`).
# XLA accepts this option for a whole process only, not for one program.
OPTIONS, FUSED = "--xla_backend_extra_options", "xla_cpu_use_multi_output_fusion"

TPU_FILES = ("/dev/accel*", "/dev/vfio/[0-9]*")
ACCELERATORS = (*TPU_FILES, "/dev/nvidia[0-9]*", "/dev/kfd")

# JAX loads libtpu wherever it is installed. libtpu then searches the machine for TPUs and locks
# them. On a machine without TPUs, these environment variables skip the search and its warnings, and
# let several processes load libtpu at once.
NO_TPU_HERE = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
}

# glibc's malloc.h: M_TRIM_THRESHOLD, M_MMAP_MAX. M_ARENA_MAX stays as it is: the compiler fragments
# an arena that all threads share, and small models then train at half the speed (see
# tests/benchmarks/RESULTS.md).
KEPT_MEMORY = {-1: -1, -4: 0}

# With this setting, glibc's malloc asks Linux for huge pages. glibc reads it only when a process
# starts. The file says whether Linux gives huge pages to programs that ask for them.
MALLOC_SETTINGS, HUGE_PAGES = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"
HUGE_PAGES_FILE = "/sys/kernel/mm/transparent_hugepage/enabled"

# Importing TensorFlow and tracing a step make millions of objects that are never freed. By default
# Python collects garbage after every 700 new objects (2,000 from 3.13 on), which takes a fifth of
# the time that a command needs to start.
COLLECTED_EVERY = (20_000, 10, 10)


def restart_with_huge_pages() -> None:
    """Replaces this process by the same command with huge pages, where they make steps faster.

    A thread's arena of malloc holds 64 MiB. malloc maps larger temporaries anew in every step.
    Linux clears them page by page, and a huge page has 2 MiB instead of 4 KiB. This matters on a
    CPU only. A value that the user gives to GLIBC_TUNABLES stays.
    """
    if os.environ.get(PLAIN) or MALLOC_SETTINGS in os.environ or not computes_on_cpu():
        return
    if huge_pages_on_request():
        command = [sys.executable, *sys.orig_argv[1:]]
        os.execve(sys.executable, command, os.environ | {MALLOC_SETTINGS: HUGE_PAGES})


def huge_pages_on_request() -> bool:
    """Whether Linux gives huge pages to programs that ask for them, and to no others."""
    try:
        return "[madvise]" in Path(HUGE_PAGES_FILE).read_text()
    except OSError:
        return False


def prepare() -> None:
    """Makes all settings. Call it once, before JAX is imported."""
    quiet = QUIET_TENSORFLOW if may_have_tpus() else QUIET_TENSORFLOW | NO_TPU_HERE
    for name, value in (quiet | kept_programs()).items():
        os.environ.setdefault(name, value)
    if os.environ.get(PLAIN):
        return
    gc.set_threshold(*COLLECTED_EVERY)
    if computes_on_cpu():
        flags = os.environ.get("XLA_FLAGS", "")
        if OPTIONS not in flags:
            os.environ["XLA_FLAGS"] = f"{flags} {OPTIONS}={FUSED}".strip()
        keep_memory()


def kept_programs() -> dict[str, str]:
    """The variable that names the folder where JAX caches compiled programs for this user.

    Empty if the folder cannot be made. The user's own JAX_COMPILATION_CACHE_DIR takes precedence;
    if it is set and empty, JAX caches nothing.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = os.path.join(home, "cmaclip_jax", "compiled")
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError:
        return {}
    return {"JAX_COMPILATION_CACHE_DIR": folder}


def may_have_tpus() -> bool:
    """Whether this machine has a TPU, or the environment tells JAX to look for one."""
    said = "JAX_FORCE_TPU_INIT" in os.environ or "tpu" in os.environ.get("JAX_PLATFORMS", "")
    return said or any(map(glob.glob, TPU_FILES))


def computes_on_cpu() -> bool:
    """Whether JAX will compute on the CPU, judged without importing JAX."""
    wanted = os.environ.get("JAX_PLATFORMS", "")
    return wanted == "cpu" or not (wanted or any(map(glob.glob, ACCELERATORS)))


def keep_memory() -> None:
    """Makes malloc keep freed memory, so that the next step reuses it for its temporaries.

    Otherwise every step of a large model returns a gigabyte to the system, which has to clear and
    map it again. Only glibc has these options.
    """
    malloc_option = _of_malloc("mallopt")
    for option, value in KEPT_MEMORY.items() if malloc_option else ():
        malloc_option(option, value)


def usable_cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # on Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def signal_handlers(handlers: Mapping[int, Any]) -> Iterator[None]:
    """Sets handlers of signals for the block. Outside the main thread, Python allows none."""
    before = {}
    for number, handler in handlers.items():
        with contextlib.suppress(ValueError):  # not the main thread
            before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def give_memory_back() -> None:
    """Collects Python's garbage and returns the memory that malloc keeps to the system.

    Call it between two pieces of work that share no temporaries, such as two runs of a study.
    """
    gc.collect()
    if trim := _of_malloc("malloc_trim"):
        trim(0)


def _of_malloc(name: str):
    """A function of the C library; None if the library does not have it."""
    return getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None
