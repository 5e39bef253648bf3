"""One data file -> one Arrow table, and a folder -> its files by split.

Reads a file once, through pyarrow; where that fails, `faults` looks again and says why. Imports
`errors` and `faults`; `parts`, `lines` and `pieces` call it. Everything it raises is a DataError
that names the file.
"""

from __future__ import annotations

import csv
import difflib
import json
import mmap
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from ftkit.data import faults
from ftkit.data.conll import read_conll
from ftkit.data.memory import table_from_rows
from ftkit.errors import DataError

SPLITS = ("train", "validation", "test")

# A cell or line must fit into a block; one that does not is read again in a block of file size.
_BLOCK = 1 << 24
_LARGEST_BLOCK = 2**31 - 1

# "train-00000-of-00003", "Valid", "dev_2", "test.clean"; not "training" or "values".
_SPLIT_NAME = re.compile(r"(train|validation|valid|val|dev|test)(?![a-z])", re.IGNORECASE)
# It begins with a byte, not a choice: the search is then many times faster.
_NULL_ROW = re.compile(rb"\n[ \t\r]*null")
_SPLIT_OF = {"valid": "validation", "val": "validation", "dev": "validation"}

_EXPECTED = (
    "Expected are files or folders named train, validation (or valid, val, dev) and test, "
    "as .parquet, .csv, .tsv, .jsonl or .json"
)


def split_of(name: str) -> str | None:
    """The split that a file, folder or key of this name holds: train, validation, test or None."""
    match = _SPLIT_NAME.match(name)
    if match is None:
        return None
    return _SPLIT_OF.get(match[1].lower(), match[1].lower())


def read_file(path: Path) -> pa.Table:
    """The rows of a .parquet, .csv, .tsv, .jsonl or .json file, of a .txt (a text a line), or of a
    .conll, .bio or .iob (a word and its tag a line).

    Cells of csv and tsv are strings.

    Raises DataError for a file that is missing, empty, broken, not UTF-8 or of another format.
    """
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise DataError(
            f'files ending in "{path.suffix}" cannot be read',
            remedy=f"Give one of {', '.join(_READERS)}.",
            file=str(path),
        )
    with opening(path):
        return read(path)


@contextmanager
def opening(path: Path) -> Iterator[None]:
    """What is done within reads a file; raises DataError where it is empty, a pipe or a device, or
    cannot be opened.
    """
    try:
        found = path.stat()
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            raise DataError(
                "this is a pipe or a device, and no file",
                remedy="Write the rows to a file; `ftkit predict MODEL -` reads lines as they "
                "come.",
                file=str(path),
            )
        if found.st_size == 0:
            raise DataError(
                "the file is empty (0 bytes)", remedy="Write the rows to it.", file=str(path)
            )
        yield
    except OSError as error:
        raise DataError(
            f"cannot be opened ({error.strerror or error})",
            remedy="Check the path and its permissions.",
            file=str(path),
        ) from None


def is_untyped(path: Path) -> bool:
    """Whether the file's format has no types, so that labels are strings until inferred."""
    return path.suffix.lower() in (".csv", ".tsv")


def missing_path(path: Path) -> DataError:
    """The error for a path that does not exist, with names that are close to it."""
    folder = path.parent
    if not folder.is_dir():
        return DataError(
            f'the folder "{folder}" does not exist', remedy="Check the path.", file=str(path)
        )
    names = [child.name for child in folder.iterdir()]
    close = difflib.get_close_matches(path.name, names, n=3)
    hint = " or ".join(f'"{folder / name}"' for name in close)
    return DataError(
        "there is no such file or folder",
        remedy=f"Did you mean {hint}?" if hint else "Check the path.",
        file=str(path),
    )


def find_splits(folder: Path) -> dict[str, list[Path]]:
    """The data files of a folder by split, shards in the order of their names.

    One file of any name is train. Raises DataError where the names do not tell the splits.
    """
    children = sorted(child for child in folder.iterdir() if not child.name.startswith("."))
    splits: dict[str, list[Path]] = {}
    for child in children:
        split = split_of(child.name)
        if split is None:
            continue
        if child.is_dir():
            inside = sorted(filter(_is_data, child.iterdir()))
            if not inside:
                raise DataError(
                    "the folder has no data file", remedy=f"{_EXPECTED}.", file=str(child)
                )
            splits.setdefault(split, []).extend(inside)
        elif _is_data(child):
            splits.setdefault(split, []).append(child)
    for split, files in splits.items():
        _check_shards(split, files, folder)
    if splits:
        return {split: splits[split] for split in SPLITS if split in splits}
    if [child.name for child in children if child.is_dir()] == ["data"]:
        return find_splits(folder / "data")
    files = list(filter(_is_data, children))
    if len(files) == 1:
        return {"train": files}
    found = ", ".join(child.name for child in children[:8]) or "nothing"
    raise DataError(
        f"no file here names its split (found: {found})",
        remedy=f"{_EXPECTED}.",
        file=str(folder),
    )


def _is_data(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in _READERS and not path.name.startswith(".")


def _check_shards(split: str, files: list[Path], folder: Path) -> None:
    """Shards differ in their numbers only: train.csv beside train_old.csv is no shard of it."""
    patterns = {re.sub(r"\d+", "#", f"{file.parent}/{file.name}") for file in files}
    if len(patterns) > 1:
        names = ", ".join(str(file.relative_to(folder)) for file in files[:6])
        raise DataError(
            f'several files could be the split "{split}": {names}',
            remedy=f'Keep one of them here, or name it: {{"{split}": "{files[0]}"}}.',
            file=str(folder),
        )


def _read_parquet(path: Path) -> pa.Table:
    with reading_parquet(path):
        check_names(path, pa.parquet.read_schema(path).names)
        return pa.parquet.read_table(path)


@contextmanager
def reading_parquet(path: Path) -> Iterator[None]:
    """What is done within reads a parquet file; raises DataError where it is damaged."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        words = str(error)
        if "magic bytes" in words or "Couldn't deserialize" in words:
            found = "this is no parquet file, or its end is missing"
        else:
            found = f"the parquet file is damaged ({faults.shorten(words, 100)})"
        raise DataError(
            found, remedy="Copy or download it again, or write it anew.", file=str(path)
        ) from None


def _read_csv(path: Path) -> pa.Table:
    return _read_separated(path, ",")


def _read_tsv(path: Path) -> pa.Table:
    return _read_separated(path, "\t")


def _read_separated(path: Path, delimiter: str) -> pa.Table:
    try:
        names = _read_header(path, delimiter)
        parse = pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
        convert = pa.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            strings_can_be_null=True,
            null_values=[""],
        )
        return _in_blocks(
            path,
            lambda block: pa.csv.read_csv(
                path,
                read_options=pa.csv.ReadOptions(block_size=block),
                parse_options=parse,
                convert_options=convert,
            ),
        )
    except (pa.ArrowInvalid, UnicodeDecodeError, csv.Error) as error:
        raise faults.find_csv_fault(path, delimiter, error) from None


def _read_header(path: Path, delimiter: str) -> list[str]:
    """Column names; a header that another separator would cut is an error."""
    with path.open(encoding="utf-8-sig", newline="") as lines:
        names = next((row for row in csv.reader(lines, delimiter=delimiter) if row), None)
    return check_header(path, delimiter, names)


def check_header(path: Path, delimiter: str, names: list[str] | None) -> list[str]:
    """The names in a csv file's first row; raises DataError where they are none, or name one
    column twice, or are parted by something else than the delimiter.
    """
    if names is None:
        raise DataError(
            "the file is empty", remedy="Write a header and the rows to it.", file=str(path)
        )
    other = next((mark for mark in ",;\t|" if len(names) == 1 and mark in names[0]), None)
    if other is not None:
        shown = {"\t": "tab"}
        raise DataError(
            f'the header is one field ("{faults.shorten(names[0])}"): the fields are separated by '
            f'"{shown.get(other, other)}", not by "{shown.get(delimiter, delimiter)}"',
            remedy=f"Save it with {'tabs' if delimiter == chr(9) else 'commas'}, or pass "
            f"pandas.read_csv({path.name!r}, sep={other!r}) as the data.",
            file=str(path),
        )
    check_names(path, names)
    return names


def _read_jsonl(path: Path) -> pa.Table:
    try:
        if _has_null_row(path):
            raise ValueError("a row is null")
        table = _parse_jsonl(path, None)
        if any(_is_mistaken(field.type) for field in table.schema):
            # pyarrow takes texts that look like dates for dates, and lists of nulls become invalid
            # arrays: read them again as what they are.
            fields = [pa.field(field.name, _as_text(field.type)) for field in table.schema]
            table = _parse_jsonl(path, pa.schema(fields))
        table.validate(full=True)
        return table
    except (pa.ArrowException, ValueError, RecursionError) as error:
        raise faults.find_jsonl_fault(path, error) from None


def _has_null_row(path: Path) -> bool:
    """Whether a line begins with null: where one begins a block, pyarrow 26 ends the process."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start = content[:1024].removeprefix(b"\xef\xbb\xbf").lstrip()
        return start.startswith(b"null") or _NULL_ROW.search(content) is not None


def _parse_jsonl(path: Path, schema: pa.Schema | None) -> pa.Table:
    parse = pa.json.ParseOptions(explicit_schema=schema)
    return _in_blocks(
        path,
        lambda block: pa.json.read_json(
            path, read_options=pa.json.ReadOptions(block_size=block), parse_options=parse
        ),
    )


def _read_json(path: Path) -> pa.Table:
    """A JSON array of objects, or JSON Lines under the other's name."""
    with path.open("rb") as file:
        start = file.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip()
    if not start.startswith(b"["):
        return _read_jsonl(path)
    try:
        rows = json.loads(faults.read_utf8(path))
    except json.JSONDecodeError as error:
        raise DataError(
            f"broken JSON at line {error.lineno}, character {error.colno} ({error.msg})",
            remedy="Write an array of objects, or JSON Lines with one object a line.",
            file=str(path),
        ) from None
    return table_from_rows(rows, file=str(path))


def _in_blocks(path: Path, read: Callable[[int], Any]) -> pa.Table:
    try:
        return read(_BLOCK)
    except pa.ArrowInvalid as error:
        if "straddling" not in str(error):
            raise
        return read(min(path.stat().st_size + 1, _LARGEST_BLOCK))


def check_names(path: Path, names: list[str]) -> None:
    """Raises DataError where two columns have one name."""
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise DataError(
            f'two columns are called "{twice}"', remedy="Rename one of them.", file=str(path)
        )


def _is_mistaken(kind: pa.DataType) -> bool:
    has_nulls = pa.types.is_list(kind) and pa.types.is_null(kind.value_type)
    return (
        has_nulls
        or pa.types.is_timestamp(kind)
        or any(_is_mistaken(kind.field(i).type) for i in range(kind.num_fields))
    )


def _as_text(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(kind):
        return pa.string()
    if pa.types.is_list(kind):
        value = kind.value_type
        return pa.list_(pa.string() if pa.types.is_null(value) else _as_text(value))
    if pa.types.is_struct(kind):
        fields = [kind.field(i) for i in range(kind.num_fields)]
        return pa.struct([(field.name, _as_text(field.type)) for field in fields])
    return kind


def _read_text(path: Path) -> pa.Table:
    """A row for each line that is not blank."""
    # Not splitlines: `predict` knows no other ends of a line, and loses none of their characters.
    lines = [line.rstrip("\r") for line in faults.read_utf8(path).split("\n") if line.strip()]
    return pa.table({"text": pa.array(lines, pa.string())})


_READERS: dict[str, Callable[[Path], pa.Table]] = {
    ".parquet": _read_parquet,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".txt": _read_text,
    ".conll": read_conll,
    ".bio": read_conll,
    ".iob": read_conll,
}
