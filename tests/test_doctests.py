"""Every worked example in a docstring is true, save those marked `+SKIP`, which need a model or money."""

import ast
import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(
    path for package in ("experience_store", "tfgrpo", "hybrid", "tasks") for path in (ROOT / package).rglob("*.py")
)
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def runnable(path):
    """How many lines of examples a file has that are to be run; found without importing it."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, DOCUMENTED)]
    said = [ast.get_docstring(node, clean=False) or "" for node in nodes]
    examples = [example for text in said for example in doctest.DocTestParser().get_examples(text)]
    return sum(not example.options.get(doctest.SKIP) for example in examples)


def module(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


EXAMPLES = {module(path): count for path in FILES if (count := runnable(path))}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = doctest.testmod(importlib.import_module(name))
    assert (done.failed, done.attempted) == (0, EXAMPLES[name])
