"""What `ftkit check` does. Imports `check` and, for a trained model, `suspects`; `cli` calls it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftkit.checks.check import check
from ftkit.checks.opening import open_data
from ftkit.errors import SettingError
from ftkit.tasks import get_task, with_options

FOUND = 1
"""Exit code where there are errors among the findings."""


@dataclass(frozen=True)
class CheckOptions:
    """The options of the command."""

    task: str
    data: str
    checkpoint: str | None = None
    columns: Mapping[str, str | list[str]] | None = None
    group: str | None = None
    limit: int | None = None
    seed: int = 42
    batch_size: int = 32
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the task, by name."""
    json: str | None = None
    """File for the findings; "-" is standard output, in place of the table."""
    model: str | None = None
    """Folder of a trained model that doubts labels."""
    suspects: str | None = None
    """File for all labels that it doubts."""


def run_check(options: CheckOptions) -> int:
    """Print what was found, and write it where the options say; returns the exit code.

    Raises SettingError, CheckpointError or DataError as `check` and `find_suspects` do.
    """
    if options.suspects is not None and options.model is None:
        raise SettingError(
            "--suspects needs a trained model", remedy="Give it with --model DIR/model."
        )
    task = with_options(get_task(options.task), options.options)
    same: dict[str, Any] = {
        "columns": options.columns,
        "group": options.group,
        "limit": options.limit,
        "seed": options.seed,
    }
    found = check(options.data, task, options.checkpoint, batch_size=options.batch_size, **same)
    content, table = found.to_dict(), str(found)
    if options.model is not None:
        from ftkit.checks.suspects import find_suspects
        from ftkit.inference.predictor import load_model

        model = load_model(options.model)
        if model.task.name != task.name:
            raise SettingError(
                f"the model is for {model.task.name}, and the check for {task.name}",
                remedy=f"Check the rows as {model.task.name}.",
            )
        suspects = find_suspects(model, open_data(options.data, task, **same).splits)
        content["suspects"], table = suspects.to_dict(), f"{table}\n\n{suspects}"
        if options.suspects is not None:
            suspects.write(options.suspects)
    text = json.dumps(content, indent=2, ensure_ascii=False)
    if options.json is not None and options.json != "-":
        Path(options.json).write_text(f"{text}\n", "utf-8")
    print(text if options.json == "-" else table)
    return 0 if found.ok else FOUND
