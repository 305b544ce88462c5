"""The house rules: who imports whom, and what never enters."""

import subprocess
import sys

import pytest
from support.package import PACKAGE, imports

FLOOR = {"tasks", "config", "config_arguments", "errors", "files", "screen", "process"}
MODELS = {"models", *FLOOR}
RUNS = {"data", "training", "evaluation", "parallel", "weights", *MODELS}
MAY_IMPORT = {
    "errors": set(),
    "files": set(),
    "screen": set(),
    "tasks": {"errors", "files"},
    "config": {"errors"},
    "config_arguments": {"config", "errors"},
    "models": FLOOR,
    "data": FLOOR,
    "parallel": MODELS,
    "weights": MODELS,
    "evaluation": {"parallel", *MODELS},
    "training": {"evaluation", "parallel", "weights", *MODELS},
    "runs": RUNS,
    "planning": {"runs", *RUNS},
    "measuring": {"planning", "runs", *RUNS},
    "doctor": {"planning", "runs", *RUNS},
    "serving": {"runs", *RUNS},
    "report": {"serving", "runs", *RUNS},
    "server": {"report", "serving", "runs", *RUNS},
    "studies": {"runs", *RUNS},
    "auditing": {"studies", "report", "serving", "runs", *RUNS},
    "landmarks": {"studies", "runs", *RUNS},
}


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_imports_run_one_way(room):
    files = list((PACKAGE / room).rglob("*.py")) or [PACKAGE / f"{room}.py"]
    for file in files:
        for module in imports(file):
            if module.startswith("cmaclip_jax."):
                other = module.split(".")[1]
                assert other in {room, *MAY_IMPORT[room]}, f"{file} imports {module}"


def test_only_its_commands_import_landmarks():
    names = ("landmarks.py", "landmark_noise.py", "landmark_study.py")
    own = {*(PACKAGE / "commands" / name for name in names), *(PACKAGE / "landmarks").rglob("*.py")}
    for file in set(PACKAGE.rglob("*.py")) - own:
        assert not any(
            module.startswith("cmaclip_jax.landmarks") for module in imports(file) if module
        ), file


def test_tensorflow_stays_in_data_and_torch_stays_out():
    for file in PACKAGE.rglob("*.py"):
        roots = {module.split(".")[0] for module in imports(file)}
        assert "torch" not in roots, file
        assert "data" in file.parts or not roots & {"tensorflow", "tensorflow_datasets"}, file


def test_models_and_training_load_without_tensorflow():
    code = (
        "import cmaclip_jax.models, cmaclip_jax.training, cmaclip_jax.evaluation.scores, sys; "
        "assert not {'tensorflow', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)


# What these write lies in a folder that gets its name when it is whole, or is a word for others.
IN_PLACE = ("files.py", "clip_folder.py", "writer.py", "export.py", "shared_folder.py")


def test_files_are_written_by_the_one_writer_of_whole_files():
    for file in PACKAGE.rglob("*.py"):
        if file.name not in IN_PLACE:
            assert ".write_text(" not in file.read_text(), f"{file}: use cmaclip_jax.files"
