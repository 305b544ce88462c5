"""Eight fake devices for every test, and the small parts that most of them need."""

import atexit
import csv
import functools
import os
import shutil
import tempfile

from cmaclip_jax.process import NO_TPU_HERE, give_memory_back

# Small models: compiling takes the time, not running.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)
# XLA sizes its pool of threads by this. With one thread a device, all of them can come to wait
# inside collectives whose other halves still queue for a thread; XLA then aborts the process.
os.environ["NPROC"] = "64"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.update(NO_TPU_HERE)
# What one test has compiled, the others read, those in processes of their own as well.
os.environ["JAX_COMPILATION_CACHE_DIR"] = (
    os.environ["JAX_COMPILATION_CACHE_DIR"]
    if "PYTEST_XDIST_WORKER" in os.environ  # works for the process that made the folder
    else tempfile.mkdtemp(prefix="compiled")
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax
import numpy as np
import pytest
from PIL import Image

from cmaclip_jax.config import base_config
from cmaclip_jax.data.bad_records import BadRecords
from cmaclip_jax.data.sources import open_sources
from cmaclip_jax.data.text import train_tokenizer
from cmaclip_jax.models import (
    Classification,
    CMAClip,
    SequenceAttention,
    image_encoder,
    text_encoder,
)
from cmaclip_jax.runs.training import train_and_evaluate
from cmaclip_jax.tasks import Task

if "PYTEST_XDIST_WORKER" not in os.environ:
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"])

TASKS = (
    Task("colour", ("red", "green", "blue")),
    Task("contents", ("mug", "hat", "bag", "shoe"), many=True),
)
VOCABULARY = 50


def make_batch(rows: int = 16, seed: int = 0, length: int = 12, image_size: int = 16) -> dict:
    """A random batch in which everything occurs: absent pictures, texts and labels."""
    random = np.random.default_rng(seed)
    words = random.integers(0, VOCABULARY - 1, (rows, length))
    ends = random.integers(1, length, (rows, 1))
    tokens = np.where(np.arange(length) < ends, words, VOCABULARY - 1)
    lot = random.random(rows)
    contents = random.integers(0, 2, (rows, 4)).astype(np.float32)
    contents[random.random(rows) < 0.2] = -1
    return {
        "image": random.integers(0, 256, (rows, image_size, image_size, 3)).astype(np.uint8),
        "has_image": lot > 0.2,
        "tokens": tokens.astype(np.int32),
        "has_text": (lot < 0.2) | (lot > 0.4),
        "labels": {
            "colour": random.integers(-1, 3, rows).astype(np.int32),
            "contents": contents,
        },
        "weight": np.ones(rows, np.float32),
    }


def make_model(image: bool = True, text: bool = True, layers: int = 1, **fields) -> CMAClip:
    """A CMA-CLIP small enough to compile in a second."""
    return CMAClip(
        image=image_encoder("test/8") if image else None,
        text=text_encoder("test/8", vocabulary=VOCABULARY, end_token=VOCABULARY - 1)
        if text
        else None,
        sequence=SequenceAttention(layers=layers, heads=2, zero_output=False),
        tasks=tuple((task.name, len(task.classes)) for task in TASKS),
        **fields,
    )


def make_objective(model: CMAClip | None = None, **fields) -> Classification:
    return Classification(model=model or make_model(), tasks=TASKS, **fields)


@functools.cache
def initial(model: CMAClip):
    """Parameters for a model, drawn once for all tests."""
    return jax.jit(make_objective(model).init)(jax.random.key(0), make_batch())


@functools.partial(jax.jit, static_argnames=("model", "train", "with_maps"))
def apply(model: CMAClip, params, batch, rngs=None, train: bool = False, with_maps: bool = False):
    """`model.apply`, compiled once for every model and way of calling it."""
    return model.apply({"params": params}, batch, rngs=rngs, train=train, with_maps=with_maps)


@pytest.fixture(scope="module", autouse=True)
def _memory_goes_back():
    """Gives back the memory of a file's tests; a worker would hold it to its end.

    Programs that another file uses as well are read from the folder of compiled programs.
    """
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
    from test_encoders import hugging_face_clip, randomised

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


def small_config():
    config = base_config()
    config.data.image_size = 48
    config.data.text_length = 16
    config.data.vocabulary = 320
    config.data.shop.train_size = 64
    config.data.shop.val_size = 20
    config.data.shop.test_size = 20
    config.model.image = config.model.text = "test/8"
    config.model.sequence_layers = 1
    config.train.steps = 8
    config.train.batch_size = 8
    config.train.learning_rate = 1e-3
    config.train.log_every = 2
    config.eval.every = 4
    config.eval.batch_size = 16
    config.checkpoint.every = 2
    return config


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
