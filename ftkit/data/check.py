"""Looks at the rows before training: what no task can use is an error, what is odd a warning.

The checks that every task shares; those of its labels are the task's own (`Task.with_labels`).
Works on whole Arrow columns: a million rows take a fraction of a second. Imports `errors`, `task`,
`columns`; `sources` and the command line call it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import DatasetDict

from ftkit.data.columns import missing_column
from ftkit.data.faults import kind_of, shorten
from ftkit.errors import DataError, FtkitWarning, describe_rows
from ftkit.task import Column


def check_rows(data: DatasetDict, columns: Sequence[Column], *, stacklevel: int = 2) -> None:
    """Checks every split for the columns that a task reads.

    Raises DataError, with split, row and column, for a split without rows, a missing column, an
    optional column that only some splits have, and text that is null or no text. Warns with
    FtkitWarning, attributed `stacklevel` calls up, for texts that are empty or blank.
    """
    for split, rows in data.items():
        if not len(rows):
            raise no_rows(split=str(split))
        for column in columns:
            _check_presence(data, str(split), column, columns)
    blanks = []
    for split, rows in data.items():
        for column in columns:
            if not column.is_input or column.name not in rows.column_names:
                continue
            values = rows.select_columns(column.name).with_format("arrow")[:].column(0)
            if column.kind == "tokens":
                _check_words(str(split), column.name, values)
            else:
                _check_text(str(split), column.name, values)
                blanks += _describe_blanks(str(split), column.name, values)
    for blank in blanks:
        warnings.warn(blank, FtkitWarning, stacklevel=stacklevel)


def no_rows(*, split: str, file: str | None = None) -> DataError:
    """The error for a split, or the file that holds it, without rows."""
    return DataError(
        "has no rows" if file is None else "the file has no rows",
        remedy="Add rows, or leave the split out.",
        split=split,
        file=file,
    )


def _check_presence(
    data: DatasetDict, split: str, column: Column, wanted: Sequence[Column]
) -> None:
    rows = data[split]
    if column.name in rows.column_names:
        return
    if column.is_required:
        raise missing_column(rows.features.arrow_schema, column, wanted).located(split=split)
    others = [name for name, other in data.items() if column.name in other.column_names]
    if others:
        raise DataError(
            f"there is no such column, which {' and '.join(map(str, others))} has",
            remedy="Bring the column in every split, or in none.",
            split=split,
            column=column.name,
        )


def _check_text(split: str, name: str, values: pa.ChunkedArray) -> None:
    if values.null_count and (
        _is_text(values.type) or pa.types.is_null(values.type) or values.null_count == len(values)
    ):
        row = int(values.is_null().to_numpy().argmax())
        raise DataError(
            f"the text is missing (null); {values.null_count:,} of {len(values):,} rows have none",
            remedy="Fill it in, or drop the rows.",
            split=split,
            row=row + 1,
            column=name,
        )
    if not _is_text(values.type):
        row = int(values.is_valid().to_numpy().argmax())
        value = values[row].as_py()
        count = len(values) - values.null_count
        raise DataError(
            f"{kind_of(value) or 'a list'} ({shorten(value)}) where a text belongs; "
            f"{count:,} of {len(values):,} rows have no text",
            remedy="Make the values strings, or name the column that holds the text: "
            f'columns={{"{name}": ...}}.',
            split=split,
            row=row + 1,
            column=name,
        )


def _check_words(split: str, name: str, values: pa.ChunkedArray) -> None:
    kind = values.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not is_list or not (_is_text(kind.value_type) or pa.types.is_null(kind.value_type)):
        raise DataError(
            f"values of type {kind} where lists of words belong",
            remedy="Give each row a list of strings, such as ['Ann', 'lives', 'here'].",
            split=split,
            column=name,
        )
    is_bad = values.is_null().to_numpy()
    lists = values.combine_chunks()
    words = pc.list_flatten(lists)
    if words.null_count:
        rows = pc.list_parent_indices(lists).to_numpy()
        is_bad = is_bad.copy()
        is_bad[rows[words.is_null().to_numpy(zero_copy_only=False)]] = True
    if is_bad.any():
        raise DataError(
            f"a word is missing (null) here and in {int(is_bad.sum()):,} row(s) in all",
            remedy="Fill it in, or drop the rows.",
            split=split,
            row=int(is_bad.argmax()) + 1,
            column=name,
        )


def _describe_blanks(split: str, name: str, values: pa.ChunkedArray) -> list[str]:
    is_blank = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(values)), 0).to_numpy()
    rows = (np.flatnonzero(is_blank) + 1).tolist()
    what = "texts are empty or blank"
    return [describe_rows(split, name, rows, len(values), what)] if rows else []


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
