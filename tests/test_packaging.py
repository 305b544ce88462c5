"""What `pip install` brings where there is no checkout."""

import importlib.metadata
import importlib.util
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import setuptools
from support.package import PACKAGE, imports

import cmaclip_jax

ROOT = PACKAGE.parent
NAME = re.compile(r"[\w.-]+")


@pytest.fixture
def told(monkeypatch):
    """What setup.py tells setuptools."""
    found = {}
    monkeypatch.setattr(setuptools, "setup", found.update)
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(ROOT / "setup.py"))
    return found


def test_whatever_is_imported_is_declared(told):
    extras = [told["extras_require"][name] for name in ("tpu", "cuda", "beam", "serve", "onnx")]
    lines = sum(extras, told["install_requires"])
    declared = {NAME.match(line)[0].lower().replace("_", "-") for line in lines}
    homes = importlib.metadata.packages_distributions()
    files = [*PACKAGE.rglob("*.py"), *(ROOT / "configs").glob("*.py")]
    modules = {module for file in files for module in imports(file)}
    # An export carries these files beside the example that imports them.
    beside = {"byte_pairs", "model", "siglip_texts", "temperature", "titles"}
    own = {"cmaclip_jax", *beside, *sys.stdlib_module_names}
    for module in (module for module in modules if module.split(".")[0] not in own):
        if module.startswith("google.protobuf"):
            names = {"protobuf"}
        else:
            root = module.split(".")[0]
            names = {name.lower().replace("_", "-") for name in homes.get(root, [root])}
        assert names & declared, f"{module} is imported, and none of {names} is in setup.py"


def test_orbax_stays_below_the_version_that_changes_what_we_call(told):
    (line,) = [line for line in told["install_requires"] if line.startswith("orbax-checkpoint")]
    assert line.endswith(",<1")


def test_a_wheel_brings_the_configs_that_errors_point_to(tmp_path):
    source, wheels, site = (tmp_path / name for name in ("source", "wheels", "site"))
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("cmaclip_jax", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    subprocess.run([*build, f"--wheel-dir={wheels}", str(source)], check=True)
    (wheel,) = wheels.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    assert wheel.name.startswith(f"cmaclip_jax-{cmaclip_jax.__version__}-")
    for name in ("py.typed", "server/page.js", "auditing/page.js", "auditing/page.css"):
        assert (site / "cmaclip_jax" / name).exists()
    assert list(site.glob("*.dist-info/licenses/LICENSE"))
    (tmp_path / "elsewhere").mkdir()
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from cmaclip_jax import config_arguments; "
        "assert config_arguments.__file__.startswith(sys.argv[1]); "
        "read = config_arguments.read_config(['--config=configs/food101.py', '--config.seed=3']); "
        "print(read.data.source, read.seed)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(site)],
        cwd=tmp_path / "elsewhere",
        capture_output=True,
        text=True,
    )
    assert done.stdout == "food101 3\n", done.stderr


def test_a_file_of_the_current_folder_is_taken_first(tmp_path, monkeypatch):
    from cmaclip_jax.config_arguments import read_config

    monkeypatch.chdir(tmp_path)
    assert read_config(["--config=configs/food101.py"]).data.source == "food101"
    Path("configs").mkdir()
    Path("configs/food101.py").write_text(
        "from cmaclip_jax.config import base_config as get_config\n"
    )
    assert read_config(["--config=configs/food101.py"]).data.source == "shop"
