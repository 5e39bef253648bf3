"""Tokenised rows as flat arrays, and batches filled from them by a mask.

Imports numpy, `errors` and `task`; the loader and the predictor read rows and fill their batches
here, so that they agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ftkit.errors import DataError, quoted
from ftkit.task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_WINDOWED = "windows/"  # prefix of the arrays that have a value a token
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

    def by_window(self) -> Features:
        """The same windows, each as a row of its own, without arrays of the rows."""
        return replace(self, row_offsets=np.arange(len(self.window_offsets)), rows={})

    def fill(
        self,
        rows: np.ndarray,
        padding: Padding,
        drop: np.random.Generator | None = None,
        most_windows: int | None = None,
    ) -> dict[str, Any]:
        """Arrays of a batch: every token array padded to (windows, longest), with its mask, and
        every row array; "row" says which rows they are and "windows" counts their windows.

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
        return batch | {"row": rows, "windows": counts}


def slice_arrays(prepared: Mapping[str, list[Any]]) -> dict[str, np.ndarray]:
    """Arrays of what a task prepared: `column[row][window][token]`, or `column[row]`."""
    arrays: dict[str, np.ndarray] = {}
    for name, values in prepared.items():
        first = values[0] if values else 0
        if isinstance(first, list) and first and isinstance(first[0], list):
            flat = [token for row in values for window in row for token in window]
            arrays[_WINDOWED + name] = np.array(flat, dtype=np.int32)
            if name == "input_ids":
                lengths = [len(window) for row in values for window in row]
                arrays["window_lengths"] = np.array(lengths, dtype=np.int64)
                arrays["row_windows"] = np.array([len(row) for row in values], dtype=np.int64)
        else:
            arrays[name] = np.array(values)
            if arrays[name].dtype == np.float64:
                arrays[name] = arrays[name].astype(np.float32)
    return arrays


def stack_arrays(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of consecutive slices, end to end."""
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    # Most checkpoints read missing token types as 0, and most rows have no other.
    types = arrays.get(_WINDOWED + "token_type_ids")
    if types is not None and not types.any():
        del arrays[_WINDOWED + "token_type_ids"]
    return arrays


def from_arrays(arrays: Mapping[str, np.ndarray]) -> Features:
    """Features from the flat arrays that `slice_arrays` and `stack_arrays` give."""
    arrays = dict(arrays)
    return Features(
        window_offsets=np.concatenate([[0], arrays.pop("window_lengths").cumsum()]),
        row_offsets=np.concatenate([[0], arrays.pop("row_windows").cumsum()]),
        tokens={
            name.removeprefix(_WINDOWED): array
            for name, array in arrays.items()
            if name.startswith(_WINDOWED)
        },
        rows={name: array for name, array in arrays.items() if not name.startswith(_WINDOWED)},
    )


def prepare_rows(
    rows: Mapping[str, Sequence[Any]], task: Task, tokenizer: PreTrainedTokenizerBase, limit: int
) -> Features:
    """Features of the rows at hand, given as columns; `limit` is the model's length in tokens."""
    return from_arrays(stack_arrays([slice_arrays(task.prepare(rows, tokenizer, limit))]))


def text_columns(rows: Sequence[Any], task: Task, first: int = 0) -> dict[str, list[str]]:
    """The task's text columns of the rows at hand: texts, pairs of texts, or dicts.

    `first` is the number of the first row, from 0. Raises DataError, with the number of the row
    from 1, for one that is none of these.
    """
    texts = [column for column in task.columns() if column.kind == "text"]
    known = [column.name for column in texts]
    dicts = [_as_dict(row, known, first + i + 1) for i, row in enumerate(rows)]
    names = [
        column.name
        for column in texts
        if column.is_required or any(column.name in row for row in dicts)
    ]
    for i, row in enumerate(dicts):
        for name in names:
            if not _is_text(row.get(name)):
                found = "nothing" if row.get(name) is None else repr(row[name])[:60]
                raise DataError(
                    f"found {found} where a text should be",
                    remedy="Give texts, pairs of texts, or dicts with these columns.",
                    row=first + i + 1,
                    column=name,
                )
    return {name: [row[name] for row in dicts] for name in names}


def _is_text(value: Any) -> bool:
    """Whether it is a string that UTF-8 can write: one with half a surrogate pair is not."""
    try:
        return isinstance(value, str) and (value.isascii() or bool(value.encode()))
    except UnicodeEncodeError:
        return False


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
    return None if value is None else feature.names[value]
