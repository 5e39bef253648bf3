"""Which rows go where: seeded, stratified, grouped splits over plain lists of labels.

Pure functions over labels and groups; knows no table, file or task. Imports numpy and scikit-learn;
`sources` calls it. Every draw comes from `numpy.random.RandomState`, whose stream numpy has frozen,
so that the same rows and seed give the same split on any machine and with any numpy.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Mask: TypeAlias = NDArray[np.bool_]
Codes: TypeAlias = NDArray[np.int64]

# Float labels are stratified over this many quantiles.
_QUANTILES = 10
# Grouped splits take the best of this many random draws of whole groups.
_DRAWS = 32


@dataclass(frozen=True)
class Encoded:
    """Labels of rows as numbers: pair i says that row `rows[i]` has label `codes[i]`."""

    rows: Codes
    """Shape (pairs,)."""
    codes: Codes
    """Shape (pairs,), numbered by first appearance."""
    strata: Codes
    """Shape (rows,): the row's label, or the rarest of its labels."""


def encode_labels(labels: Sequence[Any]) -> Encoded:
    """Numbers for labels that are str, int or bool, float (by quantile), or lists of str or int.

    Any other kind of label counts as none: all rows are then one stratum.
    """
    first = next((label for label in labels if label is not None and label != []), None)
    if isinstance(first, float):
        bins = _quantile_bins(labels)
        return Encoded(np.arange(len(bins)), bins, bins)
    if isinstance(first, (str, int)):
        codes = _number(labels)
        return Encoded(np.arange(len(codes)), codes, codes)
    if isinstance(first, (list, tuple)) and isinstance(first[0], (str, int)):
        lengths = [len(row or ()) for row in labels]
        rows = np.repeat(np.arange(len(labels)), lengths)
        codes = _number(label for row in labels for label in row or ())
        return Encoded(rows, codes, _rarest(rows, codes, len(labels)))
    none = np.zeros(0, dtype=np.int64)
    return Encoded(none, none, np.zeros(len(labels), dtype=np.int64))


def hold_out(
    labels: Sequence[Any], fraction: float, seed: int, groups: Sequence[Hashable] | None = None
) -> Mask:
    """True for the rows, `fraction` of all, to hold out for validation; shape (rows,).

    Train keeps at least one row of every label; with no groups, each label of two rows or more has
    one on both sides (of several labels in a row, the rarest counts). With `groups`, a group is
    never on both sides. All False where no such split exists.
    """
    encoded = encode_labels(labels)
    if groups is not None:
        return _hold_out_groups(encoded, fraction, seed, _number(groups))
    total = len(encoded.strata)
    if total < 2:
        return np.zeros(total, dtype=bool)
    order = np.random.RandomState(seed).permutation(total)
    kept = _first_of_each(encoded, order)
    sizes = np.bincount(encoded.strata)
    free = sizes - np.bincount(encoded.strata[kept], minlength=len(sizes))
    wanted = min(max(round(total * fraction), 1), total - 1)
    counts = _allocate(sizes * fraction, wanted, np.minimum(free, 1), free)
    return _take(encoded.strata, order[~kept[order]], counts)


def draw(labels: Sequence[Any], count: int, seed: int) -> Mask:
    """True for `count` rows drawn at random, in the proportions of the labels; shape (rows,).

    Every label has a row among them where `count` allows it. All True where there are no more rows.
    """
    encoded = encode_labels(labels)
    total = len(encoded.strata)
    if count >= total:
        return np.ones(total, dtype=bool)
    order = np.random.RandomState(seed).permutation(total)
    kept = _first_of_each(encoded, order)
    order = np.concatenate([order[kept[order]], order[~kept[order]]])
    sizes = np.bincount(encoded.strata)
    low = np.bincount(encoded.strata[kept], minlength=len(sizes))
    if low.sum() > count:
        low = np.zeros_like(low)
    counts = _allocate(sizes * (count / total), count, low, sizes)
    return _take(encoded.strata, order, counts)


def _hold_out_groups(encoded: Encoded, fraction: float, seed: int, groups: Codes) -> Mask:
    from sklearn.model_selection import GroupShuffleSplit  # 0.7 s, for few runs

    total = len(groups)
    n_groups = int(groups.max()) + 1 if total else 0
    if n_groups < 2:
        return np.zeros(total, dtype=bool)
    held = min(max(round(n_groups * fraction), 1), n_groups - 1)
    shuffle = GroupShuffleSplit(
        _DRAWS, test_size=held, train_size=n_groups - held, random_state=seed
    )
    sizes = np.bincount(encoded.codes)
    best: tuple[tuple[int, float], Mask] | None = None
    for _, valid in shuffle.split(groups, groups=groups):
        mask = np.zeros(total, dtype=bool)
        mask[valid] = True
        found = np.bincount(encoded.codes[mask[encoded.rows]], minlength=len(sizes))
        lost = int((found == sizes).sum())
        distance = float(abs(found - sizes * fraction).sum() + abs(len(valid) - total * fraction))
        if best is None or (lost, distance) < best[0]:
            best = (lost, distance), mask
    assert best is not None
    return _give_back(encoded, groups, best[1])


def _give_back(encoded: Encoded, groups: Codes, mask: Mask) -> Mask:
    """The mask without those groups that hold all rows of a label, so that train keeps it."""
    sizes = np.bincount(encoded.codes)
    while True:
        found = np.bincount(encoded.codes[mask[encoded.rows]], minlength=len(sizes))
        lost = np.flatnonzero((found == sizes) & (sizes > 0))
        if not len(lost):
            return mask
        row = encoded.rows[encoded.codes == lost[0]][0]
        mask = mask & (groups != groups[row])


def _number(values: Iterable[Hashable]) -> Codes:
    """Numbers from 0 by first appearance."""
    numbers: dict[Hashable, int] = {}
    return np.fromiter((numbers.setdefault(v, len(numbers)) for v in values), dtype=np.int64)


def _quantile_bins(labels: Sequence[float | None]) -> Codes:
    values = np.array([np.nan if label is None else label for label in labels], dtype=np.float64)
    edges = np.nanquantile(values, np.linspace(0, 1, _QUANTILES + 1)[1:-1])
    return _number(np.searchsorted(edges, values, side="right").tolist())


def _rarest(rows: Codes, codes: Codes, total: int) -> Codes:
    """The rarest label of each row; rows without labels are a stratum of their own."""
    sizes = np.bincount(codes)
    rarity = np.empty(len(sizes), dtype=np.int64)
    rarity[np.argsort(sizes, kind="stable")] = np.arange(len(sizes))
    strata = np.full(total, len(sizes), dtype=np.int64)
    np.minimum.at(strata, rows, rarity[codes])
    return strata


def _first_of_each(encoded: Encoded, order: Codes) -> Mask:
    """True for the row of each label that comes first in `order`."""
    total = len(order)
    position = np.empty(total, dtype=np.int64)
    position[order] = np.arange(total)
    first = np.full(int(encoded.codes.max(initial=-1)) + 1, total)
    np.minimum.at(first, encoded.codes, position[encoded.rows])
    mask = np.zeros(total, dtype=bool)
    mask[order[first]] = True
    return mask


def _allocate(quota: NDArray[np.floating[Any]], total: int, low: Codes, high: Codes) -> Codes:
    """Whole numbers near `quota`, each from `low` to `high`, that sum to `total` where they can."""
    counts: Codes = np.clip(np.floor(quota).astype(np.int64), low, high)
    missing = total - int(counts.sum())
    while missing:
        step = 1 if missing > 0 else -1
        room = counts < high if step > 0 else counts > low
        if not room.any():
            break
        wish = np.where(room, (quota - counts) * step, -np.inf)
        chosen = np.argsort(-wish, kind="stable")[: min(abs(missing), int(room.sum()))]
        counts[chosen] += step
        missing -= step * len(chosen)
    return counts


def _take(strata: Codes, order: Codes, counts: Codes) -> Mask:
    """True for the first `counts[s]` rows of each stratum s in `order`."""
    mask = np.zeros(len(strata), dtype=bool)
    if not len(order):
        return mask
    by_stratum = order[np.argsort(strata[order], kind="stable")]
    of_row = strata[by_stratum]
    starts = np.searchsorted(of_row, np.arange(len(counts)))
    rank = np.arange(len(by_stratum)) - starts[of_row]
    mask[by_stratum[rank < counts[of_row]]] = True
    return mask
