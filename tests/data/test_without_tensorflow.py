"""TensorFlow takes seconds to import: what answers needs none of it."""

import subprocess
import sys

ANSWERING = ("pairs", "batches", "text", "images", "tables", "named_pictures", "handed", "storage")


def test_what_answers_loads_without_tensorflow():
    without_tensorflow(*(f"import cmaclip_jax.data.{module}" for module in ANSWERING))


def test_local_pictures_and_tables_are_read_without_tensorflow(catalogue):
    without_tensorflow(
        "from cmaclip_jax.data.images import clip_image",
        "from cmaclip_jax.data.named_pictures import any_there, locate",
        "from cmaclip_jax.data.tables import read_rows",
        f"table = {str(catalogue)!r}",
        "cell = next(read_rows(table))['picture']",
        "assert any_there([cell], table, False)",
        "assert clip_image(locate(cell, table, False)[0], 32).shape == (32, 32, 3)",
    )


def without_tensorflow(*lines: str) -> None:
    """Runs lines of Python in a process of its own, which must not import TensorFlow."""
    check = "import sys; assert not {'tensorflow', 'tensorflow_datasets'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", "\n".join((*lines, check))], check=True)
