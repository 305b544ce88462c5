"""What tests of commands share: paths, the environment of a user, and mistakes."""

import os
from importlib.metadata import version
from pathlib import Path

from cmaclip_jax.main import main

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = f"--config={ROOT / 'configs/quickstart.py'}"
LOCAL_POD = ROOT / "launch/local_pod"
# In tests, compiling takes the time, not running, so LLVM optimises nothing. In JAX 0.10, XLA can
# also leave out its detour by MLIR, which halves the time. Newer versions know no other way.
COMPILED_QUICKLY = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if version("jaxlib").startswith("0.10."):
    COMPILED_QUICKLY += " --xla_cpu_use_fusion_emitters=false"


def mistake(capsys, *arguments) -> str:
    """The one line that a wrong command ends in."""
    assert main([str(argument) for argument in arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert [line for line in lines if line.startswith("cmaclip: ")] == lines[-1:], lines
    assert not any("Traceback" in line for line in lines), lines
    return lines[-1]


def environment():
    """As a user has it: no fake devices. Only programs are compiled in less time."""
    return os.environ | {"XLA_FLAGS": COMPILED_QUICKLY, "PYTHONPATH": str(ROOT)}
