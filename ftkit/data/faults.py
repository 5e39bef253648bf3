"""What is wrong with a file or a list of rows that the fast readers refused: the slow second look.

Every `find_` function returns the DataError to raise, with the row where it can, and is called
only after a reader has failed. Imports `errors`, pyarrow; `files`, `conll` and `memory` call it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import csv

from ftkit.errors import DataError, first_line

_PLURALS = {"a number": "numbers", "an object": "objects"}
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def shorten(value: Any, limit: int = 40) -> str:
    """The value as one line of at most `limit` characters."""
    try:
        text = repr(value)[1:-1] if isinstance(value, str) else repr(value)
    except RecursionError:
        text = "[[[[..."
    return text if len(text) <= limit else text[: limit - 3] + "..."


def kind_of(value: Any, depth: int = 8) -> str | None:
    """What a person calls a value of this type; None for null and for an empty list.

    A list in a list is looked into to `depth`: who wrote the file chose how deep it goes.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if value is None or type(value).__name__ == "NAType":
        return None
    if isinstance(value, float) and value != value:
        return None
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, (list, tuple)):
        if not depth:
            return "a list"
        inner = {kind_of(each, depth - 1) for each in value}
        kinds = sorted(kind for kind in inner if kind is not None)
        return "a list of " + " and ".join(_PLURALS.get(k, k) for k in kinds) if kinds else None
    return f"a {type(value).__name__}"


def read_utf8(path: Path) -> str:
    """The text of a file, without a byte order mark; raises DataError where it is not UTF-8."""
    try:
        return path.read_bytes().decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise _encoding_error(path, error.start) from None


def find_csv_fault(path: Path, delimiter: str, error: Exception) -> DataError:
    """Why a csv file could not be read: bad bytes, then ragged rows, then the reader's words."""
    bad = _find_bad_byte(path)
    if bad is not None:
        row, column = _find_bad_cell(path, delimiter)
        return _encoding_error(path, bad, row, column)
    try:
        ragged = _read_bad_rows(path, delimiter, pa.string())[0]
    except (pa.ArrowException, ValueError):
        ragged = []
    if ragged:
        bad = ragged[0]
        fault = ragged_error(bad.actual_columns, bad.expected_columns, bad.text, delimiter)
        return fault.located(str(path), bad.number - 1)
    return _unreadable(path, "csv", error)


def find_jsonl_fault(path: Path, error: Exception) -> DataError:
    """Why a JSON Lines file could not be read: bad bytes, broken lines, rows of mixed types."""
    bad = _find_bad_byte(path)
    if bad is not None:
        before = path.read_bytes()[:bad].split(b"\n")
        row = sum(1 for line in before[:-1] if line.strip()) + 1
        return _encoding_error(path, bad, row)
    rows: list[Any] = []
    with path.open(encoding="utf-8-sig", newline="\n") as lines:
        for line in lines:
            if not line.strip():
                continue
            try:
                rows.append(parse_json(line))
            except DataError as broken:
                return broken.located(str(path), len(rows) + 1)
    return find_row_fault(rows, file=str(path)) or _unreadable(path, "JSON Lines", error)


def parse_json(line: str) -> Any:
    """What a line of JSON says; raises DataError where it is broken or names a key twice."""
    try:
        return _DECODER.decode(line)
    except _RepeatedKey as repeated:
        raise DataError(
            "the row has this key twice",
            remedy="Keep one of the two values.",
            column=repeated.args[0],
        ) from None
    except json.JSONDecodeError as error:
        raise DataError(
            f"broken JSON at character {error.pos + 1} ({error.msg.removesuffix(' at')}): "
            f"{shorten(line.strip()[max(error.pos - 20, 0) :])}",
            remedy="Write one JSON object a line; a line break inside a text is written \\n.",
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"cannot be read as JSON ({first_line(error)})", remedy="Write the line anew."
        ) from None


def decode_utf8(data: bytes, column: str | None = None) -> str:
    """The text that the bytes of a row, or of its column, are in UTF-8.

    Raises DataError where they are none.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        encoding = _guess_encoding(data)
        raise DataError(
            f"byte 0x{data[error.start]:02x} is not UTF-8; the file may be {encoding}",
            remedy=f"Convert it, perhaps with iconv -f {encoding} -t utf-8.",
            column=column,
        ) from None


def find_row_fault(
    rows: Sequence[Any], *, file: str | None = None, split: str | None = None
) -> DataError | None:
    """The first row that is no object, else a column that mixes types, else None."""
    for row, value in enumerate(rows, start=1):
        if not isinstance(value, Mapping):
            return DataError(
                f"the row is {kind_of(value) or 'null'}, not an object with a key for each column",
                remedy='Write each row as {"text": ..., "label": ...}.',
                file=file,
                split=split,
                row=row,
            )
    names = list(dict.fromkeys(name for row in rows for name in row))
    for name in names:
        fault = find_mixed_kinds(name, (row.get(name) for row in rows), file=file, split=split)
        if fault is not None:
            return fault
    return None


def find_mixed_kinds(
    column: str, values: Iterable[Any], *, file: str | None = None, split: str | None = None
) -> DataError | None:
    """The first value whose type is not that of most values of the column, if there is one."""
    kinds: dict[str, _Kind] = {}
    for row, value in enumerate(values, start=1):
        kind = kind_of(value)
        if kind is not None:
            seen = kinds.setdefault(kind, _Kind(row, value))
            seen.count += 1
    if len(kinds) < 2:
        return None
    usual = max(kinds, key=lambda kind: kinds[kind].count)
    odd = min((kind for kind in kinds if kind != usual), key=lambda kind: kinds[kind].row)
    others = sum(seen.count for kind, seen in kinds.items() if kind != usual)
    return DataError(
        f"{odd} ({shorten(kinds[odd].value)}) where {kinds[usual].count:,} "
        f"{_rows_have(kinds[usual].count)} {usual} ({others:,} such {_rows(others)} in all)",
        remedy="Give the column one type, or take it out.",
        file=file,
        split=split,
        row=kinds[odd].row,
        column=column,
    )


@dataclass
class _Kind:
    row: int
    value: Any
    count: int = 0


class _RepeatedKey(ValueError):
    """A JSON object names a key twice."""


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen = dict(pairs)
    if len(seen) < len(pairs):
        names = [name for name, _ in pairs]
        raise _RepeatedKey(next(name for name in names if names.count(name) > 1))
    return seen


_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys)


def ragged_error(found: int, expected: int, text: str, delimiter: str) -> DataError:
    """The error for a row of csv with another number of fields than its header."""
    mark = "tab" if delimiter == "\t" else delimiter
    if found > expected:
        remedy = f'Put double quotes around the field that has a "{mark}" inside.'
    else:
        remedy = "Fill in the missing field."
    if '"' in text:
        remedy += " Or look for a quote that is never closed."
    return DataError(
        f"{found} field{'s'[: found != 1]} where the header has {expected}: {shorten(text)}",
        remedy=remedy,
    )


def _unreadable(path: Path, form: str, error: Exception) -> DataError:
    return DataError(
        f"cannot be read as {form} ({first_line(error)})",
        remedy="Write the file anew.",
        file=str(path),
    )


def _find_bad_byte(path: Path) -> int | None:
    """Offset of the first byte that is not UTF-8."""
    try:
        path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start
    return None


def _encoding_error(
    path: Path, offset: int, row: int | None = None, column: str | None = None
) -> DataError:
    """The error for a file whose byte at `offset` is not UTF-8."""
    data = path.read_bytes()
    encoding = _guess_encoding(data)
    return DataError(
        f"byte 0x{data[offset]:02x} at offset {offset:,} is not UTF-8; the file may be {encoding}",
        remedy=f"Convert it: iconv -f {encoding} -t utf-8 {path.name} > utf8-{path.name}",
        file=str(path),
        row=row,
        column=column,
    )


def _guess_encoding(data: bytes) -> str:
    if data[:2] in _UTF16_MARKS:
        return "utf-16"
    # 0x80 to 0x9f are control characters in latin1, and quotes and dashes in windows-1252.
    if any(0x80 <= byte <= 0x9F for byte in set(data)):
        return "windows-1252"
    return "latin1"


def _find_bad_cell(path: Path, delimiter: str) -> tuple[int | None, str | None]:
    """Row and column of the first cell that is not UTF-8; None for the header."""
    try:
        table = _read_bad_rows(path, delimiter, pa.binary())[1]
    except (pa.ArrowException, ValueError):
        return None, None
    found = []
    for name, cells in zip(table.column_names, table.columns, strict=True):
        for row, cell in enumerate(cells.to_pylist(), start=1):
            try:
                cell.decode("utf-8")
            except UnicodeDecodeError:
                found.append((row, name))
                break
    return min(found, default=(None, None), key=lambda place: place[0])


def _read_bad_rows(path: Path, delimiter: str, cell: pa.DataType) -> tuple[list[Any], pa.Table]:
    """The ragged rows, which only one thread can number, and the table of the others."""
    ragged: list[Any] = []

    def note(row: Any) -> str:
        ragged.append(row)
        return "skip"

    parse = csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=note)
    whole = min(path.stat().st_size + 1, 2**31 - 1)
    read = csv.ReadOptions(use_threads=False, block_size=whole)
    names = csv.open_csv(path, read_options=read, parse_options=parse).schema.names
    ragged.clear()
    convert = csv.ConvertOptions(column_types=dict.fromkeys(names, cell))
    table = csv.read_csv(path, read_options=read, parse_options=parse, convert_options=convert)
    return ragged, table


def _rows(count: int) -> str:
    return "row" if count == 1 else "rows"


def _rows_have(count: int) -> str:
    return "row has" if count == 1 else "rows have"
