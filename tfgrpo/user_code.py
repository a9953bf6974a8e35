"""Loading a function that the user names as "module:function" or "path/file.py:function"."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from tfgrpo.errors import InputError, TfgrpoError, unknown_name


class _Explained:
    """Turns whatever a user's module raises while it is loaded into one message with file and line."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, TfgrpoError):
            raise InputError(f"{self.what}: {type(error).__name__}: {error}{_where(error)}") from error


def _where(error: Exception) -> str:
    if isinstance(error, SyntaxError):
        return ""  # its own text names file and line
    own = [
        f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename and f.filename != __file__
    ]
    return f" ({own[-1].filename}:{own[-1].lineno})" if own else ""


def load_object(spec: str, *, kind: str) -> Any:
    """The object named by "module:function"; the current folder is searched first.

    Raises:
        InputError: no such module or function (near names are listed), or the module raised while loading.
    """
    where, _, name = spec.partition(":") if not spec.lower().startswith(("./", "/")) else spec.rpartition(":")
    if not where or not name:
        raise InputError(f"{kind} {spec!r}: expected 'module:function' or 'file.py:function'")
    module = _module(where, f"{kind} {spec!r} could not be loaded")
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            known = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
            raise unknown_name(f"{kind} in {getattr(module, '__file__', where)}", name, known)
        found = getattr(found, part)
    return found


def _module(where: str, what: str) -> ModuleType:
    if where.endswith(".py"):
        return _module_of_file(Path(where), what)
    here = str(Path.cwd())
    with _Explained(what), _first_on_path(here):
        return importlib.import_module(where)


def _module_of_file(path: Path, what: str) -> ModuleType:
    if not path.is_file():
        raise InputError(f"{what}: there is no file {path}")
    path = path.resolve()
    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{what}: {path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with contextlib.ExitStack() as undo:
        undo.callback(sys.modules.pop, name, None)
        with _Explained(what), _first_on_path(str(path.parent)):
            spec.loader.exec_module(module)
        undo.pop_all()
    return module


@contextlib.contextmanager
def _first_on_path(folder: str) -> Iterator[None]:
    """The folder is searched first while a module of the user loads, and last from then on for its late imports."""
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
        if folder not in sys.path:
            sys.path.append(folder)
