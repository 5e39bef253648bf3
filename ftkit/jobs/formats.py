"""Rows and their answers as bytes: JSON Lines, or columns for Parquet.

What is written for a piece of rows stands for itself, so that a job can be cut off between two
pieces and go on. Imports pyarrow and the rows of `data.pieces`; the other rooms of `jobs` call it.
"""

from __future__ import annotations

import json
import math
import os
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet

from ftkit.data.pieces import Piece, RowSource
from ftkit.errors import DataError
from ftkit.task import Prediction

PREDICTION = "prediction"
ERROR = "prediction_error"
"""The column that says why a row has no prediction."""

# Rows of Parquet that are compressed together; fewer where they are long.
_ROW_GROUP, _GROUP_BYTES = 1 << 16, 1 << 26
_TYPES = {str: pa.string(), float: pa.float64(), int: pa.int64(), bool: pa.bool_()}


class Format(Protocol):
    """How rows and answers are written."""

    def encode(
        self, piece: Piece, answers: Sequence[Prediction | None], errors: Mapping[int, str]
    ) -> bytes:
        """The rows of a piece with their answers; `errors` says, by place, why there is none."""
        ...

    def assemble(self, part: Path, whole: Path) -> None:
        """Make the file that was asked for out of one with what `encode` gave, end to end."""
        ...


class JsonLines:
    """A line a row: its columns, and `to_dict()` of its prediction, which is null where there is
    none; then "prediction_error" says why.
    """

    def encode(
        self, piece: Piece, answers: Sequence[Prediction | None], errors: Mapping[int, str]
    ) -> bytes:
        """UTF-8; a number that is none, such as nan, is null."""
        lines = []
        for place, (row, answer) in enumerate(zip(piece.rows(), answers, strict=True)):
            line = {**row, PREDICTION: None if answer is None else answer.to_dict()}
            if place in errors:
                line[ERROR] = errors[place]
            lines.append(_json(line) + "\n")
        return "".join(lines).encode()

    def assemble(self, part: Path, whole: Path) -> None:
        """Lines end to end are the file."""
        part.replace(whole)


def _json(line: Mapping[str, Any]) -> str:
    try:
        return json.dumps(line, ensure_ascii=False, allow_nan=False, default=str)
    except ValueError:
        return json.dumps(_finite(line), ensure_ascii=False, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class Columns:
    """Parquet: the columns of the rows, as they were, then `prediction`, a struct with the fields
    of the task's prediction, and `prediction_error`, a text.

    Both are null where they have nothing to say. A dict, such as the scores of labels, is a map.
    """

    schema: pa.Schema

    @classmethod
    def of(cls, source: RowSource, prediction: type) -> Columns:
        """The columns for rows of `source` and predictions of that class.

        Raises DataError for rows that make no table, or none that Parquet can hold.
        """
        if source.schema is None:
            raise DataError(
                "what comes line by line has no columns of known types",
                remedy="Write --output FILE.jsonl.",
                file=source.name,
            )
        if source.mixed is not None:
            raise source.mixed
        schema = source.schema.append(pa.field(PREDICTION, arrow_type(prediction)))
        schema = schema.append(pa.field(ERROR, pa.string()))
        # What datasets notes there names the columns, and would hide these two.
        metadata = {k: v for k, v in (schema.metadata or {}).items() if k != b"huggingface"}
        schema = schema.with_metadata(metadata)
        try:
            pa.parquet.ParquetWriter(pa.BufferOutputStream(), schema).close()
        except pa.ArrowException as error:
            raise DataError(
                f"Parquet cannot hold these columns ({error})",
                remedy="Write --output FILE.jsonl.",
                file=source.name,
            ) from None
        return cls(schema)

    def encode(
        self, piece: Piece, answers: Sequence[Prediction | None], errors: Mapping[int, str]
    ) -> bytes:
        """An Arrow stream of its own."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.schema) as stream:
            stream.write_table(self.table(piece, answers, errors))
        return bytes(sink.getvalue())

    def table(
        self, piece: Piece, answers: Sequence[Prediction | None], errors: Mapping[int, str]
    ) -> pa.Table:
        """The rows of a piece with their answers; `errors` says, by place, why there is none."""
        *own, prediction, error = self.schema
        table = piece.table(pa.schema(own))
        found = pa.array(map(_plain, answers), prediction.type)
        said = pa.array([errors.get(place) for place in range(len(piece))], error.type)
        return pa.table([*table.columns, found, said], schema=self.schema)

    def assemble(self, part: Path, whole: Path) -> None:
        """One Parquet file of all streams; no more than a row group is held at once."""
        partial = part.with_name(f"{part.name}.parquet")
        with pa.OSFile(str(part)) as streams, write_groups(partial, self.schema) as add:
            while streams.tell() < streams.size():
                add(pa.ipc.open_stream(streams).read_all())
        partial.replace(whole)
        part.unlink()


@contextmanager
def write_groups(path: Path, schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    """A new Parquet file, on the disk in the end, and the function that adds rows to it; no more
    than a row group is held at once.
    """
    held: list[pa.Table] = []

    def add(table: pa.Table) -> None:
        held.append(table)
        if sum(map(len, held)) >= _ROW_GROUP or sum(each.nbytes for each in held) >= _GROUP_BYTES:
            write()

    def write() -> None:
        writer.write_table(pa.concat_tables(held), row_group_size=_ROW_GROUP)
        held.clear()

    with path.open("wb") as file:
        with pa.parquet.ParquetWriter(file, schema) as writer:
            yield add
            if held:
                write()
        file.flush()
        os.fsync(file.fileno())


def arrow_type(hint: Any) -> pa.DataType:
    """The Arrow type for values that are annotated so: a dataclass is a struct, a dict a map."""
    if hint in _TYPES:
        return _TYPES[hint]
    if is_dataclass(hint) and isinstance(hint, type):
        hints = typing.get_type_hints(hint)
        return pa.struct([(each.name, arrow_type(hints[each.name])) for each in fields(hint)])
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is dict:
        return pa.map_(*map(arrow_type, arguments))
    if origin in (list, tuple):
        return pa.list_(arrow_type(arguments[0]))
    if origin in (types.UnionType, typing.Union):
        (inner,) = (each for each in arguments if each is not type(None))
        return arrow_type(inner)
    raise TypeError(f"no column can hold {hint}")


def _plain(value: Any) -> Any:
    """What Arrow makes structs, lists and maps of."""
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return [(name, _plain(each)) for name, each in value.items()]
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value
