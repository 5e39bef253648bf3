"""A source -> its rows, though a part of them may be broken: what cannot be read is a finding.

    source --read--> parts --name--> parts --leave out--> SplitRows --divide--> SplitRows

`load_data` stops at the first thing that no training can use; here that becomes a finding, the
rows that have it are left out, and the others are looked at. Imports `data` and the checks of
rows; `check` calls it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import DatasetDict

from ftkit.checks.finding import Example, Finding, SplitRows, refused
from ftkit.checks.tasks import CHECKS
from ftkit.checks.texts import find_unreadable
from ftkit.data import files
from ftkit.data.check import check_rows
from ftkit.data.columns import ColumnMap, check_map
from ftkit.data.faults import shorten
from ftkit.data.files import find_splits
from ftkit.data.memory import table_from_rows
from ftkit.data.parts import Part, Source, digest, keep_rows, open_source, to_datasets
from ftkit.data.pieces import open_rows
from ftkit.data.sources import divide, locate, name_columns
from ftkit.errors import DataError, FtkitWarning
from ftkit.task import Task

_NUMBER = "ftkit_row"  # the column that remembers where a row stood in the user's own data
_PIECE = 4096  # rows of a broken file that are read at once


@dataclass(frozen=True)
class Opened:
    """What could be read of a source."""

    splits: dict[str, SplitRows]
    task: Task | None
    """The task with its labels; None where the rows cannot train it."""
    findings: list[Finding]
    unread: dict[str, int] = field(default_factory=dict)
    """The rows of splits of which none can be read."""


def open_data(
    source: Source,
    task: Task,
    *,
    columns: ColumnMap | None = None,
    group: str | None = None,
    limit: int | None = None,
    seed: int = 42,
) -> Opened:
    """The rows of a source as a training would see them, and what is wrong with the others.

    Raises DataError for a path or hub id that is not there, and SettingError for a column map
    that the task cannot follow.
    """
    columns = check_map(columns, task.columns())
    read = _read(source, task)
    named, found, refusals = _named(read.parts, task, columns)
    findings = [*read.findings, *refusals]
    named = {split: _numbered(part, read.numbers.get(split)) for split, part in named.items()}
    splits = {split: _as_rows(split, part, task, split) for split, part in named.items()}
    kept, left_out = _leave_out(splits, named, task)
    findings += left_out
    lost = {split: len(splits[split]) - part.table.num_rows for split, part in kept.items()}
    unread = {s: part.table.num_rows for s, part in read.parts.items() if s not in kept}
    if "train" not in kept:
        if not any(each.level == "error" for each in findings):
            findings.append(refused(_no_train(read.parts)))
        return Opened(_all_rows(kept, lost, task), None, findings, unread)
    try:
        with warnings.catch_warnings():
            # What these warn of is found again, with its rows.
            warnings.simplefilter("ignore", FtkitWarning)
            data = to_datasets(kept)
            check_rows(data, task.columns())
            fitted = task.with_labels(data)
        if group is not None:
            group = next((name for name, theirs in found.items() if theirs == group), group)
        divided, said = divide(kept, fitted, group=group, limit=limit, seed=seed)
    except DataError as error:
        known = {(each.split, each.column) for each in findings if each.level == "error"}
        if (error.split, error.column) not in known:
            if error.row is not None and error.split in kept:
                number = kept[error.split].table.column(_NUMBER)[error.row - 1]
                error = error.located(row=number.as_py())
            findings.append(refused(locate(error, named, found)))
        return Opened(_all_rows(kept, lost, task), None, findings, unread)
    if said is not None:
        remedy = "Bring a validation split where another one is wanted."
        findings.append(Finding("note", "splits", said, remedy, split="validation"))
    return Opened(_all_rows(divided, lost, fitted), fitted, findings, unread)


def opened(data: DatasetDict, task: Task) -> Opened:
    """The same of rows that `load_data` gave; `task` knows their labels."""
    parts = {str(split): rows for split, rows in data.items()}
    splits = {
        split: SplitRows(split, rows, task, np.arange(1, len(rows) + 1), split)
        for split, rows in parts.items()
    }
    return Opened(splits, task, [])


# Reading


@dataclass
class _Read:
    """The parts of a source that can be read."""

    parts: dict[str, Part] = field(default_factory=dict)
    numbers: dict[str, np.ndarray] = field(default_factory=dict)
    """The numbers of the rows of a part that lacks some, from 1."""
    findings: list[Finding] = field(default_factory=list)


def _read(source: Source, task: Task) -> _Read:
    """Broken files are read again row by row."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FtkitWarning)
        try:
            read = _Read(open_source(source, needs_train=False))
        except DataError as error:
            if not isinstance(source, (str, Path)) or not Path(source).expanduser().exists():
                raise
            read = _read_broken(Path(source).expanduser(), task, error)
    said = [each.message for each in caught if issubclass(each.category, FtkitWarning)]
    remedy = "Name it train, validation or test to have it read."
    read.findings += [Finding("note", "left_out", str(message), remedy) for message in said]
    return read


def _read_broken(path: Path, task: Task, error: DataError) -> _Read:
    """What can be read of a file, or of a folder's files."""
    if path.is_file():
        by_split = {"train": [path]}
    else:
        try:
            by_split = find_splits(path)
        except DataError:
            return _Read(findings=[refused(error)])
    read = _Read()
    for split, paths in by_split.items():
        try:
            read.parts |= open_source({split: list(paths)}, needs_train=False)
        except DataError as broken:
            if not _read_rows(split, paths, task, read):
                read.findings.append(refused(broken.located(split=split)))
    return read


def _read_rows(split: str, paths: list[Path], task: Task, read: _Read) -> bool:
    """Add the rows of a single text file that can be read, and the finding of the others.

    False where that cannot be.
    """
    if len(paths) > 1 or paths[0].suffix.lower() not in (".csv", ".tsv", ".jsonl"):
        return False
    rows: list[Mapping[str, Any]] = []
    numbers: list[int] = []
    errors: list[tuple[int, DataError]] = []
    try:
        for piece in open_rows(str(paths[0]), task).pieces(_PIECE):
            errors += [(piece.first + place + 1, each) for place, each in piece.errors.items()]
            for place, row in enumerate(piece.rows()):
                if place not in piece.errors:
                    rows.append(row)
                    numbers.append(piece.first + place + 1)
        table = table_from_rows(rows, file=str(paths[0]))
    except DataError:
        return False
    if not errors or not rows:
        return False
    examples = tuple(Example(split, row, shorten(each.problem, 120)) for row, each in errors[:3])
    total = len(rows) + len(errors)
    found = Finding(
        "error",
        "unreadable_rows",
        f"{paths[0].name}: {len(errors):,} of {total:,} rows cannot be read; the first because "
        f"{errors[0][1].problem}",
        errors[0][1].remedy,
        len(errors),
        total,
        split,
        None,
        examples,
    )
    read.findings.append(found)
    read.numbers[split] = np.array(numbers)
    origins = ((str(paths[0]), total),)
    read.parts[split] = Part(table, origins, None, files.is_untyped(paths[0]))
    return True


def _numbered(part: Part, numbers: np.ndarray | None) -> Part:
    """The part with the number of each row; all its rows are there where none are given."""
    numbers = np.arange(1, part.table.num_rows + 1) if numbers is None else numbers
    table = part.table.append_column(_NUMBER, pa.array(numbers, pa.int64()))
    # No cache is asked for such rows: a name of its own spares hashing them.
    return replace(part, table=table, fingerprint=digest(_NUMBER))


# Columns and rows


def _named(
    parts: dict[str, Part], task: Task, columns: ColumnMap
) -> tuple[dict[str, Part], dict[str, Any], list[Finding]]:
    """The parts that have the columns, under the task's names; a finding for each other one."""
    good: dict[str, Part] = {}
    findings = []
    for split, part in parts.items():
        try:
            name_columns({split: part}, task.columns(), columns)
            good[split] = part
        except DataError as error:
            findings.append(refused(locate(error, parts, {})))
    if not good:
        return {}, {}, findings
    named, found = name_columns(good, task.columns(), columns)
    return named, found, findings


def _as_rows(split: str, part: Part, task: Task, origin: str, unreadable: int = 0) -> SplitRows:
    rows = to_datasets({split: part})[split]
    numbers = part.table.column(_NUMBER).to_numpy()
    return SplitRows(split, rows.remove_columns([_NUMBER]), task, numbers, origin, unreadable)


def _leave_out(
    splits: Mapping[str, SplitRows], named: Mapping[str, Part], task: Task
) -> tuple[dict[str, Part], list[Finding]]:
    """The parts without the rows that no training can use, and the findings of these."""
    checks = CHECKS[task.name]
    findings: list[Finding] = []
    usable: dict[str, SplitRows] = {}
    kept: dict[str, Part] = {}
    for split, rows in splits.items():
        found, is_bad = find_unreadable(rows)
        findings += found
        if is_bad.all():
            continue
        part = keep_rows(named[split], ~is_bad) if is_bad.any() else named[split]
        rows = _as_rows(split, part, task, split) if is_bad.any() else rows
        found, is_bad = checks.unusable(rows)
        findings += found
        if is_bad.all():
            continue
        kept[split] = keep_rows(part, ~is_bad) if is_bad.any() else part
        usable[split] = _as_rows(split, kept[split], task, split) if is_bad.any() else rows
    found_unknown, unknown = checks.unknown(usable)
    findings += found_unknown
    for split, is_bad in unknown.items():
        if is_bad.all():
            del kept[split]
        elif is_bad.any():
            kept[split] = keep_rows(kept[split], ~is_bad)
    return kept, findings


def _all_rows(
    parts: Mapping[str, Part], lost: Mapping[str, int], task: Task
) -> dict[str, SplitRows]:
    """The parts as rows; those of a split that the user did not bring come from train."""
    return {
        split: _as_rows(split, part, task, split if split in lost else "train", lost.get(split, 0))
        for split, part in parts.items()
    }


def _no_train(parts: Mapping[str, Part]) -> DataError:
    return DataError(
        f"there is no train split among {', '.join(parts) or 'no splits'}",
        remedy="Bring one called train.",
    )
