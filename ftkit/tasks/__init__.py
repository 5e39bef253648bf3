"""The tasks, one file each, and the one registry that names them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

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

    Raises SettingError for one that the task does not have.
    """
    known = [field.name for field in fields(task)]  # type: ignore[arg-type]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise SettingError(
            f'the task "{task.name}" has no option {quoted(unknown)}',
            remedy=f"It has {quoted(known, most=20)}.",
        )
    return replace(task, **options)  # type: ignore[type-var]
