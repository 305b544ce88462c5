"""Seconds from the start of the process to a first result: python tests/benchmarks/startup.py

Measures `--help`, and the first training step of the quickstart: cold, when all programs are
compiled, and warm, when they are read from JAX's cache of the run before.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "cmaclip_jax.main"]
FIRST = ["--config=configs/quickstart.py", "--config.train.log_every=1"]


def main() -> None:
    start = time.monotonic()
    subprocess.run([*COMMAND, "--help"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    print(f"--help       {time.monotonic() - start:6.1f} s", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("cold", "warm"):
            seconds = first_step(Path(folder) / name, Path(folder) / "compiled")
            print(f"first step, {name} {seconds:6.1f} s", flush=True)


def first_step(workdir: Path, compiled: Path) -> float:
    """Starts the quickstart, and stops it once its first step has left its figures."""
    command = [*COMMAND, "train", *FIRST, f"--workdir={workdir}"]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(compiled)}
    start, figures = time.monotonic(), workdir / "metrics.jsonl"
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        while not (figures.exists() and figures.read_text()):
            if process.poll() is not None:
                sys.exit(process.stderr.read())
            time.sleep(0.02)
        seconds = time.monotonic() - start
        process.kill()
    return seconds


if __name__ == "__main__":
    main()
