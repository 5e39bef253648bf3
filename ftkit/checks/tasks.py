"""Which checks belong to which task, by its name.

Imports the checks of each; `opening` and `check` ask it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from ftkit.checks import answers, entities, labels, summaries, texts
from ftkit.checks.finding import Finding, SplitRows
from ftkit.features import Features

Splits: TypeAlias = "Mapping[str, SplitRows]"


def _nothing_unusable(rows: SplitRows) -> tuple[list[Finding], np.ndarray]:
    return [], np.zeros(len(rows), dtype=bool)


def _nothing_unknown(splits: Splits) -> tuple[list[Finding], dict[str, np.ndarray]]:
    return [], {}


def _nothing(*rows: object) -> list[Finding]:
    return []


def _no_labels(rows: SplitRows) -> dict[str, int]:
    return {}


@dataclass(frozen=True)
class TaskChecks:
    """What is asked of a task's rows, beside what is asked of all."""

    unusable: Callable[[SplitRows], tuple[list[Finding], np.ndarray]] = _nothing_unusable
    """What of a split no training can use, and which rows these are: (rows,)."""
    unknown: Callable[[Splits], tuple[list[Finding], dict[str, np.ndarray]]] = _nothing_unknown
    """What other splits have and train never does, and which of their rows."""
    look: Callable[[Splits], list[Finding]] = _nothing
    """What is odd in rows that can be used."""
    count: Callable[[SplitRows], dict[str, int]] = _no_labels
    """How often each label is there."""
    cut: Callable[[SplitRows, Features, int], list[Finding]] = _nothing
    """What the model does not see of rows that were tokenised with a limit."""


_WRITING = TaskChecks(unusable=summaries.find_unusable, look=summaries.look, cut=summaries.find_cut)
CHECKS: dict[str, TaskChecks] = {
    "classification": TaskChecks(
        labels.find_unusable,
        labels.find_unknown,
        labels.look,
        labels.count_labels,
        texts.find_cut_texts,
    ),
    "ner": TaskChecks(
        entities.find_unusable,
        entities.find_unknown,
        entities.look,
        entities.count_types,
        entities.find_cut,
    ),
    "qa": TaskChecks(unusable=answers.find_unusable, look=answers.look, cut=answers.find_cut),
    "summarization": _WRITING,
    "translation": _WRITING,
    "language_modeling": TaskChecks(),
}
