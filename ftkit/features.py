"""Tokenised rows as flat arrays, and batches filled from them by a mask.

Imports numpy, `errors` and `task`; the loader and the predictor read rows and fill their batches
here, so that they agree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from ftkit.errors import DataError, quoted, unfit_value
from ftkit.task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_WINDOWED = "windows/"  # prefix of the arrays that have a value a token
_SEQUENCE = "sequence/"  # prefix of the arrays that have several values a row
_LENGTHS = "lengths/"  # prefix of how many values of a sequence each row has
IGNORED = -100
"""The target that no loss counts, transformers' and torch's convention."""

_POSITIONS = np.arange(512)
_NO_TOKEN = np.zeros(1, dtype=np.int32)


@dataclass(frozen=True)
class Padding:
    """What a tokenizer pads with, and on which side."""

    values: Mapping[str, int]
    """Value to pad each token array with; 0 for one that is not named."""
    side: str
    """"left" or "right"."""

    @classmethod
    def of(cls, tokenizer: Any) -> Padding:
        """The padding of a Hugging Face tokenizer."""
        values = {
            "input_ids": tokenizer.pad_token_id,
            "token_type_ids": tokenizer.pad_token_type_id,
        }
        return cls(values, tokenizer.padding_side)


@dataclass(frozen=True)
class Features:
    """Rows as arrays. Row r has windows `row_offsets[r]` up to `row_offsets[r + 1]`; window w has
    tokens `window_offsets[w]` up to `window_offsets[w + 1]` of every array in `tokens`.
    """

    tokens: dict[str, np.ndarray]
    """Flat arrays with a value a token, such as input_ids."""
    rows: dict[str, np.ndarray]
    """Arrays with a value (or a vector) a row, such as target."""
    window_offsets: np.ndarray
    row_offsets: np.ndarray
    sequences: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    """Flat arrays with several values a row, and the offsets of the rows in them."""

    def __len__(self) -> int:
        return len(self.row_offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens in the longest window of each row: (rows,)."""
        windows = np.diff(self.window_offsets)
        if not len(windows):
            return np.zeros(len(self), dtype=np.int64)
        return np.maximum.reduceat(windows, self.row_offsets[:-1])

    @property
    def windows(self) -> np.ndarray:
        """Windows of each row: (rows,)."""
        return np.diff(self.row_offsets)

    def count_cut(self) -> int:
        """Rows with tokens that stand in none of their windows."""
        return int((self.rows["n_cut"] > 0).sum())

    def fingerprint(self) -> str:
        """A hash of every value, the same for the same rows prepared in the same way."""
        digest = hashlib.sha256()
        flat = {name: values for name, (values, _) in self.sequences.items()}
        for name, values in {**self.tokens, **self.rows, **flat}.items():
            digest.update(name.encode() + str(values.shape).encode())
            digest.update(np.ascontiguousarray(values).data)
        digest.update(self.window_offsets.data)
        return digest.hexdigest()[:32]

    def fill(
        self,
        rows: np.ndarray,
        padding: Padding,
        drop: np.random.Generator | None = None,
        most_windows: int | None = None,
    ) -> dict[str, Any]:
        """Arrays of a batch: every token array padded to (windows, longest), with its mask, every
        sequence padded with -100 to (rows, longest), and every row array; "row" says which rows
        they are and "windows" counts their windows.

        Where the rows have more than `most_windows`, that many of each are drawn with `drop`.
        """
        counts = self.row_offsets[rows + 1] - self.row_offsets[rows]
        windows = self.row_offsets[rows]
        if counts.max() > 1:
            windows = np.repeat(windows - counts.cumsum() + counts, counts) + np.arange(
                counts.sum()
            )
            if drop is not None and most_windows is not None and len(windows) > most_windows:
                parts = np.split(windows, counts.cumsum()[:-1])
                each = max(1, most_windows // len(rows))
                drawn = [np.sort(drop.permutation(part)[:each]) for part in parts]
                windows, counts = np.concatenate(drawn), np.array([len(part) for part in drawn])
        starts, ends = self.window_offsets[windows], self.window_offsets[windows + 1]
        lengths = (ends - starts)[:, None]
        # An empty text has no token at all where the tokenizer adds none.
        longest = max(1, int(lengths.max()))
        position = _POSITIONS[:longest] if longest <= len(_POSITIONS) else np.arange(longest)
        if padding.side == "left":
            place, is_token = ends[:, None] - longest + position, position >= longest - lengths
        else:
            place, is_token = starts[:, None] + position, position < lengths
        mask = is_token.astype(np.int64)
        batch: dict[str, Any] = {"attention_mask": mask}
        for name, flat in self.tokens.items():
            # Places past the window are read too, because one take is faster than many slices.
            padded = np.take(flat if len(flat) else _NO_TOKEN, place, mode="clip") * mask
            if value := padding.values.get(name, 0):
                padded += value * (1 - mask)
            batch[name] = padded
        for name, values in self.rows.items():
            batch[name] = values[rows]
        for name, (flat, offsets) in self.sequences.items():
            batch[name] = _pad_sequences(flat, offsets[rows], offsets[rows + 1])
        return batch | {"row": rows, "windows": counts}


def _pad_sequences(flat: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """(rows, longest), with IGNORED behind the end of each row's values."""
    lengths = (ends - starts)[:, None]
    position = np.arange(max(1, int(lengths.max())))
    padded = np.full((len(starts), len(position)), IGNORED, dtype=np.int64)
    is_value = position < lengths
    padded[is_value] = flat[(starts[:, None] + position)[is_value]]
    return padded


def model_arrays(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a model is called with, of a batch as `Features.fill` gives it.

    Where a row has several windows, "windows" (rows, most windows) has the places of each row's
    own, and -1 behind them.
    """
    names = ("input_ids", "attention_mask", "token_type_ids", "row")
    arrays = {name: columns[name] for name in names if name in columns}
    counts = columns["windows"]
    if len(columns["input_ids"]) > len(counts):
        place = np.arange(counts.max())
        first = (counts.cumsum() - counts)[:, None]
        arrays["windows"] = np.where(place < counts[:, None], first + place, -1)
    return arrays


def slice_arrays(prepared: Mapping[str, list[Any]]) -> dict[str, np.ndarray]:
    """Flat arrays of what `Task.prepare` gave."""
    arrays: dict[str, np.ndarray] = {}
    for name, values in prepared.items():
        first = values[0] if values else 0
        if isinstance(first, list) and first and isinstance(first[0], list):
            flat = chain.from_iterable(chain.from_iterable(values))
            arrays[_WINDOWED + name] = np.fromiter(flat, dtype=np.int32)
            if name == "input_ids":
                lengths = [len(window) for row in values for window in row]
                arrays["window_lengths"] = np.array(lengths, dtype=np.int64)
                arrays["row_windows"] = np.array([len(row) for row in values], dtype=np.int64)
        elif isinstance(first, np.ndarray):
            arrays[_SEQUENCE + name] = np.concatenate(values).astype(np.int32)
            arrays[_LENGTHS + name] = np.array([len(row) for row in values], dtype=np.int64)
        else:
            arrays[name] = np.array(values)
            if arrays[name].dtype == np.float64:
                arrays[name] = arrays[name].astype(np.float32)
    return arrays


def stack_arrays(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of consecutive slices, end to end."""
    return without_zero_types(
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    )


def without_zero_types(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays, less token types that are all 0: most checkpoints read missing ones as 0, and
    most rows have no other.
    """
    types = _WINDOWED + "token_type_ids"
    if types in arrays and not arrays[types].any():
        return {name: array for name, array in arrays.items() if name != types}
    return arrays


def from_arrays(arrays: Mapping[str, np.ndarray]) -> Features:
    """Features from the flat arrays that `slice_arrays` and `stack_arrays` give."""
    tokens, rows, sequences = {}, {}, {}
    for name, array in arrays.items():
        if name.startswith(_WINDOWED):
            tokens[name.removeprefix(_WINDOWED)] = array
        elif name.startswith(_SEQUENCE):
            inner = name.removeprefix(_SEQUENCE)
            sequences[inner] = (array, _offsets(arrays[_LENGTHS + inner]))
        elif not name.startswith(_LENGTHS) and name not in ("window_lengths", "row_windows"):
            rows[name] = array
    return Features(
        tokens, rows, _offsets(arrays["window_lengths"]), _offsets(arrays["row_windows"]), sequences
    )


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], lengths.cumsum()])


def prepare_rows(
    rows: Mapping[str, Sequence[Any]], task: Task, tokenizer: PreTrainedTokenizerBase, limit: int
) -> Features:
    """Features of the rows at hand, given as columns; `limit` is the model's length in tokens."""
    return from_arrays(stack_arrays([slice_arrays(task.prepare(rows, tokenizer, limit))]))


def iterate_rows(rows: Iterable[Any]) -> Iterator[Any]:
    """The rows one by one, a DataFrame's as dicts; raises DataError for one row alone."""
    if isinstance(rows, (str, Mapping)):
        raise DataError(
            "a list of rows is needed, and this was given one row", remedy="Put it in a list."
        )
    if hasattr(rows, "itertuples") and hasattr(rows, "columns"):
        names = list(rows.columns)
        return (dict(zip(names, row, strict=True)) for row in rows.itertuples(index=False))
    return iter(rows)


def input_columns(rows: Sequence[Any], task: Task, first: int = 0) -> dict[str, list[Any]]:
    """The columns that the task's model reads, of the rows at hand: texts, tuples, or dicts.

    A row without an optional text has None for it, and where no row has one there is no column.
    `first` is the number of the first row, from 0. Raises DataError, with the number of the row
    from 1, for one that is none of these.
    """
    inputs = [column for column in task.columns() if column.is_input]
    texts = [column.name for column in inputs if column.kind == "text"]
    dicts = [_as_dict(row, texts, first + i + 1) for i, row in enumerate(rows)]
    optional = {column.name for column in inputs if not column.is_required}
    # Of a text or its tokens, neither of them required, all rows need what one has.
    spared = optional if len(optional) < len(inputs) else set()

    def has(row: Mapping[str, Any], name: str) -> bool:
        return name in row and not (name in spared and _is_missing(row[name]))

    read = [
        column
        for column in inputs
        if column.is_required or any(has(row, column.name) for row in dicts)
    ] or inputs[:1]
    columns: dict[str, list[Any]] = {column.name: [] for column in read}
    for i, row in enumerate(dicts):
        for column in read:
            value = row[column.name] if has(row, column.name) else None
            columns[column.name].append(value)
            if value is None and column.name in spared:
                continue
            if not (_is_text(value) if column.kind == "text" else _is_words(value)):
                what = "a text" if column.kind == "text" else "a list of words"
                remedy = f"Give texts, or dicts with {quoted([each.name for each in inputs])}."
                raise unfit_value(value, what, first + i + 1, column.name, remedy)
    return columns


@dataclass(frozen=True)
class ColumnRows(Sequence[Mapping[str, Any]]):
    """Some rows of a table of columns, each a dict that is made when asked for."""

    columns: Mapping[str, Sequence[Any]]
    numbers: Sequence[int]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return ColumnRows(self.columns, self.numbers[index])
        number = int(self.numbers[index])
        return {name: values[number] for name, values in self.columns.items()}


def check_texts(texts: Sequence[Any], column: str) -> None:
    """Raises DataError, with the row of the slice from 1, for what is no text."""
    for i, text in enumerate(texts):
        if not _is_text(text):
            raise unfit_value(text, "a text", i + 1, column)


def _is_text(value: Any) -> bool:
    """Whether it is a string that UTF-8 can write: one with half a surrogate pair is not."""
    try:
        return isinstance(value, str) and (value.isascii() or bool(value.encode()))
    except UnicodeEncodeError:
        return False


def _is_missing(value: Any) -> bool:
    """Whether it is None, or what a DataFrame has in its place."""
    is_nan = isinstance(value, float) and value != value
    return value is None or is_nan or type(value).__name__ == "NAType"


def _is_words(value: Any) -> bool:
    is_list = isinstance(value, (list, tuple)) or type(value).__name__ == "ndarray"
    return is_list and all(map(_is_text, value))


def _as_dict(row: Any, names: Sequence[str], number: int) -> Mapping[str, Any]:
    if isinstance(row, Mapping):
        return row
    values = row if isinstance(row, (tuple, list)) else (row,)
    if len(values) > len(names):
        raise DataError(
            f"found {len(values)} texts where {len(names)} at most can be read",
            remedy=f"Give at most {quoted(names)}.",
            row=number,
        )
    return dict(zip(names, values, strict=False))


def named_labels(
    columns: Mapping[str, Sequence[Any]], features: Mapping[str, Any]
) -> dict[str, Sequence[Any]]:
    """Columns with the numbers of every ClassLabel replaced by its names.

    `features` are those of a `datasets.Dataset`, told apart by what they have, because serving
    does not import that library.
    """
    return {
        column: [_name(value, features[column]) for value in values]
        if _has_names(features[column])
        else values
        for column, values in columns.items()
    }


def _has_names(feature: Any) -> bool:
    inner = getattr(feature, "feature", None)
    return hasattr(feature, "names") or (inner is not None and _has_names(inner))


def _name(value: Any, feature: Any) -> Any:
    if isinstance(value, list):
        return [_name(each, feature.feature) for each in value]
    # A ClassLabel of -1 is how public test splits mark a row without a label.
    names = feature.names
    return names[value] if value is not None and 0 <= value < len(names) else None
