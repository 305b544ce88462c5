"""The type that a model computes in where `model.dtype` is 'auto'.

An accelerator computes in bfloat16. A CPU does so if its instructions multiply bfloat16 and the
model is wide enough that faster products outweigh the conversions around them; else in float32.
The table shows the processor's time in bfloat16 as a share of that in float32, on two cores of an
Intel Xeon (AMX) and of an AMD EPYC (Zen 4):

  width            64    96    128   192   256   384   512   B/32 (768 and 512)
  Xeon, training   1.03  .94   .94   .80   .84   .76   .69   .92
  Xeon, inference  .92   .93   .82   .73   .65   .55   .48   .53
  EPYC, training   1.03  1.05  .93   .89   .82   .72   .70   .73
  EPYC, inference  .92   .94   .93   .87   .78   .71   .67   .60

tests/benchmarks/README.md has the commands, and says which rows they printed.

Several hosts compute in float32 on CPUs, since their processors may differ. Parameters are float32
in either case.
"""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from cmaclip_jax.config import with_changes
from cmaclip_jax.files import write_text
from cmaclip_jax.parallel.cluster import leads
from cmaclip_jax.training.saved_parameters import checkpoint_steps

CPUINFO = Path("/proc/cpuinfo")
INSTRUCTIONS = {"amx_bf16", "avx512_bf16"}  # as Linux names those that multiply bfloat16
LEAST_WIDTH = 256  # of the narrower encoder; see the table
NARROW = 0  # a width at which every CPU computes in float32
AUTO = "auto"
RECORD = "dtype.txt"  # the type that a run with 'auto' trains in


def compute_dtype(name: str, width: int) -> jnp.dtype:
    """The type of `model.dtype` on this machine, for encoders of at least this width."""
    return jnp.dtype(fastest_type(width) if name == AUTO else name)


def fastest_type(width: int) -> str:
    """'bfloat16' where this machine is faster in it at this width, else 'float32'."""
    if jax.default_backend() != "cpu":
        return "bfloat16"
    has_instructions = jax.process_count() == 1 and INSTRUCTIONS & cpu_flags()
    return "bfloat16" if has_instructions and width >= LEAST_WIDTH else "float32"


def with_training_type(config: ConfigDict, width: int, workdir: Path) -> tuple[ConfigDict, str]:
    """The config with the type that the run in a folder trains in, and a line about it.

    The folder keeps the choice of 'auto', so that a run that continues elsewhere keeps its type.
    """
    if config.model.dtype != AUTO:
        return config, f"computing in {config.model.dtype}"
    file = workdir / RECORD
    if file.exists():
        chosen, why = file.read_text().strip(), "in which this run began"
    else:
        # Runs from before this record computed in float32 on every CPU.
        begun = checkpoint_steps(workdir / "checkpoints")
        chosen, why = fastest_type(NARROW if begun else width), "as model.dtype=auto chose here"
        if leads():
            write_text(file, chosen + "\n")
    return with_changes(config, {"model.dtype": chosen}), f"computing in {chosen}, {why}"


def cpu_flags() -> frozenset[str]:
    """The instruction sets of this processor as Linux on x86 lists them; empty elsewhere."""
    text = CPUINFO.read_text() if CPUINFO.exists() else ""
    found = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return frozenset(found[1].split() if found else ())
