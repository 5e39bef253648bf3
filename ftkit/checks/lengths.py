"""How long rows are, in tokens of a checkpoint or else in words, and what its tokenizer lacks.

Imports `finding`, and `features` as the loaders make them; `check` calls it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from ftkit.checks.finding import Finding, SplitRows
from ftkit.errors import quoted
from ftkit.features import Features

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BINS = 24
_MANY = 0.01  # share of tokens that are unknown from which it is more than a note
_READ = 1 << 20  # characters of texts with unknown tokens that are looked through
_NAMED = 12


@dataclass(frozen=True)
class Tokenized:
    """Rows as a training reads them."""

    features: Mapping[str, Features]
    """By split."""
    tokenizer: PreTrainedTokenizerBase
    limit: int
    """Longest sequence in tokens."""


def count_words(rows: SplitRows) -> np.ndarray:
    """Words of each row, as white space parts them: (rows,)."""
    words = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(rows.texts))
    counts: np.ndarray = pc.list_value_length(words).to_numpy(zero_copy_only=False)
    is_empty = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(rows.texts)), 0)
    return np.where(is_empty.to_numpy(zero_copy_only=False), 0, counts)


def count_tokens(rows: SplitRows, tokenized: Tokenized) -> np.ndarray:
    """Tokens of each whole row, special ones counted, cut or not: (rows,)."""
    features = tokenized.features[rows.name]
    counts = features.lengths + features.rows["n_cut"]
    several = np.flatnonzero(features.windows > 1)
    if len(several):
        # Windows share tokens, so that these are counted anew.
        columns = [rows.rows.select(several)[name] for name in rows.inputs]
        texts = [[_text(value) for value in column] for column in columns]
        encoded = tokenized.tokenizer(*texts, return_attention_mask=False, verbose=False)
        counts[several] = [len(ids) for ids in encoded["input_ids"]]
    found: np.ndarray = counts
    return found


def _text(value: Any) -> str:
    return value if isinstance(value, str) else " ".join(value)


def describe_lengths(
    lengths: Mapping[str, np.ndarray], tokenized: Tokenized | None, unit: str
) -> dict[str, dict[str, Any]]:
    """For each split a histogram, over the same bins, and what stands out in it."""
    highest = max((int(each.max(initial=0)) for each in lengths.values()), default=0)
    # A few long rows would press all others into one bin: the last one has no end of its own.
    usual = max((int(np.percentile(each, 99)) for each in lengths.values() if len(each)), default=0)
    width = _round_up(max(1, usual) / (_BINS - 1))
    edges = [width * i for i in range(max(2, min(_BINS, highest // width + 2)))]
    edges[-1] = max(edges[-1], highest + 1)
    described = {}
    for split, each in lengths.items():
        features = None if tokenized is None else tokenized.features.get(split)
        described[split] = {
            "unit": unit,
            "edges": edges,
            "counts": np.histogram(each, edges)[0].tolist(),
            "median": float(np.median(each)) if len(each) else 0.0,
            "p95": float(np.percentile(each, 95)) if len(each) else 0.0,
            "max": int(each.max(initial=0)),
            "limit": None if tokenized is None else tokenized.limit,
            "cut_rows": None if features is None else features.count_cut(),
            "windows": None if features is None else int(features.windows.sum()),
        }
    return described


def _round_up(width: float) -> int:
    """1, 2 or 5 times a power of ten, at least `width`."""
    size = 1
    while True:
        for step in (1, 2, 5):
            if step * size >= width:
                return step * size
        size *= 10


def find_unknown(rows: SplitRows, tokenized: Tokenized) -> list[Finding]:
    """Rows with tokens that the tokenizer has no name for, and the characters to blame."""
    features, tokenizer = tokenized.features[rows.name], tokenized.tokenizer
    ids = features.tokens["input_ids"]
    if tokenizer.unk_token_id is None or rows.task.packs or not len(ids):
        return []
    is_unknown = ids == tokenizer.unk_token_id
    total = int(is_unknown.sum())
    if not total:
        return []
    row_of = np.repeat(np.arange(len(features)), features.windows)
    window_of = np.searchsorted(features.window_offsets, np.flatnonzero(is_unknown), "right") - 1
    has_it = np.zeros(len(rows), dtype=bool)
    has_it[row_of[window_of]] = True
    found = _unknown_characters(rows, has_it, tokenizer)
    shown = f", such as for {quoted(found, _NAMED)}" if found else ""
    share = total / len(ids)
    return rows.find(
        "warning" if share > _MANY else "note",
        "unknown_characters",
        has_it,
        f"{{count}} of {{of}} rows have tokens that the tokenizer does not know "
        f"({total:,} tokens, {share:.2%}){shown}",
        "Replace these characters, or take a checkpoint that knows them.",
    )


def _unknown_characters(
    rows: SplitRows, has_it: np.ndarray, tokenizer: PreTrainedTokenizerBase
) -> list[str]:
    """Characters of these rows that alone make an unknown token, the most frequent first."""
    texts = rows.texts.take(np.flatnonzero(has_it)).to_pylist()
    joined = "\n".join(texts)[:_READ]
    points, counts = np.unique(np.frombuffer(joined.encode("utf-32-le"), "<u4"), return_counts=True)
    characters = [chr(point) for point in points[np.argsort(-counts, kind="stable")].tolist()]
    encoded = tokenizer(
        characters, add_special_tokens=False, return_attention_mask=False, verbose=False
    )
    return [
        character
        for character, ids in zip(characters, encoded["input_ids"], strict=True)
        if tokenizer.unk_token_id in ids
    ]
