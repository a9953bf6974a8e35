"""The shape of the code: who imports whom, what is loaded when, how long things are. Broken here means: move it."""

import ast
import graphlib
import subprocess
import sys
from functools import cache
from pathlib import Path

import grimp
import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parent.parent
PACKAGES = ("experience_store", "tfgrpo", "hybrid", "tasks")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_ARGUMENTS = 12
LIGHT = (
    "numpy",
    "torch",
    "chromadb",
    "litellm",
    "openai",
    "transformers",
    "pydantic",
    "aiohttp",
    "sentence_transformers",
)

# Where each heavy package may be imported, and whether at the top of the module (which is then loaded lazily itself).
HOMES = {
    "chromadb": {"experience_store.chroma"},
    "litellm": {"tfgrpo.policy.litellm"},
    "openai": {"tfgrpo.policy.openai_compatible", "tfgrpo.policy.litellm"},
    "torch": {
        "experience_store.embed",
        "tfgrpo.policy.local_attention",
        "tfgrpo.policy.local_engine",
        "tfgrpo.policy.packed_linear",
        "tfgrpo.policy.local_loading",
        "tfgrpo.policy.packaged_models",
    },
    "transformers": {"experience_store.embed", "tfgrpo.policy.local_attention", "tfgrpo.policy.local_loading"},
    "sentence_transformers": {"experience_store.embed"},
    "gguf": {"tfgrpo.policy.packaged_models"},
    "safetensors": {"tfgrpo.policy.packaged_models"},
    "tokenizers": {"tfgrpo.policy.packaged_models"},
    "math_verify": {"tfgrpo.rewards.math_worker"},
    "jsonschema": {"tfgrpo.rewards.json_schema"},
    "sqlglot": {"tfgrpo.rewards.sql_worker"},
    "pyarrow": {"tfgrpo.problem_files"},
    "vllm": set(),
    "prometheus_client": {"tfgrpo.serving.metrics"},
    "opentelemetry": {"tfgrpo.serving.tracing"},
    "datasets": {"tasks._hub"},
    "huggingface_hub": {"tasks._hub"},
    "tensorboard": set(),
    "wandb": {"hybrid.trackers"},
}
LOADED_LAZILY = {
    f"tfgrpo.policy.{name}" for name in ("local_attention", "local_engine", "local_loading", "packed_linear")
}
TRAINING = {"torch", "transformers", "safetensors"}  # what hybrid is made of, but for the modules that only set it up
LIGHT_MODULES = (
    *("api", "command", "distill", "folders", "html_report", "html_rollouts", "identity", "progress", "quantities"),
    *("recipes", "report", "retire_command", "routing", "settings", "train_story"),
)
LIGHT_SAFETY = ("calibrate", "data", "report", "scorer", "scores", "settings", "split")
LIGHT_HYBRID = {
    *("hybrid", "hybrid.safety", "hybrid.safety_command", "hybrid.watch"),
    *(f"hybrid.{name}" for name in LIGHT_MODULES),
    *(f"hybrid.safety.{name}" for name in LIGHT_SAFETY),
}


@cache
def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def graph():
    return grimp.build_graph(
        *PACKAGES, include_external_packages=True, exclude_type_checking_imports=True, cache_dir=None
    )


def module(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def trains(name):
    return name.startswith("hybrid.") and name not in LIGHT_HYBRID


def functions(path):
    return [node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def length(function):
    """Lines without the docstring: a formula and its source are worth their lines."""
    docstring = 0
    first = function.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        docstring = first.end_lineno - first.lineno + 1
    return function.end_lineno - function.lineno + 1 - docstring


def arguments(function):
    names = [a.arg for a in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
    return [name for name in names if name not in ("self", "cls")]


def top_level_imports(path):
    """Names of packages that are imported when the module is."""
    names = set()
    for node in tree(path).body:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def where(found):
    return "\n".join(found)


def test_layers_hold(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert lint_imports(cache_dir=None) == 0, capsys.readouterr().out


def test_modules_import_each_other_in_one_direction_lazy_imports_included():
    own = [name for name in graph().modules if name.partition(".")[0] in PACKAGES]
    edges = {name: {i for i in graph().find_modules_directly_imported_by(name) if i in own} for name in own}
    try:
        graphlib.TopologicalSorter(edges).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def test_tfgrpo_knows_neither_tasks_nor_hybrid():
    found = [
        f"{module(path)}:{node.lineno} {node.value}"
        for path in FILES
        if path.is_relative_to(ROOT / "tfgrpo")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if node.value.startswith(("tasks.", "hybrid.")) or node.value in ("hybrid",)
    ]
    assert not found, where(found)  # imports are held by the layers; this is for names given to import_module


@pytest.mark.parametrize("package", HOMES)
def test_heavy_packages_are_imported_in_listed_places_only(package):
    users = graph().find_modules_that_directly_import(package) if package in graph().modules else set()
    trainers = {user for user in users if package in TRAINING and trains(user)}
    assert users - trainers <= HOMES[package]


@pytest.mark.parametrize("path", FILES, ids=module)
def test_heavy_packages_are_imported_inside_functions(path):
    if module(path) not in LOADED_LAZILY:
        assert not top_level_imports(path) & (set(HOMES) - (TRAINING if trains(module(path)) else set()))


@pytest.mark.parametrize("path", FILES, ids=module)
def test_sizes(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_FILE_LINES, f"{path.name}: {lines} lines"
    long = [f"{f.name}:{f.lineno} has {length(f)} lines" for f in functions(path) if length(f) > MAX_FUNCTION_LINES]
    assert not long, where(long)


def test_the_median_function_is_short():
    sizes = sorted(length(f) for path in FILES for f in functions(path))
    assert sizes[len(sizes) // 2] <= 12


@pytest.mark.parametrize("path", FILES, ids=module)
def test_public_functions_take_few_keyword_arguments(path):
    many = [
        f"{f.name}:{f.lineno} takes {len(f.args.kwonlyargs)}"
        for f in functions(path)
        if not f.name.startswith("_") and len(f.args.kwonlyargs) > MAX_ARGUMENTS
    ]
    assert not many, where(many)


def test_only_recorded_catches_everything():
    """`except BaseException` that raises again, to clean up, is no catching; `recorded` itself needs no `except`."""
    found = []
    for path in FILES:
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.ExceptHandler):
                continue
            caught = {n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)} if node.type else {"everything"}
            raises = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
            if caught & {"Exception", "BaseException", "everything"} and not raises:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not found, where(found)


def works(node):
    """Whether a statement of a module does more than name something."""
    if isinstance(node, ast.If):
        guards = {ast.unparse(node.test)} & {"TYPE_CHECKING", "__name__ == '__main__'"}
        return not guards and any(works(inner) for inner in (*node.body, *node.orelse))
    if isinstance(node, ast.Expr):
        return not isinstance(node.value, ast.Constant)
    names = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    return not isinstance(node, names)


@pytest.mark.parametrize("path", FILES, ids=module)
def test_modules_do_no_work_when_imported(path):
    if module(path) in LOADED_LAZILY:
        return
    assert not [f"line {node.lineno}: {ast.unparse(node)[:80]}" for node in tree(path).body if works(node)]


@pytest.mark.parametrize("name", ["tfgrpo", "experience_store", "tfgrpo.policy", "tfgrpo.types", "hybrid", "tasks"])
def test_importing_loads_nothing_heavy_and_leaves_no_trace(name, tmp_path):
    program = f"""
import os, sys, threading
before, here = dict(os.environ), set(os.listdir())
import {name}
loaded = sorted(set({LIGHT!r}) & set(sys.modules))
assert not loaded, f"import {name} loads {{loaded}}"
assert dict(os.environ) == before, "the environment was changed"
assert set(os.listdir()) == here, "a file was written"
assert threading.active_count() == 1, "a thread was started"
"""
    done = subprocess.run([sys.executable, "-B", "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_every_module_has_a_docstring():
    bare = [module(path) for path in FILES if not ast.get_docstring(tree(path)) and path.stat().st_size]
    assert not bare, where(bare)


def test_all_packages_are_typed_and_shipped():
    assert all((ROOT / package / "py.typed").exists() for package in PACKAGES)


def test_no_test_imports_litellm_by_itself():
    """Imported bare it asks the network for prices, in a thread that warns seconds later, in another test."""
    for path in sorted((ROOT / "tests").rglob("*.py")):
        text = path.read_text("utf-8")
        assert "importorskip(" + '"litellm"' not in text and "\nimport litellm" not in text, path
