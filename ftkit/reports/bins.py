"""Rows put together by a number or a name, and the mean score of each lot. Imports numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_FEWEST = 5  # rows of which a mean says anything
_MOST_BINS = 6


@dataclass(frozen=True)
class Lot:
    """Rows that have something in common, and their mean score."""

    name: str
    count: int
    mean: float
    margin: float
    """Half of the 95 % interval of the mean, by the normal approximation."""


def by_number(numbers: Sequence[float], scores: Sequence[float]) -> list[Lot]:
    """Up to six lots of about as many rows each, by rising numbers; fewer where many are alike."""
    found, values = np.asarray(numbers), np.asarray(scores, dtype=float)
    if len(found) < 2 * _FEWEST:
        return []
    bins = min(_MOST_BINS, len(found) // _FEWEST)
    shares = np.linspace(0, 1, bins + 1)[1:]
    tops = np.unique(np.quantile(found, shares, method="inverted_cdf"))
    place = np.searchsorted(tops, found)
    lots = []
    for i in range(len(tops)):
        mine = found[place == i]
        lots.append(_lot(_span(mine.min(), mine.max()), values[place == i]))
    return lots


def by_name(names: Sequence[str], scores: Sequence[float]) -> list[Lot]:
    """A lot a name, the most frequent first; names of fewer than five rows are left out."""
    found, values = np.asarray(names), np.asarray(scores, dtype=float)
    each, counts = np.unique(found, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [_lot(str(each[i]), values[found == each[i]]) for i in order if counts[i] >= _FEWEST]


def _lot(name: str, scores: np.ndarray) -> Lot:
    margin = 1.96 * scores.std(ddof=1) / np.sqrt(len(scores)) if len(scores) > 1 else 0.0
    return Lot(name, len(scores), float(scores.mean()), float(margin))


def _span(low: float, high: float) -> str:
    return f"{low:,.0f}" if low == high else f"{low:,.0f}-{high:,.0f}"
