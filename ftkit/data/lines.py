"""Rows of text files and of lines, one by one: a row, or why it cannot be read.

Each reader takes an open file and its path, gives None for a blank line, and raises DataError only
where no row behind can be read either. The readers of `files` are faster, and take a whole file or
none of it. Imports `errors`, `faults` and `files`; `pieces` calls it.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from ftkit.data.faults import decode_utf8, kind_of, parse_json, ragged_error
from ftkit.data.files import check_header
from ftkit.errors import DataError, first_line

# A text longer than this comes from a quote that is not closed; csv's own limit is 131,072.
_LONGEST_FIELD = 1 << 24
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

Row: TypeAlias = "dict[str, Any] | DataError"
"""A row under the user's own names, or why it cannot be read."""


def _csv_rows(file: BinaryIO, path: Path, delimiter: str = ",") -> Iterator[Row | None]:
    """Cells are strings, or None where they are empty."""
    csv.field_size_limit(_LONGEST_FIELD)
    lines = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    is_at_end = False

    def until_the_end() -> Iterator[str]:
        nonlocal is_at_end
        yield from lines
        is_at_end = True

    names: list[str] | None = None
    number = 0
    try:
        for cells in csv.reader(until_the_end(), delimiter=delimiter):
            if not cells:
                if names is not None:
                    yield None
                continue
            if names is None:
                header = [decode_utf8(_as_bytes(name)) for name in cells]
                names = check_header(path, delimiter, header)
                continue
            number += 1
            if is_at_end:
                # The reader asks for a further line only within quotes.
                raise DataError("a quote that opens here is never closed", remedy="Close it.")
            yield _read_cells(cells, names, delimiter)
    except csv.Error as error:
        raise DataError(
            f"cannot be read as csv ({first_line(error)})",
            remedy="Look for a quote that is never closed.",
            file=str(path),
            row=number + 1,
        ) from None
    except DataError as error:
        raise error.located(str(path), number or None) from None
    if names is None:
        check_header(path, delimiter, None)


def _tsv_rows(file: BinaryIO, path: Path) -> Iterator[Row | None]:
    return _csv_rows(file, path, "\t")


def _read_cells(cells: list[str], names: list[str], delimiter: str) -> Row:
    text = delimiter.join(cells)
    if len(cells) != len(names):
        shown = text.encode(errors="replace").decode()
        return ragged_error(len(cells), len(names), shown, delimiter)
    if not text.isascii():
        try:
            for name, cell in zip(names, cells, strict=True):
                decode_utf8(_as_bytes(cell), name)
        except DataError as error:
            return error
    return {name: cell or None for name, cell in zip(names, cells, strict=True)}


def _as_bytes(cell: str) -> bytes:
    return cell.encode("utf-8", "surrogateescape")


def _jsonl_rows(file: BinaryIO, path: Path) -> Iterator[Row | None]:
    return read_lines(file, read_object)


def _txt_rows(file: BinaryIO, path: Path) -> Iterator[Row | None]:
    return read_lines(file, lambda line: read_text(line, "text"))


def read_lines(lines: Iterable[bytes], read: Callable[[bytes], Row]) -> Iterator[Row | None]:
    """What `read` makes of each line without its end; None of a blank one."""
    for number, line in enumerate(lines):
        line = line.removeprefix(_BYTE_ORDER_MARK) if number == 0 else line
        yield read(line.rstrip(b"\r\n")) if line.strip() else None


def read_text(line: bytes, name: str) -> Row:
    """A row of one text."""
    try:
        return {name: decode_utf8(line)}
    except DataError as error:
        return error


def read_object(line: bytes) -> Row:
    """A row from a JSON object."""
    try:
        row = parse_json(decode_utf8(line))
        if b"\\ud" in line.lower():
            # Half of a pair of escapes is no character that a file could hold.
            json.dumps(row, ensure_ascii=False).encode()
    except DataError as error:
        return error
    except UnicodeEncodeError as error:
        return DataError(
            f"{error.object[error.start]!a} is half a character",
            remedy="Write both halves of the surrogate pair.",
        )
    if isinstance(row, dict):
        return row
    return DataError(
        f"the line is {kind_of(row) or 'null'}, not a JSON object",
        remedy='Write lines such as {"question": "...", "context": "..."}.',
    )


READERS: dict[str, Callable[[BinaryIO, Path], Iterator[Row | None]]] = {
    ".csv": _csv_rows,
    ".tsv": _tsv_rows,
    ".jsonl": _jsonl_rows,
    ".txt": _txt_rows,
}
