"""The tasks, one file each; this is the one registry. A new task is one more line here."""

from __future__ import annotations

from ftkit.errors import SettingError
from ftkit.task import Task
from ftkit.tasks.classification import Classification

__all__ = ["TASKS", "Classification", "get_task"]

TASKS: dict[str, type[Task]] = {
    "classification": Classification,
}


def get_task(task: str | Task) -> Task:
    """The task of that name with its default options; a task is returned as it is.

    Raises SettingError for an unknown name.
    """
    if not isinstance(task, str):
        return task
    if task not in TASKS:
        raise SettingError(f'no task is called "{task}"', remedy=f"Use one of {', '.join(TASKS)}.")
    return TASKS[task]()
