"""A row's words and the tokens that each of them is, so that words can be hidden from a model.

Asks any task's `prepare` which tokens its windows keep. Imports `task`, `features` and `spans`;
`explain` and `gradients` call it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ftkit.features import (
    Features,
    Padding,
    from_arrays,
    input_columns,
    slice_arrays,
    stack_arrays,
)
from ftkit.spans import split_words, trim_span, words_of_span
from ftkit.task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Word(NamedTuple):
    """A word of a row's text, or several that share a token."""

    column: str
    start: int
    end: int


class HiddenScores(NamedTuple):
    """What hiding words has told."""

    scores: np.ndarray
    """Of each word of the row."""
    output: float
    hidden_output: float
    """The output with all words hidden."""
    gap: float | None
    """What the scores exceed the difference of the outputs by, where they should equal it."""


@dataclass(frozen=True)
class WordedRow:
    """A row as the model sees it, and where its words are."""

    task: Task
    padding: Padding
    hidden_id: int
    """The token that stands in place of those of a hidden word."""
    texts: dict[str, str]
    """By column."""
    words: tuple[Word, ...]
    owners: np.ndarray
    """The word of each token of all windows, end to end; -1 for none: (tokens,)."""
    arrays: dict[str, np.ndarray]
    """What `slice_arrays` made of the row."""

    @classmethod
    def read(
        cls, row: Any, task: Task, tokenizer: PreTrainedTokenizerBase, limit: int
    ) -> WordedRow:
        """`limit` is the longest window in tokens. Raises DataError for a row that is none."""
        columns = input_columns([row], task)
        numbered: Any = _Numbered(tokenizer)
        places = slice_arrays(task.prepare(columns, numbered, limit))["windows/input_ids"]
        # NER reads the tokens where a row has a text beside them.
        names = list(columns)[-len(numbered.texts) :]
        texts = dict(zip(names, numbered.texts, strict=True))
        words, owners = _words_of_tokens(texts, numbered.offsets, numbered.sequences)
        padding = Padding.of(tokenizer)
        # Of a classifier's scores on tickets, those against padding found the words that decide
        # better than those against the mask token.
        ids = (padding.values["input_ids"], tokenizer.mask_token_id, tokenizer.unk_token_id)
        return cls(
            task,
            padding,
            next(each for each in ids if each is not None),
            texts,
            words,
            owners[places],
            slice_arrays(task.prepare(columns, tokenizer, limit)),
        )

    @property
    def seen(self) -> np.ndarray:
        """Numbers of the words that a window has."""
        return np.unique(self.owners[self.owners >= 0])

    def copies(self, count: int) -> Features:
        """The row as many times."""
        return from_arrays(stack_arrays([self.arrays] * count))


class _Numbered:
    """A tokenizer whose ids are the places of the tokens in the whole row: what a task prepares
    with it tells which of them its windows keep.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self.texts: list[str] = []
        self.offsets: list[tuple[int, int]] = []
        self.sequences: list[int | None] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, *texts: Any, **options: Any) -> Any:
        encoded: Any = self._tokenizer(*texts, **{**options, "return_offsets_mapping": True})
        self.texts = [each[0] for each in texts if each is not None]
        self.offsets, self.sequences = encoded["offset_mapping"][0], encoded.sequence_ids(0)
        encoded.data["input_ids"] = [list(range(len(self.offsets)))]
        return encoded


def _words_of_tokens(
    texts: Mapping[str, str],
    offsets: Sequence[tuple[int, int]],
    sequences: Sequence[int | None],
) -> tuple[tuple[Word, ...], np.ndarray]:
    """The words of the texts, and the word of each token of the row, -1 for none: (tokens,)."""
    words: list[Word] = []
    owners = np.full(len(offsets), -1)
    for number, (column, text) in enumerate(texts.items()):
        spans = split_words(text)
        held = {
            place: words_of_span(spans, *trim_span(text, *offsets[place]))
            for place, sequence in enumerate(sequences)
            if sequence == number
        }
        is_joined = {word for first, end in held.values() for word in range(first, end - 1)}
        heads = [word for word in range(len(spans)) if word - 1 not in is_joined]
        for place, (first, end) in held.items():
            if first < end:
                owners[place] = len(words) + np.searchsorted(heads, first, side="right") - 1
        for first, end in pairwise([*heads, len(spans)]):
            words.append(Word(column, spans[first][0], spans[end - 1][1]))
    return tuple(words), owners
