"""A CoNLL text file -> an Arrow table of words and tags.

A line is a word and its tag, an empty line ends a sentence. Imports `errors` and `faults`; `files`
calls it. Everything it raises is a DataError that names the file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from ftkit.data.faults import read_utf8, shorten
from ftkit.errors import DataError

_DOCUMENT = "-DOCSTART-"


def read_conll(path: Path) -> pa.Table:
    """The sentences of a file: `tokens` and `tags`, lists of strings of the same length.

    Columns are parted by tabs where a line has one, else by spaces; the first is the word, the
    last its tag, others are left out. Lines of -DOCSTART- are left out too.

    Raises DataError, with the number of the line, for one of another number of columns, for bytes
    that are not UTF-8, and for a file without words.
    """
    tokens: list[str] = []
    tags: list[str] = []
    ends = [0]
    n_columns = 0
    # Not splitlines: a word may be, or hold, one of Unicode's other ends of a line.
    for number, line in enumerate(read_utf8(path).split("\n"), start=1):
        if not line.strip(" \t\r"):
            if len(tokens) > ends[-1]:
                ends.append(len(tokens))
            continue
        columns = _columns(line.rstrip("\r"))
        if columns[0] == _DOCUMENT:
            continue
        n_columns = n_columns or len(columns)
        if len(columns) != n_columns or n_columns < 2 or "" in (columns[0], columns[-1]):
            raise _ragged(path, number, line, len(columns), n_columns)
        tokens.append(columns[0])
        tags.append(columns[-1])
    if not tokens:
        raise DataError(
            "the file has no words",
            remedy="Write a word and its tag on each line, and an empty line between sentences.",
            file=str(path),
        )
    if len(tokens) > ends[-1]:
        ends.append(len(tokens))
    offsets = pa.array(np.array(ends, dtype=np.int32))
    lists = [
        pa.ListArray.from_arrays(offsets, pa.array(each, pa.string())) for each in (tokens, tags)
    ]
    return pa.table(lists, names=["tokens", "tags"])


def _columns(line: str) -> list[str]:
    if "\t" in line:
        return [column.strip(" ") for column in line.split("\t")]
    return [column for column in line.split(" ") if column]


def _ragged(path: Path, number: int, line: str, count: int, expected: int) -> DataError:
    found = f"line {number:,} ({shorten(line)}) has {count} column{'s' if count > 1 else ''}"
    if count != expected:
        found += f", and the lines before it have {expected}"
    elif expected > 1:
        found = f"line {number:,} ({shorten(line)}) has no word, or no tag"
    return DataError(
        found,
        remedy="Give each line a word and, in the last column, its tag, parted by a tab or spaces.",
        file=str(path),
    )
