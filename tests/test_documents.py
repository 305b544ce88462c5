"""What the documents name is there: files, verbs, flags and config fields."""

import contextlib
import functools
import importlib
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cmaclip_jax.config import field_paths
from cmaclip_jax.landmarks.config import landmark_config
from cmaclip_jax.main import VERBS

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [
    ROOT / "README.md",
    *(
        path
        for folder in ("configs", "launch", "cmaclip_jax", "tests")
        for path in sorted((ROOT / folder).rglob("*.md"))
    ),
]
CODE = re.compile(r"```.*?```|`[^`]+`", re.DOTALL)
FILE = re.compile(r"(?<![\w/.$])(?:[\w.-]+/)*[\w-]+\.(?:py|md|yaml|toml)\b|\blaunch/\w+")
SYMBOL = re.compile(r"`(\w+)`\s+in\s+`([\w/]+\.py)`")
LINK = re.compile(r"(?:\]\(|<img src=\")([^)#:\"]+)(#[\w-]+)?[)\"]")
VERB = re.compile(r"(?:cmaclip|cmaclip_jax\.main|(?<=run -- )) ?(landmarks \w+|[a-z]\w*)?(.*)")
SCRIPT = re.compile(r"python (tests/benchmarks/\w+\.py)(.*)")
FLAG = re.compile(r"(?<![\w-])--([a-z][\w-]*)(?!\w*\.)")
FIELD = re.compile(r"--config\.([\w.]+)")
MADE = {"served/example.py", "study.md"}  # by commands of the same document
EVERYWHERE = {"config", "cluster", "debug"}  # `main` reads them, or all verbs that have a config

of_every_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)


def code(document: Path) -> str:
    """All that stands in code, one command a line."""
    found = "\n".join(CODE.findall(document.read_text()))
    return found.replace("\\\n", " ")


@functools.cache
def help_of(verb: str) -> str:
    module = importlib.import_module(f"cmaclip_jax.commands.{verb.split()[0]}")
    text = io.StringIO()
    with contextlib.redirect_stdout(text), pytest.raises(SystemExit):
        module.run([*verb.split()[1:], "--help"])
    return text.getvalue()


def flags(words: str) -> set[str]:
    """The flags before a pipe, a comment or the end of the command, but for config fields."""
    return set(FLAG.findall(re.split(r"[`#;]", words)[0]))


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 170


@of_every_document
def test_named_files_exist(document):
    homes = (ROOT, document.parent, ROOT / "cmaclip_jax")
    for name in set(FILE.findall(code(document))) - MADE:
        assert any((home / name).exists() for home in homes), f"{document}: {name}"
    for target, anchor in LINK.findall(document.read_text()):
        path = document.parent / target
        assert path.exists(), f"{document}: {target}"
        if anchor:
            titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            assert anchor[1:] in {re.sub(r"[^\w]+", "-", title.lower()) for title in titles}


@of_every_document
def test_named_functions_and_classes_are_where_they_are_said_to_be(document):
    for name, file in SYMBOL.findall(document.read_text()):
        text = (document.parent / file).read_text()
        assert re.search(rf"^(class |def )?{name}\b", text, re.MULTILINE), f"{file}: {name}"


@of_every_document
def test_named_verbs_and_flags_exist(document):
    for verb, words in VERB.findall(code(document)):
        if verb and verb.split()[0] in VERBS:
            missing = flags(words) - set(FLAG.findall(help_of(verb))) - EVERYWHERE
            assert not missing, f"{document}: cmaclip {verb} has no {missing}"


@of_every_document
def test_named_fields_exist(document):
    known = set(field_paths(landmark_config()))
    for field in FIELD.findall(code(document)):
        assert field in known | {"FIELD"}, f"{document}: config.{field}"


@of_every_document
def test_flags_of_named_scripts_exist(document):
    for script, words in SCRIPT.findall(code(document)):
        text = (ROOT / script).read_text()
        for flag in flags(words) - EVERYWHERE:
            assert f'"--{flag}"' in text, f"{document}: {script} has no --{flag}"


def test_every_launch_script_has_help():
    for script in ("tpu_vm", "gke", "slurm", "local_pod"):
        command = [ROOT / "launch" / script, "--help"]
        if script == "local_pod":
            command = [sys.executable, *command]
        assert subprocess.run(command, capture_output=True, check=True).stdout
