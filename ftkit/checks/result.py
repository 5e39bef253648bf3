"""The result of a check: a table in a terminal or notebook, JSON for files and pages.

Imports `finding`; `check` makes it, the report of a run reads `to_dict()`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ftkit.checks.finding import LEVELS, Finding, Level
from ftkit.checks.table import as_html, as_text


@dataclass(frozen=True)
class SplitFacts:
    """What a split is."""

    name: str
    rows: int
    """That a training can read."""
    unreadable: int
    """Others, which were left out of all that follows."""
    labels: dict[str, int]
    """How many rows have each label, or how many entities are of each type; the most first."""
    lengths: dict[str, Any] | None
    """`unit` "tokens" or "words"; `edges` (bins + 1) and `counts` (bins) of a histogram, the same
    edges in every split; `median`, `p95`, `max`; and, None without a checkpoint, `limit` in
    tokens, `cut_rows` of which the model sees a part, `windows` that it reads. None of a split
    that was not tokenised."""
    languages: dict[str, int]
    """Rows in each language, of those that were looked at, the most first; "not sure" is one."""


@dataclass(frozen=True)
class DataCheck:
    """What a check found; printed, it is a table."""

    task: str
    checkpoint: str | None
    splits: tuple[SplitFacts, ...]
    findings: tuple[Finding, ...]
    """Errors first, then warnings, then notes."""
    estimate: dict[str, Any] | None
    """`checks.estimate.Estimate` as a dict; None where rows could not be tokenised."""
    notes: tuple[str, ...]
    """How it was looked, and what was not looked at."""

    @property
    def ok(self) -> bool:
        """Whether nothing was found by which a training would fail or its scores would lie."""
        return not self.of_level("error")

    def of_level(self, level: Level) -> list[Finding]:
        """The findings of a level."""
        return [finding for finding in self.findings if finding.level == level]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON; `from_dict` reads it."""
        counts = {level: len(self.of_level(level)) for level in LEVELS}
        return {
            "task": self.task,
            "checkpoint": self.checkpoint,
            "ok": self.ok,
            "found": counts,
            "splits": [asdict(split) for split in self.splits],
            "findings": [finding.to_dict() for finding in self.findings],
            "estimate": self.estimate,
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> DataCheck:
        """The check that `to_dict` wrote."""
        return cls(
            task=content["task"],
            checkpoint=content["checkpoint"],
            splits=tuple(SplitFacts(**each) for each in content["splits"]),
            findings=tuple(Finding.from_dict(each) for each in content["findings"]),
            estimate=content["estimate"],
            notes=tuple(content["notes"]),
        )

    def __str__(self) -> str:
        return as_text(self.to_dict())

    def _repr_html_(self) -> str:
        return as_html(self.to_dict())
