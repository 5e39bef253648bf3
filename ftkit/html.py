"""Texts and tables as HTML with parts coloured, for notebooks and for the page of `demo`.

Pure functions over strings: imports `marks` only. Colours are laid thinly over whatever background
there is, so that they read in light and in dark, and never say anything alone: a line beneath, or
a word, says it too. Blue and orange are those that people see apart whatever their colour vision
(Okabe and Ito 2008).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from ftkit.marks import Mark, MarkedText, kept_parts

FOR, AGAINST = "0, 114, 178", "213, 94, 0"
"""Blue and orange as red, green and blue."""
STRONGEST = 0.5
"""Opacity of the strongest colour: text on it keeps a contrast above 4.5."""
# Notebooks set the cells of a table flush right, and in stripes.
_CELL = (
    "text-align: start; vertical-align: top; overflow-wrap: anywhere; min-width: 5em; "
    "padding: 4px 8px; border-bottom: 1px solid rgba(128, 128, 128, 0.4);"
)


def scored_text(text: str, words: Sequence[tuple[int, int, float]], largest: float) -> str:
    """The text with each word (start, end, score) in blue where its score is above 0, in orange
    with a broken line beneath where it is below; `largest` has the strongest colour.
    """
    return _fill(text, [(start, end, _scored(score, largest)) for start, end, score in words])


def marked_text(text: str, marks: Iterable[Mark], most: int | None = None) -> str:
    """The text with its marks coloured, their labels behind them; where it is longer than `most`
    characters, only what stands around the marks.

    A mark with a note is orange with a broken line beneath, and the note behind it.
    """
    marks = sorted(marks)
    kept = [(0, len(text))] if most is None else kept_parts(text, marks, most)
    shown = [
        _fill(
            text[start:end],
            [
                (mark.start - start, mark.end - start, _marked(mark))
                for mark in marks
                if start <= mark.start and mark.end <= end
            ],
        )
        for start, end in kept
    ]
    before, behind = "… " * (kept[0][0] > 0), " …" * (kept[-1][1] < len(text))
    return f"{before}{' … '.join(shown)}{behind}"


def table(rows: Sequence[Mapping[str, object]], most: int) -> str:
    """Rows with the columns of the first as an HTML table, cells shortened to `most` characters."""
    names = list(rows[0]) if rows else []
    head = "".join(f'<th style="{_CELL}" scope="col">{escape(name)}</th>' for name in names)
    body = "".join(
        "<tr>" + "".join(_cell(row.get(name, ""), most) for name in names) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: object, most: int) -> str:
    cell = value if isinstance(value, MarkedText) else MarkedText(str(value))
    return f'<td dir="auto" style="{_CELL}">{marked_text(cell.text, cell.marks, most)}</td>'


def _scored(score: float, largest: float) -> tuple[str, str]:
    opacity = STRONGEST * abs(score) / largest if largest else 0.0
    colour, line = (FOR, "solid") if score > 0 else (AGAINST, "dashed")
    style = f"background: rgba({colour}, {opacity:.2f}); border-radius: 3px;"
    if opacity > STRONGEST / 10:
        style += f" border-bottom: 2px {line} rgb({colour});"
    return f'<span style="{style}" title="{score:+.3f}">', "</span>"


def _marked(mark: Mark) -> tuple[str, str]:
    colour, line = (AGAINST, "dashed") if mark.note else (FOR, "solid")
    style = (
        f"background: rgba({colour}, 0.25); color: inherit; padding: 1px 3px; "
        f"border-radius: 3px; border-bottom: 2px {line} rgb({colour});"
    )
    words = " ".join(filter(None, (mark.label, mark.note)))
    behind = f' <small style="font-weight: 600;">{escape(words)}</small>' if words else ""
    return f'<mark style="{style}">', f"{behind}</mark>"


def _fill(text: str, parts: Iterable[tuple[int, int, tuple[str, str]]]) -> str:
    """The text, escaped, with something before and behind each part of it."""
    pieces, done = [], 0
    for start, end, (before, behind) in parts:
        pieces += [escape(text[done:start]), before, escape(text[start:end]), behind]
        done = end
    return "".join([*pieces, escape(text[done:])])
