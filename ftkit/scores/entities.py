"""Scores of entities found in words: strict precision, recall and F1, all and by type.

Implements the `Metrics` protocol and holds five counts a row. Imports numpy, `targets.tags` and
`task`; tasks that tag words call it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ftkit.arrays import ArrayLike, as_array
from ftkit.scores.resample import resample
from ftkit.targets.tags import TagSet
from ftkit.task import Draw, Rows


@dataclass
class SpanMetrics:
    """Scores of BIO tags: an entity counts as found where its words and its type are all right."""

    tags: TagSet
    decide: Callable[[ArrayLike], np.ndarray]
    """Numbers of tags (rows, words), a legal sequence, from outputs (rows, words, tags)."""
    counts: np.ndarray = field(init=False)
    """Entities of each type that are right, found and wanted: (3, types)."""
    words: np.ndarray = field(init=False)
    """Words tagged right, and words."""
    by_row: list[np.ndarray] = field(default_factory=list)
    """Of each batch: entities of each row that are right, found and wanted, words tagged right,
    and words: (rows, 5)."""

    def __post_init__(self) -> None:
        self.counts = np.zeros((3, len(self.tags.types)), dtype=np.int64)
        self.words = np.zeros(2, dtype=np.int64)

    def add(self, outputs: ArrayLike, targets: ArrayLike, rows: Rows) -> None:
        """Take in outputs (rows, words, tags) and tags (rows, words), below 0 behind the words."""
        wanted, found = as_array(targets), self.decide(outputs)
        is_word, n_types = wanted >= 0, len(self.tags.types)
        words = [((found == wanted) & is_word).sum(1), is_word.sum(1)]
        self.words += [int(each.sum()) for each in words]
        found_spans = self._entities(np.where(is_word, found, -1))
        wanted_spans = self._entities(np.where(is_word, wanted, -1))
        right = np.intersect1d(found_spans, wanted_spans, assume_unique=True)
        n_rows, n_places = len(wanted), wanted.shape[1] + 1
        entities = []
        for place, spans in enumerate((right, found_spans, wanted_spans)):
            self.counts[place] += np.bincount(spans % n_types, minlength=n_types)
            first_word = spans // n_types // (n_rows * n_places)
            entities.append(np.bincount(first_word // n_places, minlength=n_rows))
        self.by_row.append(np.stack([*entities, *words], axis=1))

    def _entities(self, tags: np.ndarray) -> np.ndarray:
        """A number for each entity, made of its first word, its last and its type.

        `tags` (rows, words), a legal sequence, is below 0 where there is no word.
        """
        # A place without a word behind each row keeps its entities from going on in the next.
        flat = np.pad(tags, ((0, 0), (0, 1)), constant_values=-1).ravel()
        kinds = np.where(flat >= 0, self.tags.type_of[flat], -1)
        goes_on = (flat >= 0) & self.tags.goes_on[flat]
        starts = np.flatnonzero((kinds >= 0) & ~goes_on)
        ends = np.flatnonzero((kinds >= 0) & ~np.append(goes_on[1:], False))
        return (starts * len(flat) + ends) * len(self.tags.types) + kinds[starts]

    def compute(self) -> dict[str, float]:
        """F1, precision and recall over all entities, and the share of words tagged right."""
        precision, recall, f1 = _rates(self.counts.sum(1)).tolist()
        accuracy = float(self.words[0] / max(self.words[1], 1))
        return {"f1": f1, "precision": precision, "recall": recall, "accuracy": accuracy}

    def per_label(self) -> dict[str, dict[str, float]]:
        """Precision, recall, F1 and support of each type."""
        table: dict[str, dict[str, float]] = {}
        for place, kind in enumerate(self.tags.types):
            precision, recall, f1 = _rates(self.counts[:, place]).tolist()
            support = int(self.counts[2, place])
            table[kind] = {"precision": precision, "recall": recall, "f1": f1, "support": support}
        return table

    def chosen(self) -> dict[str, Any]:
        """Nothing is left to choose."""
        return {}

    def resampled(self, draw: Draw) -> dict[str, np.ndarray]:
        """The scores of resamples of the rows: (resamples,) each."""
        if not self.by_row:
            return {}
        by_row = np.concatenate(self.by_row)

        def scores(counts: np.ndarray) -> dict[str, np.ndarray]:
            *entities, right, words = (counts @ by_row).T
            precision, recall, f1 = _rates(np.stack(entities))
            accuracy = right / np.maximum(words, 1)
            return {"f1": f1, "precision": precision, "recall": recall, "accuracy": accuracy}

        return resample(draw, len(by_row), scores)


def _rates(counts: np.ndarray) -> np.ndarray:
    """Precision, recall and F1 from how many are right, found and wanted: (3, ...) from (3, ...).

    0 of none is 0.
    """
    right, found, wanted = counts
    of = np.maximum(np.stack([found, wanted, found + wanted]), 1)
    rates: np.ndarray = np.stack([right, right, 2 * right]) / of
    return rates
