"""Eight fake devices for every test, and the small parts that most of them need."""

import atexit
import csv
import gc
import os
import shutil
import tempfile

from support.commands import COMPILED_QUICKLY

from cmaclip_jax.process import COLLECTED_EVERY, NO_TPU_HERE, give_memory_back

os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count=8 {COMPILED_QUICKLY}"
# XLA sizes its pool of threads by this. With one thread a device, all of them can come to wait
# inside collectives whose other halves still queue for a thread; XLA then aborts the process.
os.environ["NPROC"] = "64"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.update(NO_TPU_HERE)
# Tests read the programs that other tests have compiled, in any process. If the variable is set,
# the folder stays, and the next run of the tests reads it too.
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ.get(
    "JAX_COMPILATION_CACHE_DIR"
) or tempfile.mkdtemp(prefix="compiled-by-tests-")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax
import pytest
from PIL import Image
from support.small import initial, make_batch, make_objective, small_config

from cmaclip_jax.data.bad_records import BadRecords
from cmaclip_jax.data.sources import open_sources
from cmaclip_jax.data.text import train_tokenizer
from cmaclip_jax.runs.training import train_and_evaluate

# What is imported stays. Python's garbage collector need not look at it again and again.
gc.set_threshold(*COLLECTED_EVERY)
gc.freeze()

CACHE = os.environ["JAX_COMPILATION_CACHE_DIR"]
if "compiled-by-tests-" in CACHE and "PYTEST_XDIST_WORKER" not in os.environ:
    atexit.register(shutil.rmtree, CACHE)


def pytest_collection_modifyitems(items):
    """The longest test and files with slow tests come first, so that no worker waits at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}

    def turn(item):
        marker = item.get_closest_marker("slow")
        return not (marker and marker.kwargs.get("longest")), item.path not in slow

    items.sort(key=turn)


@pytest.fixture(scope="module", autouse=True)
def _memory_goes_back():
    """Gives back the memory of a file's tests; a worker would hold it to its end.

    Programs that another file uses as well are read from the folder of compiled programs.
    """
    yield
    jax.clear_caches()
    give_memory_back()


@pytest.fixture
def large():
    """For a test at real sizes: its memory goes back at its end, not at the end of its file."""
    yield
    jax.clear_caches()
    give_memory_back()


@pytest.fixture(scope="session")
def batch():
    return make_batch()


@pytest.fixture(scope="session")
def objective():
    return make_objective()


@pytest.fixture(scope="session")
def params(objective):
    return initial(objective.model)


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    """A small CLIP as Hugging Face saves it, with a tokenizer of its own beside it."""
    # PyTorch takes seconds to import, and is optional.
    from support.hugging_face import hugging_face_clip, randomised

    folder = tmp_path_factory.mktemp("clip")
    words = [f"a photo of a {colour} {thing}" for colour in ("red", "blue") for thing in "xyz"]
    tokenizer = train_tokenizer(words, 300)
    model = hugging_face_clip("test/8", vocabulary=tokenizer.vocabulary, length=16)
    randomised(model).save_pretrained(folder)
    tokenizer.save(folder / "tokenizer.json")
    return folder


@pytest.fixture
def config():
    """A run of seconds on the procedural catalogue."""
    return small_config()


@pytest.fixture(scope="session")
def catalogue(tmp_path_factory):
    """The procedural catalogue as a user's own: products.csv, and pictures in a folder."""
    folder = tmp_path_factory.mktemp("catalogue")
    (folder / "images").mkdir()
    rows = []
    for split, source in open_sources(small_config().data, BadRecords()).items():
        for record in map(source.__getitem__, range(len(source))):
            row = {"id": record.id, "picture": "", "title": record.text or "", "split": split}
            if record.image is not None:
                row["picture"] = f"images/{len(rows)}.png"
                Image.fromarray(record.image).save(folder / row["picture"])
            row["colour"] = record.labels["colour"] or ""
            row["contents"] = "|".join(record.labels["contents"] or ())
            rows.append(row)
    with (folder / "products.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "products.csv"


@pytest.fixture(scope="session")
def finished_run(catalogue, tmp_path_factory):
    """The folder of a run that was trained on the catalogue; not to be changed."""
    config = small_config()
    config.data.source, config.data.path = "table", str(catalogue)
    config.data.many = ("contents",)
    config.train.steps = 12
    config.eval.every = 0
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    train_and_evaluate(config, workdir)
    return workdir
