"""task.json -> the task, what it saw at most, and what lies under an adapter.

A stranger may have written it: every option is held against the type that the task declares.
Imports `errors`, `model.trust` and the registry of tasks; `bundle` calls it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ftkit.errors import CheckpointError, FtkitError, first_line
from ftkit.model.trust import TASK_FILE, read_json
from ftkit.task import Task
from ftkit.tasks import TASKS

FORMAT = 1
_LEAST = 8  # tokens: no task's max_length may be less, to have room for special tokens and a text
_MOST = 10**7  # no option counts more: tokens, beams, rows to validate
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def read_task(folder: Path) -> tuple[Task, int, str | None]:
    """The task of a bundle, its limit in tokens, and the checkpoint under its adapter, or None.

    Raises CheckpointError for a folder without a task.json, and for one that ftkit did not write,
    or a later version did.
    """
    file = folder / TASK_FILE
    if not file.exists():
        inner = folder / "model"
        hint = f'Did you mean "{inner}"?' if (inner / TASK_FILE).exists() else ""
        raise CheckpointError(
            f'"{folder}" is no ftkit model: it has no {TASK_FILE}',
            remedy=hint or "Give the folder that ftkit.save or `ftkit train` wrote.",
        )
    settings = read_json(file)
    try:
        if settings.get("format") != FORMAT:
            raise ValueError(f"format {settings.get('format')!r}")
        limit, task = settings.get("limit"), _build(settings.get("task"), settings.get("options"))
        if not isinstance(limit, int) or not _fits(limit, int) or limit < _LEAST:
            raise ValueError(f"limit is {limit!r}")
        return task, limit, _check_base(settings.get("base"))
    except (FtkitError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f'the {file.name} of "{file.parent}" cannot be read ({first_line(error)})',
            remedy="Save the model again with this version of ftkit.",
        ) from None


def _build(name: Any, options: Any) -> Task:
    if not isinstance(name, str) or name not in TASKS:
        raise ValueError(f"no task is called {name!r}")
    kind = TASKS[name]
    hints = get_type_hints(kind)
    known = {field.name: hints[field.name] for field in fields(kind)}  # type: ignore[arg-type]
    if not isinstance(options, dict):
        raise ValueError("options are no object")
    for option, value in options.items():
        if option not in known:
            raise ValueError(f"{name} has no option {option!r}")
        if not _fits(value, known[option]):
            raise ValueError(f"{option} is {value!r}")
    return kind(**options)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of JSON is what a type says; a list stands for a tuple."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return any(_fits(value, each) for each in inner)
    if kind is Literal:
        return isinstance(value, str) and value in inner
    if kind is tuple:
        return isinstance(value, list) and all(_fits(each, inner[0]) for each in value)
    if kind is Mapping:
        return isinstance(value, dict) and all(_fits(each, inner[1]) for each in value.values())
    if kind in (int, float):
        whole = isinstance(value, int) and not isinstance(value, bool)
        return (whole or (kind is float and isinstance(value, float))) and abs(value) <= _MOST
    return isinstance(value, {str: str, bool: bool, NoneType: NoneType}[kind])


def _check_base(base: Any) -> str | None:
    """The checkpoint under an adapter: a hub id, or where it lies on this machine.

    ftkit writes a path in full. One that goes up, or from wherever ftkit is started, could reach
    what its writer never saw, and a share of another machine would be told who opens it.
    """
    if base is None:
        return None
    if isinstance(base, str):
        path = Path(base)
        is_whole = (
            path.is_absolute() and ".." not in path.parts and not base.startswith(("//", "\\\\"))
        )
        if is_whole or _HUB_ID.fullmatch(base):
            return base
    raise ValueError(f"base is {base!r}, neither a hub id nor the full path of a folder")
