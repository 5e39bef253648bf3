"""Texts that know which of their parts matter: what a task shows, for a terminal or a notebook.

Pure functions over strings: imports no module of ftkit. Tasks make them, `html` draws them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

MISSED, WRONG = "missed", "wrong"
"""Notes: wanted and not decided, decided and not wanted."""

_NEAR = 20  # characters in which a place between two words is looked for


class Mark(NamedTuple):
    """A part of a text that matters: an entity, an answer, a label."""

    start: int
    """In characters of the text."""
    end: int
    """Behind the last character."""
    label: str = ""
    note: str = ""
    """MISSED or WRONG, where what was wanted and what was decided differ."""


class MarkedText(str):
    """A cell of a table: a string like any other, which also knows the text that it is about.

    The string is what a terminal prints; a notebook shows `text` with its `marks` instead.
    """

    text: str
    marks: tuple[Mark, ...]

    def __new__(cls, shown: str, text: str | None = None, marks: Iterable[Mark] = ()) -> MarkedText:
        """`text` None is the string itself."""
        cell = super().__new__(cls, shown)
        cell.text, cell.marks = shown if text is None else text, tuple(sorted(marks))
        return cell


def marked_spans(
    spans: Sequence[tuple[int, int, str]],
    others: Collection[tuple[int, int, str]] | None,
    note: str,
) -> list[Mark]:
    """Marks of spans (start, end, label), with the note on those that `others` lack; None are
    none to compare with.
    """
    return [
        Mark(*span, note if others is not None and span not in others else "") for span in spans
    ]


def listed_names(names: Sequence[str], others: Collection[str] | None, note: str) -> MarkedText:
    """Names with commas between them; those that `others` lack are marked with the note."""
    marks, shown = [], ""
    for name in names:
        start = len(shown) + 2 * bool(shown)
        shown = f"{shown}, {name}" if shown else name
        if others is not None and name not in others:
            marks.append(Mark(start, len(shown), "", note))
    return MarkedText(shown, marks=marks)


def cut(text: str, most: int) -> str:
    """The text, its end replaced by an ellipsis where it is longer than `most` characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def kept_parts(text: str, marks: Iterable[Mark], most: int) -> list[tuple[int, int]]:
    """Start and end of the parts of a text that tell most, about `most` characters in all: its
    marks, as many as there is room for, and the words around them; without marks, its beginning.
    """
    if len(text) <= most:
        return [(0, len(text))]
    chosen: list[Mark] = []
    marked = 0
    for mark in sorted(marks):
        marked += mark.end - mark.start
        if chosen and marked > most:
            break
        chosen.append(mark)
    if not chosen:
        return [(0, _word_end(text, 0, most))]
    room = max(0, most - marked) // (2 * len(chosen))
    parts: list[tuple[int, int]] = []
    for mark in chosen:
        start = _word_start(text, max(0, mark.start - room), mark.start)
        end = _word_end(text, mark.end, min(len(text), mark.end + room))
        if parts and start <= parts[-1][1] + 1:
            start = parts.pop()[0]
        parts.append((start, end))
    return parts


def _word_start(text: str, first: int, last: int) -> int:
    """A place from `first` to `last`, near `first`, where no word is cut; `first` if all are."""
    places = range(first, min(last, first + _NEAR) + 1)
    return next((i for i in places if not i or text[i - 1].isspace()), first)


def _word_end(text: str, first: int, last: int) -> int:
    """A place from `first` to `last`, near `last`, where no word is cut; `last` if all are."""
    places = range(last, max(first, last - _NEAR) - 1, -1)
    return next((i for i in places if i == len(text) or text[i].isspace()), last)
