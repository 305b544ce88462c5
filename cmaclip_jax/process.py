"""What this process is set to before JAX and TensorFlow are imported; for itself alone.

What the user's environment says counts: a variable that is set stays, XLA_FLAGS is added to, and
CMACLIP_PLAIN=1 leaves Python's collector, and the flags and the memory of a CPU, as they would be
without us.
"""

import ctypes
import gc
import glob
import os

PLAIN = "CMACLIP_PLAIN"

# TensorFlow only feeds us here, and has much to say when it is imported.
QUIET_TENSORFLOW = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}

# Lets the three results of AdamW leave one pass over its inputs (see `training/cpu_adamw.py`).
# It is no option of a single program, only of the process.
OPTIONS, FUSED = "--xla_backend_extra_options", "xla_cpu_use_multi_output_fusion"

TPU_FILES = ("/dev/accel*", "/dev/vfio/[0-9]*")
ACCELERATORS = (*TPU_FILES, "/dev/nvidia[0-9]*", "/dev/kfd")

# JAX loads libtpu wherever it is installed. libtpu asks the machine what it is, and wants its TPUs
# for itself. Where there are none, these environment variables save it the search and the
# complaints, and let several processes load it at once.
NO_TPU_HERE = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
}

# glibc's malloc.h: M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX.
KEPT_MEMORY = {-1: -1, -4: 0, -8: 1}

# Importing TensorFlow and tracing a step make millions of objects that stay. Left to itself Python
# looks for garbage whenever there are 700 more (2,000 from 3.13 on): a fifth of a start.
COLLECTED_EVERY = (20_000, 10, 10)


def prepare() -> None:
    """Sets everything; to be called once, before JAX is imported."""
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
    """Where JAX keeps what it has compiled, for this user's next run; nowhere if that is no place.

    The environment variable decides, if it is set; empty, it keeps nothing.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = os.path.join(home, "cmaclip_jax", "compiled")
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError:
        return {}
    return {"JAX_COMPILATION_CACHE_DIR": folder}


def may_have_tpus() -> bool:
    """Whether a TPU is in this machine, or the user's environment says that JAX will find one."""
    said = "JAX_FORCE_TPU_INIT" in os.environ or "tpu" in os.environ.get("JAX_PLATFORMS", "")
    return said or any(map(glob.glob, TPU_FILES))


def computes_on_cpu() -> bool:
    """Whether JAX will compute on the CPU here, as far as can be told without asking it."""
    wanted = os.environ.get("JAX_PLATFORMS", "")
    return wanted == "cpu" or not (wanted or any(map(glob.glob, ACCELERATORS)))


def keep_memory() -> None:
    """Makes malloc keep what is freed: a step's temporaries lie where those of the last one lay.

    Else every step of a large model gives a gigabyte back and has it cleared and mapped anew.
    Only glibc can be told.
    """
    malloc_option = _of_malloc("mallopt")
    for option, value in KEPT_MEMORY.items() if malloc_option else ():
        malloc_option(option, value)


def give_memory_back() -> None:
    """Gives the system what finished work has left: Python's garbage, and what malloc keeps.

    For the pause between two pieces of work that share no temporaries, as two runs of a study.
    """
    gc.collect()
    if trim := _of_malloc("malloc_trim"):
        trim(0)


def _of_malloc(name: str):
    """A function of the C library; None where it has no such function."""
    return getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None
