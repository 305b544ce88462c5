"""TensorFlow takes seconds to import. A run answers without it."""

import os
import subprocess
import sys

ANSWERING = ("pairs", "batches", "text", "images", "tables", "named_pictures", "handed", "storage")


def test_what_answers_loads_without_tensorflow():
    without_tensorflow(*(f"import cmaclip_jax.data.{module}" for module in ANSWERING))


def test_a_run_answers_without_tensorflow(finished_run, catalogue, tmp_path):
    verb = ["predict", f"--workdir={finished_run}", f"--input={catalogue}"]
    without_tensorflow(
        "import cmaclip_jax as cma",
        "from cmaclip_jax.main import main",
        f"assert main({[*verb, f'--output={tmp_path}/answers.csv']!r}) == 0",
        f"picture = {os.path.join(os.path.dirname(catalogue), 'images', '0.png')!r}",
        f"(answer,) = cma.load({str(finished_run)!r}).predict([picture], ['a red hat'])",
        "assert answer['colour'].label",
    )
    assert (tmp_path / "answers.csv").exists()


def test_pages_and_exports_are_made_without_tensorflow(finished_run, catalogue, tmp_path):
    run, where = f"--workdir={finished_run}", f"--output={tmp_path}"
    explain = ["explain", run, f"--input={catalogue}", "--rows=1", f"{where}/explain.html"]
    calls = (["report", run, f"{where}/report.html"], explain, ["export", run, f"{where}/export"])
    main = "from cmaclip_jax.main import main"
    without_tensorflow(main, *(f"assert main({call!r}) == 0" for call in calls))
    assert {"report.html", "explain.html", "export"} <= {path.name for path in tmp_path.iterdir()}


def without_tensorflow(*lines: str) -> None:
    """Runs lines of Python in a process of its own, which must not import TensorFlow."""
    check = "import sys; assert not {'tensorflow', 'tensorflow_datasets'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", "\n".join((*lines, check))], check=True)
