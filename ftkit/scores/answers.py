"""Exact match and F1 of answers, by SQuAD's official rules, gathered batch by batch.

The rules are those of SQuAD's evaluation scripts 1.1 and 2.0 (Rajpurkar et al. 2016 and 2018).
Holds a few numbers a row, never logits. Imports numpy and `targets.answers`; the
question answering task hands it what it decides with.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ftkit.scores.resample import ratio, resample
from ftkit.targets.answers import has_answers, read_answers

if TYPE_CHECKING:
    from ftkit.arrays import ArrayLike
    from ftkit.task import Draw, Rows

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Lower case without (ASCII) punctuation, articles and superfluous white space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def score_answer(found: str, golds: Sequence[str]) -> tuple[float, float]:
    """Exact match and F1, each the best over the gold answers; none means that "" is right.

    Exact match compares normalised texts; F1 counts the words that they share.
    """
    # Golds of articles and punctuation alone count for nothing, unless there is no other.
    wanted = [gold for gold in map(normalize_answer, golds) if gold] or [""]
    given = normalize_answer(found)
    return float(given in wanted), max(_word_f1(given.split(), gold.split()) for gold in wanted)


def _word_f1(found: list[str], wanted: list[str]) -> float:
    if not found or not wanted:
        return float(found == wanted)
    shared = sum((Counter(found) & Counter(wanted)).values())
    return 2 * shared / (len(found) + len(wanted))


def best_null_threshold(margins: np.ndarray, f1: np.ndarray, has_answer: np.ndarray) -> float:
    """The threshold at which F1 is best if rows of a larger margin are left without an answer.

    `margins` (rows,) are null logits less those of the best answer, `f1` (rows,) what the best
    answer scores. As SQuAD's `find_best_thresh`, but half way between two rows, so that a
    margin computed anew in another batch falls on the same side.
    """
    order = np.argsort(margins, kind="stable")
    ordered = margins[order].astype(np.float64)
    gain = np.where(has_answer, f1, f1 - 1.0)[order]
    # Entry k: what is won when the first k rows get their answer and the others none.
    won = np.concatenate([[0.0], gain.cumsum()])
    edges = np.concatenate([[ordered[0] - 2.0], ordered, [ordered[-1] + 2.0]])
    # Rows of the same margin cannot be told apart.
    won[1:-1][ordered[1:] == ordered[:-1]] = -np.inf
    best = int(won.argmax())
    return float((edges[best] + edges[best + 1]) / 2)


@dataclass
class AnswerMetrics:
    """F1 and exact match over questions; holds four numbers a row."""

    scores: Callable[[ArrayLike], np.ndarray]
    """The task's: outputs -> (rows, 4), start, end, logit of the best answer, null logit."""
    has_unanswerable: bool
    """Whether no answer is given where the margin of the null logit passes the threshold."""
    threshold: float | None = 0.0
    """None: choose the threshold at which F1 is best on these rows."""
    skips_unlabelled: bool = False
    """Whether rows without answers, which rows at hand may be, are passed over."""
    exact: list[float] = field(default_factory=list)
    f1: list[float] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)
    has_answer: list[bool] = field(default_factory=list)

    def add(self, outputs: ArrayLike, targets: ArrayLike, rows: Rows) -> None:
        """Take in outputs (rows, windows, tokens, 4); the gold answers are read off the rows.

        Raises DataError for rows that do not say what their answers are.
        """
        for i, (start, end, best, null) in enumerate(self.scores(outputs).tolist()):
            row = rows[i]
            if self.skips_unlabelled and not has_answers(row):
                continue
            golds = read_answers(row).texts
            found = row["context"][int(start) : int(end)] if start >= 0 else ""
            exact, f1 = score_answer(found, golds)
            self.exact.append(exact)
            self.f1.append(f1)
            self.margins.append(null - best)
            self.has_answer.append(bool(golds))

    def compute(self) -> dict[str, float]:
        """F1 and exact match; where questions may have no answer, their parts too.

        A part without a row is nan: there is nothing to score.
        """
        exact, f1, has_answer = self._by_row()
        found = {"f1": _mean(f1), "exact_match": _mean(exact)}
        if not self.has_unanswerable:
            return found
        return found | {
            "has_answer_f1": _mean(f1[has_answer]),
            "has_answer_exact_match": _mean(exact[has_answer]),
            # Of "no answer" F1 and exact match are the same by the rules.
            "no_answer_exact_match": _mean(exact[~has_answer]),
        }

    def _by_row(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Exact match, F1, and whether there is an answer, of each row at the threshold."""
        has_answer = np.array(self.has_answer, dtype=bool)
        exact, f1 = np.array(self.exact), np.array(self.f1)
        if self.has_unanswerable:
            is_refused = np.array(self.margins) > self._chosen_threshold()
            exact = np.where(is_refused, ~has_answer, exact)
            f1 = np.where(is_refused, ~has_answer, f1)
        return exact, f1, has_answer

    def per_label(self) -> dict[str, dict[str, float]]:
        """Answers have no labels."""
        return {}

    def chosen(self) -> dict[str, Any]:
        """The null threshold in use; nothing where questions always have an answer."""
        if not self.has_unanswerable or (self.threshold is None and not self._can_choose()):
            return {}
        return {"null_threshold": self._chosen_threshold()}

    def resampled(self, draw: Draw) -> dict[str, np.ndarray]:
        """The scores of resamples of the rows: (resamples,) each."""
        exact, f1, has_answer = self._by_row()

        def scores(counts: np.ndarray) -> dict[str, np.ndarray]:
            found = {"f1": counts @ f1 / len(f1), "exact_match": counts @ exact / len(f1)}
            if not self.has_unanswerable:
                return found
            with_answer, without = counts @ has_answer, counts @ ~has_answer
            return found | {
                "has_answer_f1": ratio(counts @ (f1 * has_answer), with_answer),
                "has_answer_exact_match": ratio(counts @ (exact * has_answer), with_answer),
                "no_answer_exact_match": ratio(counts @ (exact * ~has_answer), without),
            }

        return resample(draw, len(f1), scores)

    def _can_choose(self) -> bool:
        """Whether the rows have questions of both kinds."""
        return any(self.has_answer) and not all(self.has_answer)

    def _chosen_threshold(self) -> float:
        if self.threshold is not None:
            return self.threshold
        if not self._can_choose():
            return 0.0
        return best_null_threshold(
            np.array(self.margins), np.array(self.f1), np.array(self.has_answer)
        )


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
