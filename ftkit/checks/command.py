"""What `ftkit check` does. Imports `check` and, for a trained model, `suspects`; `cli` calls it."""

from __future__ import annotations

import json
import tomllib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftkit.checks.check import check
from ftkit.checks.opening import open_data
from ftkit.errors import FtkitWarning, SettingError
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
    seed: int | None = None
    """None, for these three, is what the run of `model` had, else no group, all rows and 42."""
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
    run = _run_of(options)
    given = {"group": options.group, "limit": options.limit, "seed": options.seed}
    same: dict[str, Any] = {"columns": options.columns, "seed": 42, **run}
    same |= {name: value for name, value in given.items() if value is not None}
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
        splits = open_data(options.data, task, **same).splits
        # A limit is drawn of each split, and moves no row to another.
        changed = [name for name in ("seed", "group") if run and same[name] != run[name]]
        if changed and "validation" in splits and splits["validation"].origin == "train":
            warnings.warn(
                f"the model's run had another {' and '.join(changed)}, and held out other rows "
                "for validation: it was trained on some that are judged here",
                FtkitWarning,
                stacklevel=2,
            )
        suspects = find_suspects(model, splits)
        content["suspects"], table = suspects.to_dict(), f"{table}\n\n{suspects}"
        if options.suspects is not None:
            suspects.write(options.suspects)
    text = json.dumps(content, indent=2, ensure_ascii=False)
    if options.json is not None and options.json != "-":
        Path(options.json).write_text(f"{text}\n", "utf-8")
    print(text if options.json == "-" else table)
    return 0 if found.ok else FOUND


def _run_of(options: CheckOptions) -> dict[str, Any]:
    """What the model's run divided these data by; empty where it had others, or is not known.

    Raises SettingError for a run.toml that cannot be read.
    """
    file = Path(options.model or "").resolve().parent / "run.toml"
    if options.model is None or not file.is_file():
        return {}
    try:
        run = tomllib.loads(file.read_text(encoding="utf-8")).get("run")
        # Folders move, so that whole paths would not do.
        if run is None or Path(run["data"]).name != Path(options.data).name:
            return {}
        return {"seed": run["seed"], "limit": run.get("limit"), "group": run.get("group")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingError(
            f'"{file}" cannot be read as the settings of a run ({error})',
            remedy="Move the model out of that folder.",
        ) from None
