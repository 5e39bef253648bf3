"""BIO tags as numbers: which begin an entity, which go on with one, which sequences are legal.

Imports numpy, torch and `spans`; `scores.entities` and the tasks that tag words call it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ftkit.spans import split_tag

# What a step that is not legal adds to the log of a path's probability.
_ILLEGAL = -1e4


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

    def likelier(self, scores: Tensor, tags: Tensor) -> Tensor:
        """The score of each tag or, where that is higher, of the other of its type.

        `scores` (rows, words, tags), `tags` (rows, words).
        """
        begin, inside = (_on(each, tags)[tags][..., None] for each in (self.begin, self.inside))
        return torch.maximum(scores.gather(-1, begin), scores.gather(-1, inside))[..., 0]

    def going_on(self, logits: Tensor) -> Tensor:
        """Logits (..., tags) of B- and I- exchanged where B- is the higher one of its type."""
        begin, inside = (logits[..., _on(each, logits)] for each in (self.begin, self.inside))
        is_inside = _on(self.goes_on | (self.type_of < 0), logits)
        return torch.where(is_inside, torch.maximum(begin, inside), torch.minimum(begin, inside))

    def mended(self, tags: Tensor) -> Tensor:
        """Tags (rows, words) in which an I- that goes on with nothing is a B-."""
        kind = _on(self.type_of, tags)[tags]
        before = F.pad(kind[:, :-1], (1, 0), value=-1)
        is_broken = _on(self.goes_on, tags)[tags] & (kind != before)
        return torch.where(is_broken, _on(self.begin, tags)[tags], tags)

    def best_path(self, scores: Tensor) -> Tensor:
        """The likeliest legal sequences (Viterbi): tags (rows, words) from their probabilities."""
        is_legal = ~self.goes_on | (self.type_of[:, None] == self.type_of)
        moves = _on(np.where(is_legal, 0.0, _ILLEGAL), scores).float()
        first = _on(np.where(self.goes_on, _ILLEGAL, 0.0), scores).float()
        logs = scores.clamp(min=1e-9).log()
        total, came_from = logs[:, 0] + first, []
        for place in range(1, logs.shape[1]):
            best, origin = (total[:, :, None] + moves).max(1)
            total = best + logs[:, place]
            came_from.append(origin)
        tags = [total.argmax(1)]
        for origin in reversed(came_from):
            tags.append(origin.gather(1, tags[-1][:, None])[:, 0])
        return torch.stack(tags[::-1], dim=1)


def _on(array: np.ndarray, tensor: Tensor) -> Tensor:
    """The array as a tensor beside another."""
    return torch.from_numpy(array).to(tensor.device)
