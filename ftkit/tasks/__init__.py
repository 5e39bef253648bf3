"""The tasks, one file each, and the one registry that names them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ftkit.errors import SettingError, quoted
from ftkit.task import Task
from ftkit.tasks.classification import Classification
from ftkit.tasks.language_modeling import LanguageModeling
from ftkit.tasks.ner import NER
from ftkit.tasks.qa import QuestionAnswering
from ftkit.tasks.summarization import Summarization
from ftkit.tasks.translation import Translation

__all__ = [
    "NER",
    "TASKS",
    "Classification",
    "LanguageModeling",
    "QuestionAnswering",
    "Summarization",
    "Translation",
    "get_task",
    "with_options",
]

TASKS: dict[str, type[Task]] = {
    "classification": Classification,
    "ner": NER,
    "qa": QuestionAnswering,
    "summarization": Summarization,
    "translation": Translation,
    "language_modeling": LanguageModeling,
}


def get_task(task: str | Task) -> Task:
    """The task of that name with its default options; a task itself is given back.

    Raises SettingError for a name that is none.
    """
    if not isinstance(task, str):
        return task
    if task not in TASKS:
        raise SettingError(
            f'no task is called "{task}"', remedy=f"Use one of {quoted(list(TASKS))}."
        )
    return TASKS[task]()


def with_options(task: Task, options: Mapping[str, Any]) -> Task:
    """The task with options of its own set by name.

    Raises SettingError for one that the task does not have, or whose value is of another type.
    """
    known = [field.name for field in fields(task)]  # type: ignore[arg-type]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise SettingError(
            f'the task "{task.name}" has no option {quoted(unknown)}',
            remedy=f"It has {quoted(known, most=20)}.",
        )
    hints = get_type_hints(type(task))
    for name, value in options.items():
        if not _fits(value, hints[name]):
            raise SettingError(f"{name} is {value!r}", remedy=f"Give {_describe(hints[name])}.")
    return replace(task, **options)  # type: ignore[type-var]


_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of an option's type; which texts there are to choose from is the task's
    own business.
    """
    origin, members = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, each) for each in members)
    if origin is Literal:
        return isinstance(value, str)
    if origin is tuple:
        is_list = isinstance(value, (list, tuple))
        return is_list and all(_fits(each, members[0]) for each in value)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(_fits(v, members[1]) for v in value.values())
    if isinstance(value, bool) or hint is bool:
        return hint is bool and isinstance(value, bool)
    return isinstance(value, (int, float) if hint is float else hint)


def _describe(hint: Any) -> str:
    origin, members = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_describe(each) for each in members))
    if origin is Literal:
        return " or ".join(f'"{each}"' for each in members)
    if origin is tuple:
        return f"a list, each of them {_describe(members[0])}"
    if origin is Mapping:
        return f"names and values, each of them {_describe(members[1])}"
    return "nothing" if hint is type(None) else _NAMES[hint]
