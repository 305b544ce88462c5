"""TensorFlow takes seconds to import. A run answers without it."""

import os
import subprocess
import sys

TENSORFLOW = {"tensorflow", "tensorflow_datasets"}
ANSWERING = (
    "pairs",
    "batches",
    "text",
    "images",
    "tables",
    "named_pictures",
    "python_inputs",
    "storage",
)


def test_what_answers_loads_without_tensorflow():
    packages = imported(*(f"import cmaclip_jax.data.{module}" for module in ANSWERING))
    assert "cmaclip_jax" in packages
    assert not TENSORFLOW & packages


def test_a_run_answers_without_tensorflow(finished_run, catalogue, tmp_path):
    verb = ["predict", f"--workdir={finished_run}", f"--input={catalogue}"]
    packages = imported(
        "import cmaclip_jax as cma",
        "from cmaclip_jax.main import main",
        f"assert main({[*verb, f'--output={tmp_path}/answers.csv']!r}) == 0",
        f"picture = {os.path.join(os.path.dirname(catalogue), 'images', '0.png')!r}",
        f"(answer,) = cma.load({str(finished_run)!r}).predict([picture], ['a red hat'])",
        "assert answer['colour'].label",
    )
    assert not TENSORFLOW & packages
    assert (tmp_path / "answers.csv").exists()


def test_pages_and_exports_are_made_without_tensorflow(finished_run, catalogue, tmp_path):
    run, where = f"--workdir={finished_run}", f"--output={tmp_path}"
    explain = ["explain", run, f"--input={catalogue}", "--rows=1", f"{where}/explain.html"]
    calls = (["report", run, f"{where}/report.html"], explain, ["export", run, f"{where}/export"])
    main = "from cmaclip_jax.main import main"
    packages = imported(main, *(f"assert main({call!r}) == 0" for call in calls))
    assert not TENSORFLOW & packages
    assert {"report.html", "explain.html", "export"} <= {path.name for path in tmp_path.iterdir()}


def imported(*lines: str) -> set[str]:
    """The top-level packages that are imported after lines of Python in a process of its own."""
    tell = "import sys; print('packages', *{name.partition('.')[0] for name in sys.modules})"
    command = [sys.executable, "-c", "\n".join((*lines, tell))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return set(done.stdout.splitlines()[-1].split())
