"""The user's columns under the task's names: found, renamed, folded, typed.

Pure functions over Arrow tables and a task's `columns()`. Imports `errors`, `task`; `sources` and
`check` call it.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Features, List, Value

from ftkit.data.faults import shorten
from ftkit.data.memory import features_of, under_features
from ftkit.errors import DataError, SettingError
from ftkit.task import Column

ColumnMap: TypeAlias = "Mapping[str, str | Sequence[str]]"
"""The task's name of a column -> the user's, or the several 0/1 columns that make it up."""

_TRUE = pa.array(["1", "1.0", "true"])
_FALSE = pa.array(["0", "0.0", "false"])


def check_map(columns: ColumnMap | None, wanted: Sequence[Column]) -> ColumnMap:
    """The map with every name as text, as tables have it; a DataFrame's names may be numbers.

    Raises SettingError for a map that the task cannot follow.
    """
    kinds = {column.name: column.kind for column in wanted}
    columns = {
        name: list(map(str, source)) if _is_several(source) else str(source)
        for name, source in (columns or {}).items()
    }
    for name, source in columns.items():
        if name not in kinds:
            close = difflib.get_close_matches(name, kinds, n=1)
            raise SettingError(
                f'columns names "{name}", which the task does not read; it reads '
                f"{', '.join(kinds)}",
                remedy=f'Did you mean "{close[0]}"?'
                if close
                else 'Write columns={"text": "the name of your column"}.',
            )
        is_fold = not isinstance(source, str)
        if is_fold and (kinds[name] != "label" or not source):
            raise SettingError(
                f'columns gives {len(source)} names for "{name}"',
                remedy="Only a label can be made of several 0/1 columns; give one name.",
            )
    return columns


def _is_several(source: Any) -> bool:
    return not isinstance(source, str) and hasattr(source, "__iter__")


def find_columns(
    schema: pa.Schema, columns: ColumnMap, wanted: Sequence[Column]
) -> dict[str, str | tuple[str, ...]]:
    """The user's column (or columns to fold) for each of the task's that the rows have.

    Raises DataError for a column that is required, or named in the map, and not there.
    """
    found: dict[str, str | tuple[str, ...]] = {}
    for column in wanted:
        source = columns.get(column.name)
        if source is None:
            names = (column.name, *column.aliases)
            present = next((name for name in names if name in schema.names), None)
            if present is not None:
                found[column.name] = present
            elif column.is_required:
                raise missing_column(schema, column, wanted, columns)
            continue
        parts = (source,) if isinstance(source, str) else tuple(source)
        if not set(parts) <= set(schema.names):
            raise missing_column(schema, column, wanted, columns)
        found[column.name] = source if isinstance(source, str) else parts
    return found


def missing_column(
    schema: pa.Schema, column: Column, wanted: Sequence[Column], columns: ColumnMap | None = None
) -> DataError:
    """The error for a column that is not there under the name that `columns` or the task gives."""
    given = dict(columns or {})
    source = given.get(column.name)
    if source is None:
        looked = [column.name, *column.aliases]
    else:
        looked = (
            [source] if isinstance(source, str) else [n for n in source if n not in schema.names]
        )
    taken = {name for other in wanted if other != column for name in (other.name, *other.aliases)}
    taken.update(name for name in given.values() if isinstance(name, str))
    guess = _guess(schema, column, looked, [name for name in schema.names if name not in taken])
    remedy = "Bring rows that have it."
    if source is not None and not isinstance(source, str):
        remedy = f"Name 0/1 columns that are there: columns={{{_quote(column.name)}: [...]}}."
    elif guess is not None:
        pairs = {key: name for key, name in given.items() if isinstance(name, str)}
        pairs[column.name] = guess
        literal = ", ".join(f"{_quote(key)}: {_quote(name)}" for key, name in pairs.items())
        option = ",".join(f"{key}={name}" for key, name in pairs.items())
        remedy = f"Name it, perhaps columns={{{literal}}} (command line: --columns {option})."
    there = ", ".join(map(shorten, schema.names[:20])) or "none"
    return DataError(
        f"there is no column {' or '.join(map(_quote, looked))}; the columns are {there}",
        remedy=remedy,
        column=column.name,
    )


def apply_columns(table: pa.Table, found: Mapping[str, str | tuple[str, ...]]) -> pa.Table:
    """The table under the task's names, those first; other columns stay unless their name clashes.

    Several columns fold into lists of their names. Raises DataError for a flag that is not 0 or 1.
    """
    known = features_of(table)
    arrays: dict[str, pa.ChunkedArray] = {}
    features: dict[str, object] = {}
    used: set[str] = set(found)
    for name, source in found.items():
        if isinstance(source, str):
            arrays[name], features[name] = table.column(source), known[source]
            used.add(source)
        else:
            arrays[name] = fold_flags(table, source)
            features[name] = List(Value("string"))
            used.update(source)
    for name in table.column_names:
        if name not in used:
            arrays[name], features[name] = table.column(name), known[name]
    return under_features(pa.table(arrays), Features(features))


def fold_flags(table: pa.Table, names: Sequence[str]) -> pa.Array:
    """For each row the `names` whose 0/1 (or true/false) column is set: lists of strings.

    Raises DataError with row and column for any other value.
    """
    flags = np.zeros((table.num_rows, len(names)), dtype=bool)
    for place, name in enumerate(names):
        try:
            words = pc.utf8_lower(table.column(name).cast(pa.string()))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            words = pa.chunked_array([pa.nulls(table.num_rows, pa.string())])
        is_true = pc.is_in(words, _TRUE).to_numpy()
        is_bad = ~(is_true | pc.is_in(words, _FALSE).to_numpy())
        if is_bad.any():
            row = int(is_bad.argmax())
            value = table.column(name)[row].as_py()
            raise DataError(
                f"{'null' if value is None else shorten(value)} where a label's column has 0 or 1 "
                f"({int(is_bad.sum()):,} such in all)",
                remedy="Write 0 or 1, or true or false, in every row.",
                row=row + 1,
                column=name,
            )
        flags[:, place] = is_true
    offsets = np.concatenate([[0], flags.sum(axis=1).cumsum()])
    chosen = pa.array(names, pa.string()).take(pa.array(flags.nonzero()[1]))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), chosen)


def infer_type(columns: Sequence[pa.ChunkedArray]) -> pa.DataType:
    """int64 where every string of every column is a whole number, float64 for numbers, else string.

    Numbers that would not come back as they stand, such as 007, stay strings.
    """
    if all(_are_integers(column) for column in columns):
        return pa.int64()
    if all(_are_numbers(column) for column in columns):
        return pa.float64()
    return pa.string()


def _are_integers(column: pa.ChunkedArray) -> bool:
    try:
        again = column.cast(pa.int64()).cast(pa.string())
    except pa.ArrowInvalid:
        return False
    return bool(pc.all(pc.equal(column, again), min_count=0).as_py())


def _are_numbers(column: pa.ChunkedArray) -> bool:
    if pc.any(pc.match_substring_regex(column, r"^[-+]?0\d")).as_py():
        return False
    try:
        return bool(pc.all(pc.is_finite(column.cast(pa.float64())), min_count=0).as_py())
    except pa.ArrowInvalid:
        return False


def _guess(
    schema: pa.Schema, column: Column, looked: Sequence[str], free: Sequence[str]
) -> str | None:
    """A column that may be meant: one of a close name, else one of a fitting type."""
    lower = {name.lower().strip(): name for name in free}
    for name in looked:
        close = difflib.get_close_matches(name.lower(), lower, n=1)
        if close:
            return lower[close[0]]
    if column.kind == "text":
        return next((name for name in free if pa.types.is_string(schema.field(name).type)), None)
    return next((name for name in reversed(free) if _may_be_label(schema.field(name).type)), None)


def _may_be_label(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind) or (pa.types.is_primitive(kind) and not pa.types.is_temporal(kind))
    )


def _quote(name: str) -> str:
    return f'"{name}"'
