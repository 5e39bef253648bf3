"""The section on the worst mistakes: rows, what was right, what was answered, and why."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from ftkit.errors import FtkitError, FtkitWarning
from ftkit.html import marked_text
from ftkit.inference.predictor import Predictor
from ftkit.marks import MISSED, WRONG, Mark, cut, marked_spans
from ftkit.reports.page import MOST_CELL, Section, details, text
from ftkit.reports.rows import Answered, Answers, entities_of, found_entities
from ftkit.targets.answers import read_answers
from ftkit.tasks.ner import read_words

_MISTAKES = 8
_MOST_CONTEXT = 400  # characters of a context that a mistake shows
_MOST_WORDS, _MOST_LETTERS = 300, 4000  # of a row that is explained


def mistakes(answers: Answers, predictor: Predictor, seconds: float) -> Section:
    """What the model is most wrong about; so many seconds go into explaining it."""
    section = Section("Worst mistakes")
    is_value = getattr(answers.task, "kind", "") == "regression"
    wrong = [each for each in answers.rows if is_value or each.score < 1]
    if answers.task.generates or not wrong:
        return section
    wrong.sort(key=lambda each: -each.loss)
    said = f"{len(wrong):,} of {len(answers.rows):,} rows of {answers.split} are not wholly right. "
    if is_value:
        said = "The largest errors first."
    elif answers.task.name == "classification":
        said += "The least expected labels first; blue words spoke for the answer, orange ones "
        said += "with a broken line against it."
    else:
        said += "The worst first."
    section.add(text(said), *_explained(wrong[:_MISTAKES], answers, predictor, seconds))
    return section


def _explained(
    rows: Iterable[Answered], answers: Answers, predictor: Predictor, seconds: float
) -> list[str]:
    """Each with the model's attributions, as long as the seconds last."""
    until = time.perf_counter() + seconds
    parts = []
    for each in rows:
        is_short = each.words <= _MOST_WORDS and len(each.text) <= _MOST_LETTERS
        why = ""
        if is_short and time.perf_counter() < until:
            why = _attributions(predictor, _inputs(answers, each))
        if answers.task.name == "classification":
            body = why or _plain(answers, each)
        else:
            # Of entities, the first that was found.
            body = _plain(answers, each) + (details("What spoke for it", why) if why else "")
        wanted, found = (escape(cut(said, MOST_CELL)) for said in (each.wanted, each.found))
        parts.append(
            f'<div class="mistake"><div class="head">row {each.number + 1:,}: labelled '
            f"<b>{wanted}</b>, answered <b>{found}</b>"
            f"{_certainty(each)}</div>{body}</div>"
        )
    return parts


def _attributions(predictor: Predictor, row: Mapping[str, Any]) -> str:
    """The row's texts in colours; nothing where they are too long, or no memory is left."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FtkitWarning)
            return predictor.explain(dict(row)).to_html()
    except (FtkitError, RuntimeError):
        return ""


def _inputs(answers: Answers, each: Answered) -> dict[str, Any]:
    names = [column.name for column in answers.task.columns() if column.is_input]
    return {name: each.row[name] for name in names if name in each.row}


def _certainty(each: Answered) -> str:
    score = getattr(each.prediction, "score", None)
    return "" if score is None else f" ({score:.0%} sure)"


def _plain(answers: Answers, each: Answered) -> str:
    if answers.task.name == "ner":
        content, _ = read_words(each.row)
        wanted, found = entities_of(each.row, each.number), found_entities(each.prediction)
        lines = {
            "labelled": marked_spans(wanted, found, MISSED),
            "answered": marked_spans(found, wanted, WRONG),
        }
        return "".join(
            f"<div><b>{name}:</b> {marked_text(content, marks, _MOST_LETTERS)}</div>"
            for name, marks in lines.items()
        )
    if answers.task.name == "qa":
        question = f"<div><b>question:</b> {escape(cut(each.row['question'], MOST_CELL))}</div>"
        context = marked_text(each.row["context"], _answer_marks(each), _MOST_CONTEXT)
        return f"{question}<div><b>context:</b> {context}</div>"
    return f"<div>{escape(cut(' / '.join(map(str, _inputs(answers, each).values())), 600))}</div>"


def _answer_marks(each: Answered) -> list[Mark]:
    """The answer in its context, and the gold ones that do not overlap it."""
    gold, marks = read_answers(each.row), []
    if each.prediction.answer:
        marks.append(Mark(each.prediction.start, each.prediction.end, "answered", WRONG))
    for start, answer in zip(gold.starts, gold.texts, strict=True):
        if start is None:
            continue
        mark = Mark(start, start + len(answer), "gold")
        if all(mark.start >= other.end or other.start >= mark.end for other in marks):
            marks.append(mark)
    return marks
