"""What an explanation says: a score for each word, printed and as HTML.

Imports `ftkit.html` only; `explain` makes it.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from html import escape
from typing import Any, Literal

from ftkit.html import scored_text

Method = Literal["integrated_gradients", "occlusion"]
Unit = Literal["log-odds", "value", "logits"]

_SHOWN = 12  # words that are printed


@dataclass(frozen=True)
class WordScore:
    """A word, and how much it speaks for the answer."""

    text: str
    start: int
    """In characters of the row's text; of tokens given, a space between them."""
    end: int
    """Behind the last character."""
    score: float
    """What the word adds to the output, in the unit of the explanation; below 0 against it."""
    column: str
    """Which text of the row it stands in, such as "text" or "context"."""


@dataclass(frozen=True)
class Explanation:
    """How much each word of a row speaks for an answer; in a notebook, the text in colours."""

    label: str
    """The answer that is explained: a label, an entity's label, the text of an answer."""
    output: float
    """What the model gives for it, in `unit`."""
    hidden_output: float
    """The same with all words hidden."""
    unit: Unit
    """Log-odds of the label, the value of a regression, or an answer's start and end logits."""
    words: tuple[WordScore, ...]
    """All words that the model sees, in their order."""
    texts: dict[str, str]
    """The row's texts, by column."""
    method: Method
    gap: float | None
    """How much the scores together exceed `output - hidden_output`, which integrated gradients
    are equal to (their completeness); None for occlusion, which promises nothing."""
    unseen: int
    """Words that the model does not see, because the row is longer than it takes."""

    @property
    def probability(self) -> float | None:
        """That of the label, where the unit is log-odds."""
        return (1 + math.tanh(self.output / 2)) / 2 if self.unit == "log-odds" else None

    def to_dict(self) -> dict[str, Any]:
        """A plain dict, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        """The answer, and the words that speak most for and against it."""
        ranked = sorted(self.words, key=lambda word: -abs(word.score))
        lines = [self._headline()]
        lines += [f"  {word.score:+8.3f}  {word.text}" for word in ranked[:_SHOWN]]
        if rest := ranked[_SHOWN:]:
            total = sum(word.score for word in rest)
            lines.append(f"  {total:+8.3f}  ({len(rest):,} more words)")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return f"<div>{escape(self._headline())}</div>{self.to_html()}"

    def to_html(self) -> str:
        """The texts in colours: blue for the answer, orange with a broken line against it."""
        largest = max((abs(word.score) for word in self.words), default=0.0)
        parts = []
        for column, text in self.texts.items():
            words = [(w.start, w.end, w.score) for w in self.words if w.column == column]
            name = f"<b>{escape(column)}:</b> " if len(self.texts) > 1 else ""
            coloured = scored_text(text, words, largest)
            style = "white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.9;"
            parts.append(f'<div style="{style}">{name}{coloured}</div>')
        return "".join(parts)

    def _headline(self) -> str:
        sure = "" if self.probability is None else f" {self.probability:.1%}"
        unseen = f"; {self.unseen:,} words not seen" if self.unseen else ""
        return (
            f"{self.label}{sure} ({self.unit} {self.output:.3f}; "
            f"{self.hidden_output:.3f} with all words hidden{unseen})"
        )
