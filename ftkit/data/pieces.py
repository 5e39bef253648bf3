"""Rows to be answered, read piece by piece in flat memory: from a file, or from lines of text.

A row of csv, tsv or JSON Lines that cannot be read is passed over, with the error that says why; it
keeps its place. These files are read through once before, which takes seconds, so that columns,
types and the number of rows are known, and a quote that is never closed is met, before the work
begins. A source that is no file of rows (a folder, a .json array, the hub) is read whole. Imports
the other rooms of `data`; `jobs` calls it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from ftkit.data import files
from ftkit.data.columns import ColumnMap, check_map, find_columns, missing_column
from ftkit.data.lines import READERS, Row, read_lines, read_object, read_text
from ftkit.data.memory import check_utf8, table_from_rows
from ftkit.data.parts import open_source
from ftkit.errors import DataError, FtkitWarning, first_line
from ftkit.task import Task

_SURVEYED = 4096  # rows whose types are looked at together


@dataclass(frozen=True)
class Piece:
    """Consecutive rows of a source."""

    first: int
    """Number of the first row, from 0."""
    content: pa.Table | list[dict[str, Any]]
    """The rows, under the user's own names; a dict without keys where one could not be read."""
    errors: Mapping[int, DataError]
    """Why rows could not be read, by their place from 0."""

    def __len__(self) -> int:
        return len(self.content)

    def rows(self, names: Iterable[str] | None = None) -> list[dict[str, Any]]:
        """A dict a row, of these columns at least."""
        if isinstance(self.content, list):
            return self.content
        table = self.content if names is None else self.content.select(list(names))
        listed: list[dict[str, Any]] = table.to_pylist()
        return listed

    def table(self, schema: pa.Schema) -> pa.Table:
        """The rows as a table."""
        if isinstance(self.content, list):
            return pa.Table.from_pylist(self.content, schema=schema)
        return self.content


@dataclass(frozen=True)
class RowSource:
    """Where rows come from, and what is known of them before they are read."""

    name: str
    """What a message calls it."""
    pieces: Callable[[int], Iterator[Piece]]
    """Its rows from the first, so many in a piece."""
    total: int | None = None
    """How many rows it has; None where that is not known."""
    schema: pa.Schema | None = None
    """Its columns; None where they are not known."""
    mixed: DataError | None = None
    """Why the rows make no table, where they do not."""
    groups: tuple[int, ...] = ()
    """Rows of each row group, of a Parquet file."""
    blank: int = 0
    """Blank lines of a text file, which are no rows."""


def open_rows(source: str, task: Task) -> RowSource:
    """The rows of a .csv, .tsv, .jsonl, .txt or .parquet file, or of another source of `load_data`.

    Of a source with several splits it takes test, else validation, else train.

    Raises DataError for a source that is missing, empty or cannot be read as what it is.
    """
    path = Path(source).expanduser()
    kind = path.suffix.lower()
    if not path.is_file() or kind not in (".parquet", *READERS):
        table = next(reversed(open_source(source, needs_train=False).values())).table
        found = RowSource(str(path), lambda size: _slices(table, size), len(table), table.schema)
    elif kind == ".parquet":
        found = open_parquet(path)
    else:
        found = _survey(path)
    if not found.total:
        raise DataError("the file has no rows", remedy="Write rows to it.", file=str(path))
    return found


def open_lines(lines: Iterable[bytes], task: Task, *, is_awaited: bool) -> RowSource:
    """Rows that come in line by line: a text, or a JSON object where the task reads several.

    Where somebody waits for the answers, at a terminal, each line is a piece of its own.
    """
    texts = [column for column in task.columns() if column.kind == "text"]
    has_several = sum(column.is_required for column in texts) > 1

    def read(line: bytes) -> Row:
        return read_object(line) if has_several else read_text(line, texts[0].name)

    def rows() -> Iterator[Row]:
        blank = yield from _without_blanks(read_lines(lines, read))
        if blank:
            warn_of_blanks(blank)

    return RowSource(
        "standard input",
        lambda size: _pieces(rows(), 1 if is_awaited else size),
        schema=None if has_several else pa.schema([(texts[0].name, pa.string())]),
    )


def warn_of_blanks(count: int) -> None:
    """Say that blank lines are no rows."""
    said = f"left out: {count:,} blank lines; the numbers of rows do not count them"
    warnings.warn(said, FtkitWarning, stacklevel=3)


def find_inputs(source: RowSource, task: Task, columns: ColumnMap | None) -> dict[str, str]:
    """The user's column for each that the task's model reads; `columns` as in `load_data`.

    Raises DataError for a column that is missing, or that holds something else than text.
    """
    given = check_map(columns, task.columns())
    wanted = [column for column in task.columns() if column.is_input]
    given = {column.name: given[column.name] for column in wanted if column.name in given}
    schema = source.schema
    if schema is None:
        return {column.name: str(given.get(column.name, column.name)) for column in wanted}
    try:
        found = find_columns(schema, given, wanted)
        if not found:
            raise missing_column(schema, wanted[0], wanted, given)
        for column in wanted:
            kind = schema.field(found[column.name]).type if column.name in found else pa.null()
            if column.kind == "text" and (pa.types.is_primitive(kind) or pa.types.is_nested(kind)):
                raise DataError(
                    f"values of type {kind} where texts belong",
                    remedy="Name the column that holds the text, with --columns "
                    f"{column.name}=....",
                    column=str(found[column.name]),
                )
    except DataError as error:
        raise error.located(source.name) from None
    return {name: str(theirs) for name, theirs in found.items()}


# Text


def _without_blanks(rows: Iterable[Row | None]) -> Generator[Row, None, int]:
    """The rows; returns how many blank lines, None, were among them."""
    blank = 0
    for row in rows:
        if row is None:
            blank += 1
        else:
            yield row
    return blank


def _pieces(rows: Iterator[Row], size: int) -> Iterator[Piece]:
    first = 0
    while part := list(islice(rows, size)):
        errors = {i: row for i, row in enumerate(part) if isinstance(row, DataError)}
        yield Piece(first, [{} if isinstance(row, DataError) else row for row in part], errors)
        first += len(part)


def _survey(path: Path) -> RowSource:
    """The rows of a text file, of which it is known how many there are and what they hold."""
    read = READERS[path.suffix.lower()]
    total = blank = 0

    def rows() -> Generator[Row, None, int]:
        with files.opening(path), path.open("rb") as file:
            return (yield from _without_blanks(read(file, path)))

    def counted() -> Iterator[Row]:
        nonlocal blank
        blank = yield from rows()

    schema, mixed = pa.schema([]), None
    for piece in _pieces(counted(), _SURVEYED):
        total += len(piece)
        names = dict.fromkeys(name for row in piece.rows() for name in row)
        if mixed is None:
            try:
                # A key that a row lacks is null, and so are rows that cannot be read.
                found = table_from_rows(piece.rows(), file=str(path)).schema
                schema = pa.unify_schemas([schema, found], promote_options="permissive")
            except DataError as error:
                mixed = error.located(row=error.row and error.row + piece.first)
            except pa.ArrowException as error:
                mixed = DataError(
                    f"rows before row {piece.first + 1:,} have other types ({first_line(error)})",
                    remedy="Give each column one type.",
                    file=str(path),
                )
        for name in names.keys() - set(schema.names):
            schema = schema.append(pa.field(name, pa.null()))
    # What is null in every row may as well be text.
    for place, field in enumerate(schema):
        if pa.types.is_null(field.type):
            schema = schema.set(place, field.with_type(pa.string()))
    return RowSource(
        str(path), lambda size: _pieces(rows(), size), total, schema, mixed, blank=blank
    )


# Tables


def _slices(table: pa.Table, size: int) -> Iterator[Piece]:
    for first in range(0, len(table), size):
        yield Piece(first, table.slice(first, size), {})


def open_parquet(path: Path, chosen: range | None = None) -> RowSource:
    """The rows of a .parquet file, or of the row groups chosen; they keep their numbers.

    Raises DataError for a file that is missing or damaged.
    """
    with files.opening(path), files.reading_parquet(path):
        with pa.parquet.ParquetFile(path) as file:
            schema, about = file.schema_arrow, file.metadata
        files.check_names(path, schema.names)
    sizes = tuple(about.row_group(i).num_rows for i in range(about.num_row_groups))
    chosen = range(len(sizes)) if chosen is None else chosen
    groups = sizes[chosen.start : chosen.stop]

    def pieces(size: int) -> Iterator[Piece]:
        # Column chunks are read bit by bit: a row group may be larger than the memory.
        options: dict[str, Any] = {"buffer_size": 1 << 20, "pre_buffer": False}
        first = sum(sizes[: chosen.start])
        with pa.parquet.ParquetFile(path, **options) as file:
            batches = file.iter_batches(size, chosen)
            while True:
                with files.reading_parquet(path):
                    batch = next(batches, None)
                if batch is None:
                    return
                piece = Piece(first, pa.Table.from_batches([batch]), {})
                try:
                    check_utf8(piece.content, str(path))
                except DataError as error:
                    raise error.located(row=error.row and error.row + first) from None
                yield piece
                first += len(piece)

    return RowSource(str(path), pieces, sum(groups), schema, groups=groups)
