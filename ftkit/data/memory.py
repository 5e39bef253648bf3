"""Rows in memory -> one Arrow table: a list of dicts, a pandas DataFrame, a Dataset.

Imports `errors` and `faults`; `parts` and `files` call it. The metadata of the schema
carries the Hugging Face features (ClassLabel names) and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
from datasets import Dataset, Features

from ftkit.data import faults
from ftkit.errors import DataError, first_line

# pyarrow raises these for values that it cannot put into one column.
_REFUSALS = (pa.ArrowException, TypeError, ValueError, OverflowError)


def table_from_rows(
    rows: Sequence[Any], *, file: str | None = None, split: str | None = None
) -> pa.Table:
    """A table of dicts; a key that a row lacks is null. Raises DataError, with the row."""
    if not all(isinstance(row, Mapping) for row in rows):
        fault = faults.find_row_fault(rows, file=file, split=split)
        assert fault is not None
        raise fault
    names = dict.fromkeys(name for row in rows for name in row)
    try:
        return pa.table({str(name): pa.array([row.get(name) for row in rows]) for name in names})
    except _REFUSALS as error:
        fault = faults.find_row_fault(rows, file=file, split=split)
        raise fault or _refused(error, file, split) from None


def table_from_frame(frame: pd.DataFrame, *, split: str | None = None) -> pa.Table:
    """A table of a DataFrame's columns, without its index; NaN and None are null."""
    names = [str(name) for name in frame.columns]
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise DataError(
            f'two columns are called "{twice}"', remedy="Rename one of them.", split=split
        )
    try:
        return pa.Table.from_pandas(frame.set_axis(names, axis=1), preserve_index=False)
    except _REFUSALS as error:
        for name, (_, values) in zip(names, frame.items(), strict=True):
            fault = faults.find_mixed_kinds(name, values.tolist(), split=split)
            if fault is not None:
                raise fault from None
        raise _refused(error, None, split) from None


def table_from_dataset(dataset: Dataset) -> pa.Table:
    """The Dataset's rows, without a copy where it is no selection, with its features."""
    table = dataset.with_format("arrow")[:]
    return table.replace_schema_metadata(dataset.features.arrow_schema.metadata)


def features_of(table: pa.Table) -> Features:
    """The Hugging Face features that the table's metadata names, else those of its types."""
    return Features.from_arrow_schema(table.schema)


def under_features(table: pa.Table, features: Features) -> pa.Table:
    """The table with the features' types, and their names in its metadata."""
    schema = features.arrow_schema
    # Each where it differs: Arrow cannot cast a column of lists of nulls, not even to itself.
    columns = [
        column if column.type == field.type else column.cast(field.type)
        for column, field in zip(table.columns, schema, strict=True)
    ]
    return pa.table(columns, schema=schema)


def normalise(table: pa.Table, *, file: str | None = None, split: str | None = None) -> pa.Table:
    """The table in types that Dataset knows, its metadata cut down to features that fit.

    Dictionaries are decoded and every kind of string is `string`. Raises DataError for a type that
    Dataset has no name for, for a name that it would cut, and for bytes that are not UTF-8.
    """
    if any("\0" in name for name in table.column_names):
        raise DataError(
            "the name of a column has a null character in it",
            remedy="Rename the column.",
            file=file,
            split=split,
        )
    metadata = table.schema.metadata or {}
    # A file may carry a fingerprint here, which Dataset would believe.
    info = {b"huggingface": metadata[b"huggingface"]} if b"huggingface" in metadata else None
    fields = {name: _plain(table.column(name)) for name in table.column_names}
    plain = pa.table(fields)
    check_utf8(plain, file, split)
    try:
        known = Features.from_arrow_schema(plain.schema.with_metadata(info))
    except (json.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
        known = _plain_features(plain, file, split)
    return under_features(plain, known)


def _plain_features(table: pa.Table, file: str | None, split: str | None) -> Features:
    """Features by type alone, column by column, so that an unknown type has a name."""
    for field in table.schema:
        try:
            Features.from_arrow_schema(pa.schema([field]))
        except (TypeError, ValueError):
            raise DataError(
                f"values of type {field.type} cannot be used",
                remedy="Take the column out, or make it text.",
                file=file,
                split=split,
                column=field.name,
            ) from None
    return Features.from_arrow_schema(table.schema)


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string_view(column.type) or pa.types.is_large_string(column.type):
        try:
            return column.cast(pa.string())
        except pa.ArrowInvalid:
            # More than 2 GiB of text in one chunk.
            return column.cast(pa.large_string())
    return column


def check_utf8(table: pa.Table, file: str | None, split: str | None = None) -> None:
    """Raises DataError, with row and column, for text that is not UTF-8, in lists too."""
    for name in table.column_names:
        column = table.column(name)
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            row, bad = _first_bad(column)
            raise DataError(
                f"the text is not UTF-8: {faults.shorten(bad)}"
                if row
                else f"the values are damaged ({first_line(error)})",
                remedy="Write the file anew with UTF-8 text.",
                file=file,
                split=split,
                row=row,
                column=name,
            ) from None


def _first_bad(column: pa.ChunkedArray) -> tuple[int | None, bytes]:
    """The number of the first row with text that is not UTF-8, and the text; None without one."""
    for row, value in enumerate(column, start=1):
        try:
            value.as_py()
        except UnicodeDecodeError as error:
            return row, error.object
    return None, b""


def _refused(error: Exception, file: str | None, split: str | None) -> DataError:
    return DataError(
        f"the rows make no table ({faults.shorten(str(error).splitlines()[0], 120)})",
        remedy="Give each column one plain type: text, numbers, true/false, or lists of these.",
        file=file,
        split=split,
    )
