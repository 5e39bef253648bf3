"""The gold answers of a question: read from SQuAD-shaped or flat rows, and put in their place.

Pure functions over rows. Imports `errors` and `spans`; the question answering task and its scores
call it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ftkit.errors import DataError
from ftkit.spans import find_once

if TYPE_CHECKING:
    from datasets import Dataset

_SHAPE = '{"text": [...], "answer_start": [...]}'
_SHOWN = 60  # characters of a text that an error shows
_READ = ("context", "answers", "answer", "answer_start")
_ROWS_AT_ONCE = 1000


@dataclass(frozen=True)
class Answers:
    """All gold answers of one question; none where it cannot be answered."""

    texts: tuple[str, ...]
    starts: tuple[int | None, ...]
    """Where each starts in its context, in characters; None where the row does not say."""
    column: str = "answers"
    """The column that holds the offsets, for errors."""


@dataclass(frozen=True)
class AnswerCounts:
    """What the answers of a split are."""

    n_unanswerable: int
    """Questions without an answer."""
    n_moved: int
    """Rows with an answer that had to be moved to its place."""


def check_answers(split: str, rows: Dataset, *, repair: bool = False) -> AnswerCounts:
    """Look at all answers of a split.

    Raises DataError, with the row's number, for the first that cannot be used.
    """
    if not has_answers(rows.features):
        raise missing_answers().located(split=split)
    n_unanswerable = n_moved = 0
    faults: list[tuple[int, DataError]] = []
    for number, row in enumerate(_read_rows(rows), start=1):
        try:
            answers, moved = place_answers(read_answers(row), row["context"], repair=repair)
        except DataError as error:
            faults.append((number, error))
            continue
        n_unanswerable += not answers.texts
        n_moved += moved > 0
    if faults:
        number, first = faults[0]
        more = f" ({len(faults):,} such rows in all)" if len(faults) > 1 else ""
        raise DataError(
            first.problem + more, remedy=first.remedy, split=split, row=number, column=first.column
        )
    return AnswerCounts(n_unanswerable, n_moved)


def has_answers(row: Mapping[str, Any]) -> bool:
    """Whether a row (or a table of columns) says what its answer is, or that there is none."""
    return row.get("answers") is not None or "answer" in row


def missing_answers() -> DataError:
    """The error for rows that do not say what their answers are."""
    return DataError(
        'there is neither a column "answers" nor a column "answer"',
        remedy=f"Bring `answers` ({_SHAPE}) or `answer`, or name the column: "
        'columns={"answer": ...}.',
    )


def read_answers(row: Mapping[str, Any]) -> Answers:
    """The answers of a row with `answers` (SQuAD's shape), or `answer` and perhaps `answer_start`.

    Raises DataError, without the row's number, for answers of another shape.
    """
    if "answers" in row:
        return _read_squad(row["answers"])
    if "answer" not in row:
        raise missing_answers()
    text = row["answer"]
    if text is None or text == "":
        return Answers((), ())
    if not isinstance(text, str):
        raise _wrong_shape(text, "a text", "answer")
    return Answers((text,), (_read_start(row.get("answer_start"), "answer_start"),), "answer_start")


def place_answers(answers: Answers, context: str, *, repair: bool = False) -> tuple[Answers, int]:
    """The answers, each with the offset at which it stands in its context, and how many moved.

    `repair` moves an answer that does not stand at its offset to the only place where it occurs.
    One without an offset must occur exactly once.

    Raises DataError, without the row's number, for an answer that has no place.
    """
    starts, n_moved = [], 0
    for text, start in zip(answers.texts, answers.starts, strict=True):
        if start is not None and start >= 0 and context.startswith(text, start):
            starts.append(start)
            continue
        only = find_once(context, text)
        if only is None or (start is not None and not repair):
            raise _misplaced(text, start, context, only, answers.column)
        starts.append(only)
        n_moved += start is not None
    return replace(answers, starts=tuple(starts)), n_moved


def _read_rows(rows: Dataset) -> Iterator[dict[str, Any]]:
    read = rows.select_columns([name for name in _READ if name in rows.column_names])
    for start in range(0, len(read), _ROWS_AT_ONCE):
        yield from read.with_format("arrow")[start : start + _ROWS_AT_ONCE].to_pylist()


def _read_squad(value: Any) -> Answers:
    if not isinstance(value, Mapping) or value.get("text") is None:
        raise _wrong_shape(value, _SHAPE, "answers")
    texts = value["text"]
    starts = value.get("answer_start")
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise _wrong_shape(texts, "a list of texts", "answers")
    if starts is None:
        starts = [None] * len(texts)
    if len(starts) != len(texts):
        raise DataError(
            f"{len(texts)} answers have {len(starts)} offsets",
            remedy="Give one answer_start for each text.",
            column="answers",
        )
    pairs = [
        (text, _read_start(start, "answers"))
        for text, start in zip(texts, starts, strict=True)
        if text
    ]
    return Answers(tuple(text for text, _ in pairs), tuple(start for _, start in pairs))


def _read_start(value: Any, column: str) -> int | None:
    """An offset: a whole number, also as text (from csv) or as a float (from pandas)."""
    if value is None or value == "" or value != value:
        return None
    try:
        # pandas writes a column of whole numbers with gaps as 9.0.
        exact = float(value) if isinstance(value, str) and "." in value else value
        number = int(exact)
    except (TypeError, ValueError, OverflowError):
        raise _wrong_shape(value, "a whole number", column) from None
    if isinstance(exact, float) and exact != number:
        raise _wrong_shape(value, "a whole number", column)
    return number


def _wrong_shape(value: Any, wanted: str, column: str) -> DataError:
    remedy = "Fill it in, or drop the row."
    if column == "answers":
        remedy = (
            f"Give {_SHAPE}, with empty lists where there is no answer; a column of plain texts "
            'is read as `answer`: columns={"answer": "answers"}.'
        )
    found = "nothing" if value is None else repr(value)[:_SHOWN]
    return DataError(f"found {found} where {wanted} should be", remedy=remedy, column=column)


def _misplaced(
    text: str, start: int | None, context: str, only: int | None, column: str
) -> DataError:
    """Why an answer has no place; `only` is the one place where it does occur."""
    shown, size = f'the answer "{text[:_SHOWN]}"', f"its context ({len(context):,} characters)"
    count = context.count(text)
    if start is None:
        found = f"{shown} occurs {count} times in its context, and no answer_start says which"
        remedy = "Give the answer_start of the one that is meant, or drop the row."
    elif not 0 <= start < len(context):
        where = "before the start of" if start < 0 else "past the end of"
        found = f"{shown}: answer_start {start:,} is {where} {size}"
        remedy = "Mend the offset, or drop the row."
    else:
        there = context[start : start + len(text)][:_SHOWN]
        found = f'{shown} does not stand at its answer_start {start:,}, where there is "{there}"'
        remedy = "Mend the offset, or drop the row."
    if not count:
        found += "" if start is None else "; it does not occur in the context at all"
        remedy = "Copy it from its context as it is written there, or drop the row."
        if start is None:
            found = f"{shown} does not occur in {size}"
    elif only is not None:
        found += f"; it occurs once, at {only:,}"
        remedy = (
            "Give QuestionAnswering(repair=True) (command line: --option repair=true) to move such "
            "answers, or mend the offset."
        )
    elif start is not None:
        found += "; it occurs more than once"
    return DataError(found, remedy=remedy, column=column)
