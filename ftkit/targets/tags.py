"""BIO tags as numbers: which begin an entity, which go on with one, which sequences are legal.

Imports numpy, `arrays` and `spans`; `scores.entities` and the tasks that tag words call it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ftkit.arrays import namespace
from ftkit.spans import split_tag


def tags_of_types(types: Iterable[str]) -> tuple[str, ...]:
    """O, and B- and I- of each type, the types sorted."""
    return ("O", *(f"{letter}-{kind}" for kind in sorted(types) for letter in "BI"))


@dataclass(frozen=True)
class TagSet:
    """A model's tags; the number of a tag is its place among them, in whatever order."""

    labels: tuple[str, ...]
    """O, and B- and I- of each type."""

    @cached_property
    def types(self) -> tuple[str, ...]:
        """The types of entities, sorted."""
        return tuple(sorted({split_tag(label)[1] for label in self.labels} - {""}))

    @cached_property
    def outside(self) -> int:
        """The number of O."""
        return self.labels.index("O")

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each tag."""
        return {label: number for number, label in enumerate(self.labels)}

    @cached_property
    def type_of(self) -> np.ndarray:
        """For each tag the place of its type among `types`, -1 for O: (tags,)."""
        places = {kind: place for place, kind in enumerate(self.types)}
        return np.array([places.get(split_tag(label)[1], -1) for label in self.labels])

    @cached_property
    def begin(self) -> np.ndarray:
        """For each tag the number of the B- of its type, or of O: (tags,)."""
        return self._partners("B")

    @cached_property
    def inside(self) -> np.ndarray:
        """For each tag the number of the I- of its type, or of O: (tags,)."""
        return self._partners("I")

    def _partners(self, letter: str) -> np.ndarray:
        kinds = [split_tag(label)[1] for label in self.labels]
        return np.array([self.numbers[f"{letter}-{kind}" if kind else "O"] for kind in kinds])

    @cached_property
    def goes_on(self) -> np.ndarray:
        """Whether a tag is an I-: (tags,)."""
        goes_on: np.ndarray = self.begin != np.arange(len(self.labels))
        return goes_on

    def likelier(self, scores: np.ndarray, tags: np.ndarray) -> np.ndarray:
        """The score of each tag or, where that is higher, of the other of its type.

        `scores` (rows, words, tags), `tags` (rows, words).
        """
        begin, inside = (each[tags][..., None] for each in (self.begin, self.inside))
        higher: np.ndarray = np.maximum(
            np.take_along_axis(scores, begin, -1), np.take_along_axis(scores, inside, -1)
        )
        return higher[..., 0]

    def going_on(self, logits: Any) -> Any:
        """Logits (..., tags) of B- and I- exchanged where B- is the higher one of its type.

        An array or a tensor, and gives the same.
        """
        xp = namespace(logits)
        begin, inside = logits[..., self.begin], logits[..., self.inside]
        both = xp.stack([xp.minimum(begin, inside), xp.maximum(begin, inside)], -1)
        is_inside = self.goes_on | (self.type_of < 0)
        return both[..., np.arange(len(self.labels)), is_inside.astype(np.int64)]

    def mended(self, tags: np.ndarray) -> np.ndarray:
        """Tags (rows, words) in which an I- that goes on with nothing is a B-."""
        kind = self.type_of[tags]
        before = np.pad(kind[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
        is_broken = self.goes_on[tags] & (kind != before)
        mended: np.ndarray = np.where(is_broken, self.begin[tags], tags)
        return mended

    def best_path(self, scores: np.ndarray) -> np.ndarray:
        """The likeliest legal sequences (Viterbi): tags (rows, words) from their probabilities."""
        rows = np.arange(len(scores))
        logs = np.log(np.maximum(scores, 1e-9))
        total = np.where(self.goes_on, -np.inf, logs[:, 0])
        came_from = []
        for place in range(1, logs.shape[1]):
            # An I- comes from the B- or the I- of its type, all others from the likeliest tag.
            begins = total[:, self.begin] >= total[:, self.inside]
            own = np.where(begins, self.begin, self.inside)
            origin = np.where(self.goes_on, own, total.argmax(1)[:, None])
            total = total[rows[:, None], origin] + logs[:, place]
            came_from.append(origin)
        tags = [total.argmax(1)]
        for origin in reversed(came_from):
            tags.append(origin[rows, tags[-1]])
        return np.stack(tags[::-1], axis=1)
