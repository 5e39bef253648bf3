"""Texts as HTML with parts of them coloured, for notebooks and for the page of `demo`.

Pure functions over strings: imports nothing. Colours are laid thinly over whatever background
there is, so that they read in light and in dark, and never say anything alone: a line beneath, or
a word, says it too. Blue and orange are those that people see apart whatever their colour vision
(Okabe and Ito 2008).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

FOR, AGAINST = "0, 114, 178", "213, 94, 0"
"""Blue and orange as red, green and blue."""
STRONGEST = 0.5
"""Opacity of the strongest colour: text on it keeps a contrast above 4.5."""


def scored_text(text: str, words: Sequence[tuple[int, int, float]], largest: float) -> str:
    """The text with each word (start, end, score) in blue where its score is above 0, in orange
    with a broken line beneath where it is below; `largest` has the strongest colour.
    """
    return _fill(text, [(start, end, _scored(score, largest)) for start, end, score in words])


def marked_text(text: str, spans: Iterable[tuple[int, int, str]]) -> str:
    """The text with each span (start, end, label) marked, its label behind it; none without one."""
    return _fill(text, [(start, end, _marked(label)) for start, end, label in sorted(spans)])


def _scored(score: float, largest: float) -> tuple[str, str]:
    opacity = STRONGEST * abs(score) / largest if largest else 0.0
    colour, line = (FOR, "solid") if score > 0 else (AGAINST, "dashed")
    style = f"background: rgba({colour}, {opacity:.2f}); border-radius: 3px;"
    if opacity > STRONGEST / 10:
        style += f" border-bottom: 2px {line} rgb({colour});"
    return f'<span style="{style}" title="{score:+.3f}">', "</span>"


def _marked(label: str) -> tuple[str, str]:
    style = f"background: rgba({FOR}, 0.25); color: inherit; border-radius: 3px; padding: 1px 3px;"
    behind = f' <small style="font-weight: 600;">{escape(label)}</small>' if label else ""
    return f'<mark style="{style}">', f"{behind}</mark>"


def _fill(text: str, parts: Iterable[tuple[int, int, tuple[str, str]]]) -> str:
    """The text, escaped, with something before and behind each part of it."""
    pieces, done = [], 0
    for start, end, (before, behind) in parts:
        pieces += [escape(text[done:start]), before, escape(text[start:end]), behind]
        done = end
    return "".join([*pieces, escape(text[done:])])
