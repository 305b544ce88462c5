"""The source files of the package, and what they import."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "cmaclip_jax"


def imports(path: Path):
    """Every module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
