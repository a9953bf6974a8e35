"""The tasks that installed packages offer, in a line each."""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass
from typing import Any

from tfgrpo.errors import TfgrpoError
from tfgrpo.task import Task, check_origin, load_task, task_entries

GRADER_ONLY = "grader only"


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskLine:
    """`setting` is the model and setting whose base score lies in 0.1..0.9, or "grader only"."""

    name: str
    about: str
    setting: str


def list_tasks() -> list[TaskLine]:
    """Every named task; problems that come from elsewhere (a parameter `data`) are not fetched for it."""
    return [_line(name) for name in task_entries()]


def _line(name: str) -> TaskLine:
    entry = task_entries()[name]
    try:
        check_origin(entry)
    except TfgrpoError as error:
        return TaskLine(name=name, about=f"cannot be loaded: {error}", setting="")
    found = entry.load()
    module = sys.modules.get(getattr(found, "__module__", ""), None)
    about = (inspect.getdoc(module) or inspect.getdoc(found) or "").partition("\n")[0]
    return TaskLine(name=name, about=about, setting=_setting(name, found))


def _setting(name: str, found: Any) -> str:
    if not isinstance(found, Task) and "data" in inspect.signature(found).parameters:
        return GRADER_ONLY
    try:
        task = load_task(name)
    except TfgrpoError as error:
        return f"cannot be loaded: {error}"
    return task.setting or GRADER_ONLY
