"""Broken variants of rows, JSON, safetensors and bytes, each drawn from a random.Random.

What hands, editors, exports, disks and strangers do to a file. Imported by `faults.py` and by
tests; it imports nothing of ftkit, so it knows none of its checks.
"""

from __future__ import annotations

import copy
import csv
import io
import json
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

Row: TypeAlias = dict[str, Any]


# Values that a cell or a setting did not expect.
VALUES: tuple[Any, ...] = (
    *(None, True, False, "", " ", "\n", "NaN", "null", "0", "1", "-1", "2020-01-01", "1e999"),
    *(0, 1, -1, 2, 7, 127, 10**4, 2**31 - 1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63)),
    *(10**40, -(10**40), 0.5, -0.0, 1e308, 1e-320, float("nan"), float("inf"), float("-inf")),
    *([], [[]], [None], {}, {"": None}, {"a": {"b": [1, "x", None]}}, [1, "x", None, 2.5], [0, -1]),
    *("\ud800", "\x00", "\ufeff", "e\u0301", "\u202eabc", "\U0001f468\u200d\U0001f469", "\r\n\t"),
    *("../../etc/passwd", "a/b", "__class__", "{}{0}%s%n", "x" * 70_000, "\u0130" * 50, "[PAD]"),
    *("deep 60", "deep 900", "deep 3000"),
)
_BYTES = (
    *(b"\xef\xbb\xbf", b"\xff\xfe", b"\x00", b"\xff", b"\xc3", b"\xed\xa0\x80", b'"', b"'", b'""'),
    *(b",", b";", b"\t", b"\n", b"\r", b"\r\n", b"\n\n\n", b"{", b"}", b"[", b"]", b":", b"\\"),
    *(b"NaN", b"null", b"1e999", b"-", b"9" * 400, b"\\ud800", b"\\u0000", b"PAR1", b"[" * 5000),
    b"\xe2\x80\xa8",
)
_ARROW_TYPES = (
    *(pa.large_string(), pa.binary(), pa.large_binary(), pa.null(), pa.int8(), pa.uint64()),
    *(pa.float16(), pa.float32(), pa.bool_(), pa.date32(), pa.timestamp("ns"), pa.time64("us")),
    *(pa.decimal128(30, 4), pa.list_(pa.string()), pa.large_list(pa.string()), pa.string_view()),
    *(pa.dictionary(pa.int8(), pa.string()), pa.list_(pa.string(), 2), pa.duration("s")),
    *(pa.list_(pa.int64()), pa.map_(pa.string(), pa.int64()), pa.struct([("text", pa.string())])),
    *(
        pa.list_(pa.dictionary(pa.int8(), pa.string())),
        pa.list_(pa.null()),
        pa.list_view(pa.string()),
    ),
)


def draw(chance: random.Random) -> Any:
    """One of `VALUES`, a copy of its own; "deep N" is a list N levels deep."""
    drawn = copy.deepcopy(chance.choice(VALUES))
    if not isinstance(drawn, str) or not drawn.startswith("deep "):
        return drawn
    value: Any = "x"
    for _ in range(int(drawn[5:])):
        value = [value]
    return value


@contextmanager
def deep_recursion() -> Iterator[None]:
    """Within, lists some thousand levels deep can be made and written."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


# JSON


def mutate_json(value: Any, chance: random.Random) -> str:
    """Change one place of a value of JSON, in place; what was done."""
    holder, key, path = _pick(value, chance)
    old = holder[key]
    kind = chance.choice(("replace", "replace", "remove", "nudge", "wrap", "swap", "add"))
    if kind == "nudge" and isinstance(old, (int, float)) and not isinstance(old, bool):
        holder[key] = chance.choice((old + 1, old - 1, -old, old * 10, old * 10**6, float(old)))
    elif kind == "nudge" and isinstance(old, str) and old:
        place = chance.randrange(len(old))
        holder[key] = (
            old[:place] + chance.choice(("", "x", "\x00", " ", "\U0001f600")) + old[place + 1 :]
        )
    elif kind == "nudge" and isinstance(old, list) and old:
        holder[key] = chance.choice((old[:-1], old[1:], old + old, old[::-1], [*old, None]))
    elif kind == "remove":
        del holder[key]
    elif kind == "wrap":
        holder[key] = chance.choice(([old], {"x": old}, str(old)))
    elif kind == "add" and isinstance(holder, dict):
        holder[chance.choice(("", "x", "text", "label", "_", key + " "))] = draw(chance)
    elif kind == "swap":
        other = _pick(value, chance)
        holder[key] = copy.deepcopy(other[0][other[1]])
        path += f" <- {other[2]}"
    else:
        kind, holder[key] = "replace", draw(chance)
        path += f" = {shown(holder[key])}"
    return f"{kind} {path}"


def _pick(value: Any, chance: random.Random) -> tuple[Any, Any, str]:
    """A container within, a key of it, and their path; shallow places as often as deep ones."""
    holder, key, path = value, None, ""
    while True:
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        key = chance.choice(list(keys)) if isinstance(holder, dict) else chance.randrange(len(keys))
        path += f"/{key}"
        inner = holder[key]
        if not isinstance(inner, (dict, list)) or not inner or chance.random() < 0.2:
            return holder, key, path
        holder = inner


def write_json(value: Any) -> bytes:
    """JSON as the laxest of writers gives it: NaN, lone surrogates and all."""
    return json.dumps(value).encode()


# Rows


def mutate_rows(rows: list[Row], chance: random.Random) -> str:
    """Change some rows in place; what was done."""
    if not rows or not all(isinstance(row, dict) for row in rows) or not rows[0]:
        return "nothing"
    name = chance.choice(list(rows[0]))
    return f"{(how := chance.choice(_ROW_MUTATIONS)).__name__} {name}: {how(rows, name, chance)}"


def drop_column(rows: list[Row], name: str, chance: random.Random) -> str:
    for row in rows:
        row.pop(name, None)
    return ""


def rename_column(rows: list[Row], name: str, chance: random.Random) -> str:
    new = chance.choice((name.upper(), f"{name} ", f"{name}s", "", "x", "\ufeff" + name, "id"))
    for row in rows:
        row[new] = row.pop(name, None)
    return repr(new)


def drop_cell(rows: list[Row], name: str, chance: random.Random) -> str:
    place = chance.randrange(len(rows))
    rows[place].pop(name, None)
    return f"row {place}"


def set_cell(rows: list[Row], name: str, chance: random.Random) -> str:
    place, value = chance.randrange(len(rows)), draw(chance)
    rows[place][name] = value
    return f"row {place} = {shown(value)}"


def set_column(rows: list[Row], name: str, chance: random.Random) -> str:
    value = draw(chance)
    for row in rows:
        row[name] = value
    return shown(value)


def add_column(rows: list[Row], name: str, chance: random.Random) -> str:
    new = chance.choice(
        ("text", "label", "labels", "tokens", "tags", "entities", "answer", "target")
    )
    new = chance.choice((new, "answers", "answer_start", "references", "text_pair", "context"))
    value = chance.choice((draw(chance), rows[0].get(name)))
    for row in rows:
        row[new] = value
    return f"{new} = {shown(value)}"


def change_inside(rows: list[Row], name: str, chance: random.Random) -> str:
    place = chance.randrange(len(rows))
    return f"row {place} {mutate_json(rows[place], chance)}" if rows[place] else ""


def swap_columns(rows: list[Row], name: str, chance: random.Random) -> str:
    other = chance.choice(list(rows[0]))
    for row in rows:
        row[name], row[other] = row.get(other), row.get(name)
    return other


def swap_cells(rows: list[Row], name: str, chance: random.Random) -> str:
    one, two = chance.choice(rows), chance.choice(rows)
    one[name], two[name] = two.get(name), one.get(name)
    return ""


def keep_few(rows: list[Row], name: str, chance: random.Random) -> str:
    del rows[chance.choice((0, 1, 2, 3)) :]
    return f"{len(rows)} rows"


def make_alike(rows: list[Row], name: str, chance: random.Random) -> str:
    for row in rows:
        row[name] = rows[0].get(name)
    return ""


def put_in_a_non_row(rows: list[Row], name: str, chance: random.Random) -> str:
    value = draw(chance)
    rows.insert(chance.randrange(len(rows)), value)
    return shown(value)


_ROW_MUTATIONS: tuple[Callable[[list[Row], str, random.Random], str], ...] = (
    *(drop_column, rename_column, drop_cell, set_cell, set_cell, set_column, add_column),
    *(change_inside, change_inside, change_inside, swap_columns, swap_cells, keep_few, make_alike),
    put_in_a_non_row,
)


def write_rows(rows: list[Any], kind: str, chance: random.Random) -> tuple[bytes, str]:
    """The rows as a csv, jsonl or parquet file; what the writer did to them."""
    if kind == "jsonl":
        return b"\n".join(map(write_json, rows)), ""
    rows = [row if isinstance(row, dict) else {"x": row} for row in rows]
    names = list(dict.fromkeys(name for row in rows for name in row))
    if kind == "csv":
        text = io.StringIO()
        writer = csv.writer(text, quoting=chance.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL)))
        if chance.random() < 0.1:
            names = [*names, *names[:1]]
        writer.writerow(names)
        writer.writerows([_cell(row.get(name)) for name in names] for row in rows)
        return text.getvalue().encode("utf-8", "surrogatepass"), ""
    said, arrays = [], []
    for name in names:
        values = [row.get(name) for row in rows]
        array = _array(values)
        if chance.random() < 0.15:
            cast = _cast(values, array, kind := chance.choice(_ARROW_TYPES))
            if cast is not None:
                array = cast
                said.append(f"{name} as {kind}")
        arrays.append(array)
    if names and chance.random() < 0.03:
        names, arrays = [*names, names[0]], [*arrays, arrays[0]]
    file = io.BytesIO()
    try:
        pq.write_table(pa.table(arrays, names=[_sound(name) for name in names]), file)
    except (pa.ArrowException, NotImplementedError):
        file = io.BytesIO()
        texts = [pa.array([str(value) for value in array.to_pylist()]) for array in arrays]
        pq.write_table(pa.table(texts, names=[_sound(name) for name in names]), file)
    return file.getvalue(), ", ".join(said)


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (list, dict)) else value


def _array(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowException, ValueError, OverflowError, TypeError, RecursionError):
        return pa.array([None if value is None else _sound(str(value)) for value in values])


def _cast(values: list[Any], array: pa.Array, kind: pa.DataType) -> pa.Array | None:
    try:
        return array.cast(kind)
    except (pa.ArrowException, ValueError, OverflowError):
        pass
    try:
        return pa.array([None] * len(values), kind)
    except (pa.ArrowException, ValueError):
        return None


def _sound(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


# Bytes


def mutate_bytes(data: bytes, chance: random.Random) -> tuple[bytes, str]:
    """The bytes with one change, and what it was."""
    size = len(data)
    start = chance.randrange(size + 1)
    if chance.random() < 0.5:
        start = min(start, chance.randrange(64))
    end = min(size, start + chance.choice((1, 1, 4, 16, 200)))
    kind = chance.choice(("flip", "flip", "cut", "drop", "put", "put", "again", "over", "whole"))
    if kind == "flip" and start < size:
        bit = 1 << chance.randrange(8)
        return data[:start] + bytes([data[start] ^ bit]) + data[
            start + 1 :
        ], f"flip {bit} at {start}"
    if kind == "cut":
        return data[:start], f"cut at {start}"
    if kind == "drop":
        return data[:start] + data[end:], f"drop {start}:{end}"
    if kind == "again":
        return data[:end] + data[start:], f"again {start}:{end}"
    if kind == "whole":
        how = chance.choice(("empty", "utf-16", "zeros", "twice", "latin-1", "no newline", "noise"))
        text = data.decode("utf-8", "replace")
        return {
            "empty": b"",
            "utf-16": text.encode("utf-16"),
            "zeros": bytes(size),
            "twice": data + data,
            "latin-1": text.replace("a", "\xe4").encode("latin-1", "replace"),
            "no newline": data.replace(b"\n", b""),
            "noise": chance.randbytes(max(1, size // 2)),
        }[how], how
    put = chance.choice((*_BYTES, chance.randbytes(8)))
    rest = data[end:] if kind == "over" else data[start:]
    return data[:start] + put + rest, f"{kind} {put[:12]!r} at {start}"


def mutate_safetensors(data: bytes, chance: random.Random) -> tuple[bytes, str]:
    """A file of safetensors with a change in its header, which stays JSON, or in any byte."""
    if chance.random() < 0.4:
        return mutate_bytes(data, chance)
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    said = mutate_json(header, chance)
    if chance.random() < 0.3:
        one, two = chance.choice(list(header)), chance.choice(list(header))
        header[one], header[two] = header[two], header[one]
        said += f", {one} <-> {two}"
    written = write_json(header)
    return len(written).to_bytes(8, "little") + written + body, f"header: {said}"


def shown(value: Any) -> str:
    """A value for one line of a report."""
    try:
        text = ascii(value)
    except RecursionError:
        text = "(deep)"
    return text if len(text) < 40 else f"{text[:37]}..."
