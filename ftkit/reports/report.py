"""A report: its sections put together, as a page, a file, or a notebook's output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftkit.inference.predictor import Predictor
from ftkit.reports.answers import answer_sections
from ftkit.reports.data import data_section
from ftkit.reports.page import Section, document, fragment
from ftkit.reports.rows import Answers
from ftkit.reports.training import TrainingFacts, headline, training_sections


@dataclass(frozen=True)
class Report:
    """One page on a training; in a notebook it shows itself."""

    title: str
    lead: str
    """HTML above the sections."""
    sections: tuple[Section, ...]
    evaluated: tuple[Answers, ...]
    """What it was made from: the rows of each split as the model answered them."""

    def __str__(self) -> str:
        """The scores; the page itself is HTML."""
        lines = [self.title]
        for answers in self.evaluated:
            scores = answers.evaluation.scores
            named = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
            lines.append(f"{answers.split} ({answers.evaluation.rows:,} rows): {named}")
        lines.append('Write the page by .save("report.html").')
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return fragment(self.title, self.lead, self.sections)

    def html(self) -> str:
        """The whole page: it loads nothing and runs nothing."""
        return document(self.title, self.lead, self.sections)

    def save(self, file: str | Path) -> Path:
        """Write the page; returns its path."""
        path = Path(file)
        path.write_text(self.html(), encoding="utf-8")
        return path


def make_report(
    facts: TrainingFacts,
    evaluated: Sequence[Answers],
    predictor: Predictor,
    *,
    check: Mapping[str, Any] | None = None,
    explain_seconds: float = 5.0,
) -> Report:
    """Put a report together.

    `check` is what the data check found, as `DataCheck.to_dict` gives it. Mistakes are explained
    for as many seconds; 0 explains none.
    """
    training = training_sections(facts, evaluated)
    sections = [training[0]]
    if check is not None:
        sections.append(data_section(check))
    sections += training[1:]
    sections += answer_sections(
        evaluated, predictor, train_counts=facts.train_counts, explain_seconds=explain_seconds
    )
    title = f"{Path(facts.checkpoint).name}, fine-tuned for {facts.task}"
    return Report(title, headline(evaluated), tuple(sections), tuple(evaluated))
