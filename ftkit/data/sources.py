"""Rows from anywhere -> a checked DatasetDict: `load_data`.

    source --open--> parts --columns--> parts --check--> parts --hold out, limit--> DatasetDict

Errors of the checks come back in the user's own terms: file, row in it, column. Imports the other
rooms of `data` and the task registry; `learner` and the command line call `load_data` and
`read_rows`.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict

from ftkit.data import files, splits
from ftkit.data.check import check_rows, no_rows
from ftkit.data.columns import ColumnMap, apply_columns, check_map, find_columns, infer_type
from ftkit.data.faults import shorten
from ftkit.data.parts import Part, Source, digest, keep_rows, open_source, to_datasets
from ftkit.errors import DataError, FtkitWarning, SettingError
from ftkit.task import Column, Task
from ftkit.tasks import get_task


def load_data(
    source: Source,
    task: str | Task = "classification",
    *,
    columns: ColumnMap | None = None,
    group: str | None = None,
    valid: float = 0.1,
    seed: int = 42,
    limit: int | None = None,
) -> DatasetDict:
    """The rows of `source`, checked, as splits train, validation and (where there is one) test.

    `source`: path of a .parquet, .csv, .tsv, .jsonl or .json file; of a folder with train,
    validation and test files or folders; of a folder that `save_to_disk` wrote; a hub id;
    `sample:NAME`; a DataFrame, list of dicts, Dataset; a DatasetDict, or a dict from split to any
    of those in memory or to a file. A single file or table is train.

    `columns`: the task's name of a column -> the user's: {"text": "body", "label": "queue"};
    {"label": ["urgent", "angry"]} folds several 0/1 columns into lists of their names. Without it
    the task's names and aliases are looked for. Columns come out under the task's names; the others
    stay, unless their name clashes with one of these.

    Without a validation split, the fraction `valid` of train is held out for it, stratified by
    label, by `seed`; rows that share a value of column `group` stay on one side. A warning says so.

    `limit`: at most so many rows of each split, drawn by `seed` after all checks, in the order and
    label proportions of the split; every label keeps a row where `limit` allows, and the other
    splits keep only rows whose labels train still has.

    Labels stay what they are; in csv and tsv they are int64, float64 or strings: the first that
    fits all.

    Raises DataError for rows that cannot be used, SettingError for an option that cannot work.
    """
    task = get_task(task)
    columns = check_map(columns, task.columns())
    _check_options(valid, limit, seed)
    parts = open_source(source)
    found: dict[str, Any] = {}
    try:
        parts, found = name_columns(parts, task.columns(), columns)
        data = to_datasets(parts)
        check_rows(data, task.columns(), stacklevel=3)
        task = task.with_labels(data)
        if group is not None:
            group = next((name for name, own in found.items() if own == str(group)), str(group))
        divided, said = divide(parts, task, group=group, valid=valid, seed=seed, limit=limit)
    except DataError as error:
        raise locate(error, parts, found) from None
    if said is not None:
        warnings.warn(said, FtkitWarning, stacklevel=2)
    made = to_datasets(divided)
    # Arrow keeps what reading and dividing took, which is more than the rows themselves.
    pa.default_memory_pool().release_unused()
    return made


def read_rows(
    source: Source,
    task: Task,
    *,
    columns: ColumnMap | None = None,
    split: str | None = None,
    has_labels: bool = True,
) -> Dataset:
    """The rows of one split of `source`, checked, under the task's names of the columns.

    `split` None takes test, else validation, else train. Labels are neither asked for nor
    touched where `has_labels` is False.

    Raises DataError for rows that cannot be used and for a split that is not there.
    """
    wanted = tuple(column for column in task.columns() if has_labels or column.is_input)
    columns = check_map(columns, wanted)
    parts = open_source(source, needs_train=False)
    chosen = split or next(name for name in reversed(files.SPLITS) if name in parts)
    if chosen not in parts:
        raise DataError(
            f'there is no split "{chosen}" among {", ".join(parts)}',
            remedy="Name one of these.",
            file=str(source) if isinstance(source, (str, Path)) else None,
        )
    parts = {chosen: parts[chosen]}
    found: dict[str, Any] = {}
    try:
        parts, found = name_columns(parts, wanted, columns)
        data = to_datasets(parts)
        check_rows(data, wanted, stacklevel=3)
    except DataError as error:
        raise locate(error, parts, found) from None
    return data[chosen]


def _check_options(valid: float, limit: int | None, seed: int) -> None:
    if not 0 < valid < 1:
        raise SettingError(
            f"valid is {valid}", remedy="Give a fraction of train between 0 and 1, such as 0.1."
        )
    if not 0 <= seed < 2**32:
        raise SettingError(f"seed is {seed}", remedy="Give 0 or more, below 2**32.")
    if limit is not None and limit < 1:
        raise SettingError(f"limit is {limit}", remedy="Give 1 or more rows, or None for all.")


# Columns


def name_columns(
    parts: dict[str, Part], wanted: Sequence[Column], columns: ColumnMap
) -> tuple[dict[str, Part], dict[str, Any]]:
    """The parts under the task's names, and the user's name of each."""
    named: dict[str, Part] = {}
    found: dict[str, Any] = {}
    for split, part in parts.items():
        if not part.table.num_rows:
            raise no_rows(split=split)
        try:
            here = find_columns(part.table.schema, columns, wanted)
            table = apply_columns(part.table, here)
        except DataError as error:
            raise error.located(split=split) from None
        found.update({name: source for name, source in here.items() if name not in found})
        named[split] = replace(part, table=table)
    labels = [column.name for column in wanted if column.kind == "label"]
    named = _type_labels(named, [name for name in labels if isinstance(found.get(name), str)])
    return {
        split: replace(
            part,
            fingerprint=part.fingerprint and digest(part.fingerprint, found, part.table.schema),
        )
        for split, part in named.items()
    }, found


def _type_labels(parts: dict[str, Part], labels: Sequence[str]) -> dict[str, Part]:
    """The label columns of untyped parts in the type that fits all of them."""
    untyped = [split for split, part in parts.items() if part.is_untyped]
    for name in labels if untyped else ():
        kind = infer_type([parts[split].table.column(name) for split in untyped])
        for split in untyped:
            table = parts[split].table
            place = table.column_names.index(name)
            column = table.column(name).cast(kind)
            table = table.set_column(place, pa.field(name, kind), column)
            parts = {**parts, split: replace(parts[split], table=table.replace_schema_metadata())}
    return parts


# Errors in the user's own terms


def locate(error: DataError, parts: Mapping[str, Part], found: Mapping[str, Any]) -> DataError:
    """The error with the user's own file, row and column name where they are known."""
    name = found.get(error.column or "", error.column)
    if isinstance(name, str):
        error = error.located(column=name)
    part = parts.get(error.split or "")
    if part is None or not part.origins:
        return error
    if error.row is None:
        names = [file for file, _ in part.origins]
        return error.located(names[0] if len(names) == 1 else str(Path(names[0]).parent))
    row = error.row
    for file, count in part.origins:
        if row <= count:
            return error.located(file, row)
        row -= count
    return error


# Hold out and limit


def divide(
    parts: Mapping[str, Part],
    task: Task,
    *,
    group: str | None = None,
    valid: float = 0.1,
    seed: int = 42,
    limit: int | None = None,
) -> tuple[dict[str, Part], str | None]:
    """The parts with a validation split and no more than `limit` rows each, as `load_data` gives
    them, and what to say of that; `task` knows its labels.

    Raises DataError where no rows can be held out, or `group` names no column.
    """
    said, strata = None, _strata(parts, task)
    if group is not None:
        said = _describe_shared(parts, group)
    if "validation" not in parts:
        parts, said = _hold_out(parts, strata, group, valid, seed)
    return dict(parts) if limit is None else _limit(parts, strata, limit, seed), said


@dataclass(frozen=True)
class _Strata:
    """What the splits are stratified by."""

    label: str | None
    is_number: bool

    def of(self, table: pa.Table) -> list[Any]:
        """The label of each row; None for tasks without one."""
        if self.label is None:
            return [None] * table.num_rows
        values: list[Any] = table.column(self.label).to_pylist()
        if self.is_number:
            return [float(value) for value in values]
        if any(isinstance(value, float) for value in values):
            return list(map(str, values))  # classes, which have no quantiles
        return [sorted(_labels_in(value)) if isinstance(value, list) else value for value in values]


def _strata(parts: Mapping[str, Part], task: Task) -> _Strata:
    """`task` knows its labels: numbers of a task without label names are measures, not classes."""
    names = [column.name for column in task.columns() if column.kind == "label"]
    label = next((name for name in names if name in parts["train"].table.column_names), None)
    if label is None:
        return _Strata(None, False)
    kind = parts["train"].table.schema.field(label).type
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return _Strata(label, is_number and not task.head().labels)


def _hold_out(
    parts: Mapping[str, Part], strata: _Strata, group: str | None, fraction: float, seed: int
) -> tuple[dict[str, Part], str]:
    """Train cut in two, and the sentence that says so."""
    train = parts["train"]
    total = train.table.num_rows
    groups = None if group is None else _groups(parts, "train", group)
    mask = splits.hold_out(strata.of(train.table), fraction, seed, groups)
    if not mask.any():
        needed = "every label" if group is None else f'every label, and no group of "{group}" twice'
        raise DataError(
            f"no validation rows can be held out of {total:,}: train must keep {needed}",
            remedy="Bring more rows of each label, or a validation split.",
            split="train",
        )
    how = "at random" if strata.label is None else "stratified by label"
    grouped = "" if group is None else f', whole groups of "{group}"'
    count = int(mask.sum())
    said = (
        f"no validation split: {count:,} of the {total:,} rows of train ({count / total:.1%}) are "
        f"held out for it, {how}{grouped}, seed {seed}"
    )
    made = {**parts, "train": keep_rows(train, ~mask), "validation": keep_rows(train, mask)}
    return {split: made[split] for split in files.SPLITS if split in made}, said


def _limit(parts: Mapping[str, Part], strata: _Strata, limit: int, seed: int) -> dict[str, Part]:
    """At most `limit` rows of each split, of labels that train still has where that leaves any."""
    limited: dict[str, Part] = {}
    known: set[Any] = set()
    for split, part in parts.items():
        labels = strata.of(part.table)
        is_usable = np.ones(len(labels), dtype=bool)
        if split != "train" and not strata.is_number:
            is_usable = np.array([known.issuperset(_labels_in(label)) for label in labels])
        if not is_usable.all() and is_usable.any():
            part = keep_rows(part, is_usable)
            labels = [label for label, is_kept in zip(labels, is_usable, strict=True) if is_kept]
        is_drawn = splits.draw(labels, limit, seed)
        limited[split] = part if is_drawn.all() else keep_rows(part, is_drawn)
        if split == "train":
            drawn = (label for label, is_kept in zip(labels, is_drawn, strict=True) if is_kept)
            known = set().union(*map(_labels_in, drawn))
    return limited


def _labels_in(cell: Any) -> set[Any]:
    """The labels that a cell names, once each: of words, of entities, or of the row itself."""
    labels = cell if isinstance(cell, list) else [cell]
    return {each.get("label") if isinstance(each, dict) else each for each in labels}


def _groups(parts: Mapping[str, Part], split: str, group: str) -> list[Hashable]:
    """The group of each row of the split."""
    table = parts[split].table
    if group not in table.column_names:
        raise DataError(
            f"there is no such column; the columns are {', '.join(table.column_names[:20])}",
            remedy="Name one of these as the group.",
            split=split,
            column=group,
        )
    values: list[Any] = table.column(group).to_pylist()
    bad = next((i for i, v in enumerate(values) if v is None or not isinstance(v, Hashable)), None)
    if bad is not None:
        raise DataError(
            f"{'null' if values[bad] is None else shorten(values[bad])} names no group",
            remedy="Fill in the group of every row with a text or a number.",
            split=split,
            row=bad + 1,
            column=group,
        )
    return values


def _describe_shared(parts: Mapping[str, Part], group: str) -> str | None:
    """What to say of groups that the user's own splits tear apart."""
    if "validation" not in parts:
        return None
    shared = set(_groups(parts, "train", group)) & set(_groups(parts, "validation", group))
    if not shared:
        return None
    return (
        f'{len(shared):,} groups of "{group}" are both in train and in validation; the splits '
        "that the data brings are left as they are"
    )
