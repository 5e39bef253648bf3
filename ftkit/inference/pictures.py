"""A prediction as a picture in HTML, for the page of `demo`: bars, marked texts, texts.

Imports the tasks' predictions and `ftkit.html`; the classes stand in demo.css.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ftkit.html import marked_text
from ftkit.html import table as html_table
from ftkit.marks import Mark
from ftkit.task import Prediction
from ftkit.tasks.classification import LabelPrediction, LabelsPrediction, ValuePrediction
from ftkit.tasks.ner import EntitiesPrediction
from ftkit.tasks.qa import AnswerPrediction

_MOST_BARS = 10
_MOST_CELL = 160  # characters of a cell that a table shows


def picture(prediction: Prediction, row: Mapping[str, str]) -> str:
    """What the model answers to a row, as HTML."""
    if isinstance(prediction, LabelPrediction):
        return _headline(prediction.label) + _bars(prediction.scores, (prediction.label,))
    if isinstance(prediction, LabelsPrediction):
        found = ", ".join(prediction.labels)
        return _headline(found, "No label") + _bars(prediction.scores, prediction.labels)
    if isinstance(prediction, ValuePrediction):
        return _headline(f"{prediction.value:.4g}")
    if isinstance(prediction, EntitiesPrediction):
        marks = [Mark(each.start, each.end, each.label) for each in prediction.entities]
        none = "" if marks else _headline("", "No entity")
        return f'{none}<p class="ftkit-text">{marked_text(row["text"], marks)}</p>'
    if isinstance(prediction, AnswerPrediction):
        marks = [Mark(prediction.start, prediction.end)] if prediction.answer else []
        marked = marked_text(row["context"], marks)
        headline = _headline(prediction.answer, "No answer in this context")
        return f'{headline}<p class="ftkit-text">{marked}</p>'
    (written,) = prediction.to_dict().values()
    return f'<p class="ftkit-text ftkit-written">{escape(written)}</p>'


def _headline(text: str, instead: str = "") -> str:
    if text:
        return f'<p class="ftkit-answer">{escape(text)}</p>'
    return f'<p class="ftkit-answer ftkit-none">{escape(instead)}</p>'


def _bars(scores: Mapping[str, float], chosen: Iterable[str]) -> str:
    """The likeliest labels, those that are chosen in bold."""
    parts = []
    for label, score in list(scores.items())[:_MOST_BARS]:
        is_chosen = ' class="ftkit-chosen"' if label in chosen else ""
        parts.append(
            f'<li{is_chosen}><span class="ftkit-name">{escape(label)}</span> '
            f'<span class="ftkit-number">{score:.1%}</span>'
            f'<span class="ftkit-track" aria-hidden="true"><span style="width: {score:.1%}">'
            "</span></span></li>"
        )
    more = len(scores) - len(parts)
    rest = f'<p class="ftkit-more">and {more} labels that are less likely</p>' if more else ""
    return f'<ul class="ftkit-bars">{"".join(parts)}</ul>{rest}'


def flat(prediction: Prediction) -> dict[str, Any]:
    """A prediction as cells of a table."""
    if isinstance(prediction, LabelPrediction):
        return {"label": prediction.label, "score": round(prediction.score, 4)}
    if isinstance(prediction, LabelsPrediction):
        return {"labels": ", ".join(prediction.labels)}
    if isinstance(prediction, EntitiesPrediction):
        return {"entities": "; ".join(f"{e.text} ({e.label})" for e in prediction.entities)}
    if isinstance(prediction, AnswerPrediction):
        return {"answer": prediction.answer, "score": round(prediction.score, 4)}
    return prediction.to_dict()


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of the same keys as an HTML table, long cells cut."""
    return (
        '<div class="ftkit-table" tabindex="0" role="region" aria-label="Answers">'
        f"{html_table(rows, _MOST_CELL)}</div>"
    )


def write_csv(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Rows of the same keys as a csv file that spreadsheets too read as UTF-8."""
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
