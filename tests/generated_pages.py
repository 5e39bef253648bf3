"""Pages of the reference that are made from the code itself, so that they cannot drift from it."""

from __future__ import annotations

import argparse
import ast
import inspect
import textwrap
from dataclasses import MISSING, Field, fields
from html import escape
from typing import Any

from ftkit.cli import _parser
from ftkit.tasks import TASKS

_WRITTEN = "Written by `FTKIT_WRITE=1 pytest tests/test_docs.py`, and compared by it on every run."


def command_line() -> str:
    """Every command of `ftkit`, from the parser's own help."""
    parts = ["# Command line", f"<!-- {_WRITTEN} -->", _EXIT_CODES]
    commands = next(
        action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction)
    )
    helps = {choice.dest: choice.help for choice in commands._choices_actions}
    for name, command in commands.choices.items():
        said = command.description or helps[name] or ""
        parts.append(f"## ftkit {name}\n\n{said[0].upper()}{said[1:].rstrip('.')}.")
        rows = [_argument(each) for each in command._actions if each.dest != "help"]
        parts.append(_table(("argument", "what it is"), rows))
    return "\n\n".join(parts) + "\n"


_EXIT_CODES = (
    "`ftkit --version` says the version. Numbers in brackets are defaults. Exit codes: 0, or 2 for "
    "a mistake of yours, which is told in one line; 1 for what went wrong otherwise; 128 and the "
    "signal's number where it was stopped."
)


def _argument(action: argparse.Action) -> tuple[str, str]:
    shown = ", ".join(action.option_strings)
    if action.choices is not None:
        shown = f"{shown} {'|'.join(action.choices)}"
    elif action.nargs != 0:
        shown = f"{shown} {action.metavar}"
    # In a table's cell, a bar ends code in backquotes for some readers and not for others.
    return f"<code>{escape(shown.strip()).replace('|', '&#124;')}</code>", action.help or ""


def task_options() -> str:
    """Every option of every task, from its dataclass."""
    parts = [
        "# Options of the tasks",
        f"<!-- {_WRITTEN} -->",
        "In Python they are arguments of the task: `ftkit.NER(stride=32)`. In a shell: "
        "`--option stride=32`. Those with a dot in the last column may be others for one call of a "
        "trained model: `model.predict(rows, stride=16)`. Of `max_length` a call may give no more "
        "than the model was trained with.",
    ]
    for name, task in TASKS.items():
        said = _field_docs(task)
        # Of a task that knows nothing yet; several labels have a threshold besides.
        free = {*task().settings, "threshold"}
        rows = [
            (f"`{field.name}`", _default(field), said[field.name], "•" * (field.name in free))
            for field in fields(task)  # type: ignore[arg-type]
        ]
        parts.append(f"## {name}\n\n`ftkit.{task.__name__}`")
        parts.append(_table(("option", "default", "what it is", "a call"), rows))
    return "\n\n".join(parts) + "\n"


def _default(field: Field[Any]) -> str:
    value = field.default if field.default is not MISSING else field.default_factory()  # type: ignore[misc]
    return f"`{value!r}`"


def _field_docs(task: type) -> dict[str, str]:
    """The sentence below each field of a dataclass, those of its bases too."""
    found: dict[str, str] = {}
    for each in reversed(task.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(each))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, below in zip(body.body, body.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                assert isinstance(field.target, ast.Name)
                said = ast.literal_eval(below.value)
                found[field.target.id] = " ".join(said.split())
    return found


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    cells = [head, ("---",) * len(head), *rows]
    assert not any("|" in cell for row in cells for cell in row)
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)
