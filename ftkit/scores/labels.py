"""Scores gathered batch by batch: for one label of several, for several at once, for a number.

They implement the `Metrics` protocol and hold a few integers a row at most, never all logits.
Imports numpy, `arrays` and, to compute, scikit-learn and scipy; tasks choose among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ftkit.arrays import ArrayLike, as_array, sigmoid
from ftkit.scores.resample import resample

if TYPE_CHECKING:
    from ftkit.task import Draw, Rows

# Thresholds tried for multi-label scores: 0.05, 0.06, ... 0.95.
_BINS = 100
_CANDIDATES = slice(5, 96)


@dataclass
class ClassMetrics:
    """Scores for one label of several; holds two small integers a row."""

    labels: tuple[str, ...]
    found: list[np.ndarray] = field(default_factory=list)
    wanted: list[np.ndarray] = field(default_factory=list)

    def add(self, outputs: ArrayLike, targets: ArrayLike, rows: Rows) -> None:
        """Take in logits (rows, labels) and class numbers (rows,)."""
        self.found.append(as_array(outputs.argmax(1)).astype(np.int32))
        self.wanted.append(as_array(targets).astype(np.int32))

    def compute(self) -> dict[str, float]:
        """Accuracy, macro F1 (over the labels met) and Matthews' correlation coefficient."""
        from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

        wanted, found = np.concatenate(self.wanted), np.concatenate(self.found)
        n_met = len(np.union1d(wanted, found))
        return {
            "accuracy": float(accuracy_score(wanted, found)),
            "macro_f1": float(f1_score(wanted, found, average="macro", zero_division=0)),
            # scikit-learn warns where all rows have one label, and all answers are that label.
            "mcc": float(matthews_corrcoef(wanted, found)) if n_met > 1 else 0.0,
        }

    def per_label(self) -> dict[str, dict[str, float]]:
        """Precision, recall, F1 and support of each label."""
        from sklearn.metrics import precision_recall_fscore_support

        scores = precision_recall_fscore_support(
            np.concatenate(self.wanted),
            np.concatenate(self.found),
            labels=range(len(self.labels)),
            zero_division=0,
        )
        return _label_table(self.labels, *scores)

    def chosen(self) -> dict[str, Any]:
        """Nothing is left to choose."""
        return {}

    def resampled(self, draw: Draw) -> dict[str, np.ndarray]:
        """The scores of resamples of the rows: (resamples,) each."""
        if not self.wanted:
            return {}
        wanted, found = np.concatenate(self.wanted), np.concatenate(self.found)
        is_wanted, is_found = (_one_hot(each, len(self.labels)) for each in (wanted, found))
        is_right = is_wanted.multiply(is_found)

        def scores(counts: np.ndarray) -> dict[str, np.ndarray]:
            right, n_wanted, n_found = counts @ is_right, counts @ is_wanted, counts @ is_found
            is_met = n_wanted + n_found > 0
            f1 = 2 * right / np.maximum(n_wanted + n_found, 1)
            rows, accuracy = len(wanted), right.sum(1) / len(wanted)
            # Gorodkin 2004, from counts of labels.
            shared = right.sum(1) * rows - (n_wanted * n_found).sum(1)
            spread = (rows**2 - (n_wanted**2).sum(1)) * (rows**2 - (n_found**2).sum(1))
            return {
                "accuracy": accuracy,
                "macro_f1": f1.sum(1) / is_met.sum(1),
                "mcc": np.where(spread > 0, shared / np.sqrt(np.maximum(spread, 1)), 0.0),
            }

        return resample(draw, len(wanted), scores)


@dataclass
class LabelsMetrics:
    """Scores for several labels at once; holds counts a label and threshold, not scores a row, and
    two bits a label and row where the threshold is given.
    """

    labels: tuple[str, ...]
    threshold: float | None
    """None: choose the threshold at which micro F1 is best on these rows."""
    counts: np.ndarray = field(init=False)
    """How many rows have a score in each bin: (2 for absent or present, labels, bins).

    A bin is a hundredth of the score; where the threshold is given, bin 1 is what reaches it.
    """
    answers: list[np.ndarray] = field(default_factory=list)
    """Of each batch, which labels are wanted and which are found, packed: (2, rows, bytes)."""

    def __post_init__(self) -> None:
        self.counts = np.zeros((2, len(self.labels), _BINS + 1), dtype=np.int64)

    def add(self, outputs: ArrayLike, targets: ArrayLike, rows: Rows) -> None:
        """Take in logits (rows, labels) and 0/1 targets (rows, labels)."""
        scores = np.nan_to_num(sigmoid(as_array(outputs)))
        if self.threshold is None:
            # Rounding first lets a score of 0.29 count as 0.29, not as 28.999 hundredths.
            bins = (scores * _BINS + 1e-4).astype(np.int64)
        else:
            bins = (scores >= self.threshold).astype(np.int64)
        label = np.arange(len(self.labels))[None, :]
        present = as_array(targets).astype(np.int64)
        np.add.at(self.counts, (present, label, bins), 1)
        if self.threshold is not None:
            self.answers.append(np.packbits(np.stack([present, bins]).astype(bool), axis=2))

    def _f1(self) -> tuple[np.ndarray, ...]:
        """True positives, predicted and wanted by label and threshold: (labels, bins)."""
        at_least = self.counts[:, :, ::-1].cumsum(2)[:, :, ::-1]
        wanted = np.broadcast_to(self.counts[1].sum(1, keepdims=True), at_least.shape[1:])
        return at_least[1], at_least.sum(0), wanted

    def _place(self) -> int:
        """The first bin that counts."""
        if self.threshold is not None:
            return 1
        true, predicted, wanted = (part.sum(0) for part in self._f1())
        micro = 2 * true / np.maximum(predicted + wanted, 1)
        return int(micro[_CANDIDATES].argmax()) + _CANDIDATES.start

    def compute(self) -> dict[str, float]:
        """Micro and macro F1 (over all labels) at the threshold."""
        true, predicted, wanted = (part[:, self._place()] for part in self._f1())
        micro = 2 * true.sum() / max((predicted + wanted).sum(), 1)
        macro = (2 * true / np.maximum(predicted + wanted, 1)).mean()
        return {"micro_f1": float(micro), "macro_f1": float(macro)}

    def per_label(self) -> dict[str, dict[str, float]]:
        """Precision, recall, F1 and support of each label at the threshold."""
        true, predicted, wanted = (part[:, self._place()] for part in self._f1())
        f1 = 2 * true / np.maximum(predicted + wanted, 1)
        precision, recall = true / np.maximum(predicted, 1), true / np.maximum(wanted, 1)
        return _label_table(self.labels, precision, recall, f1, wanted)

    def chosen(self) -> dict[str, Any]:
        """The threshold in use; nothing before any rows were seen."""
        if not self.counts.any():
            return {}
        return {"threshold": self.threshold or self._place() / _BINS}

    def resampled(self, draw: Draw) -> dict[str, np.ndarray]:
        """The scores of resamples of the rows: (resamples,) each; nothing where the threshold is
        not given.
        """
        if not self.answers:
            return {}
        packed = np.concatenate(self.answers, axis=1)
        is_wanted, is_found = np.unpackbits(packed, axis=2, count=len(self.labels))
        statistics = [_sparse(each) for each in (is_wanted & is_found, is_wanted, is_found)]

        def scores(counts: np.ndarray) -> dict[str, np.ndarray]:
            right, wanted, found = (counts @ each for each in statistics)
            micro = 2 * right.sum(1) / np.maximum((wanted + found).sum(1), 1)
            macro = (2 * right / np.maximum(wanted + found, 1)).mean(1)
            return {"micro_f1": micro, "macro_f1": macro}

        return resample(draw, packed.shape[1], scores)


@dataclass
class ValueMetrics:
    """Scores for a number; holds two numbers a row."""

    found: list[np.ndarray] = field(default_factory=list)
    wanted: list[np.ndarray] = field(default_factory=list)

    def add(self, outputs: ArrayLike, targets: ArrayLike, rows: Rows) -> None:
        """Take in outputs (rows, 1) and numbers (rows,)."""
        self.found.append(as_array(outputs)[:, 0])
        self.wanted.append(as_array(targets))

    def compute(self) -> dict[str, float]:
        """Mean absolute error, in the labels' unit, and Spearman's rank correlation."""
        from scipy.stats import spearmanr

        wanted, found = np.concatenate(self.wanted), np.concatenate(self.found)
        is_constant = np.ptp(wanted) == 0 or np.ptp(found) == 0
        return {
            "mae": float(np.abs(wanted - found).mean()),
            "spearman": 0.0 if is_constant else float(spearmanr(wanted, found).statistic),
        }

    def per_label(self) -> dict[str, dict[str, float]]:
        """A number has no labels."""
        return {}

    def chosen(self) -> dict[str, Any]:
        """Nothing is left to choose."""
        return {}

    def resampled(self, draw: Draw) -> dict[str, np.ndarray]:
        """The scores of resamples of the rows: (resamples,) each."""
        if not self.wanted:
            return {}
        wanted, found = np.concatenate(self.wanted), np.concatenate(self.found)
        errors = np.abs(wanted - found)
        orders = [np.unique(each, return_inverse=True)[1] for each in (wanted, found)]

        def scores(counts: np.ndarray) -> dict[str, np.ndarray]:
            ranks = [_mean_ranks(each, counts) - (len(wanted) + 1) / 2 for each in orders]
            shared = (counts * ranks[0] * ranks[1]).sum(1)
            spread = np.sqrt((counts * ranks[0] ** 2).sum(1) * (counts * ranks[1] ** 2).sum(1))
            return {
                "mae": counts @ errors / len(wanted),
                "spearman": np.where(spread > 0, shared / np.maximum(spread, 1e-9), 0.0),
            }

        return resample(draw, len(wanted), scores)


def _one_hot(labels: np.ndarray, n_labels: int) -> Any:
    """Class numbers (rows,) as a sparse matrix (rows, labels)."""
    from scipy.sparse import csr_array

    ends = np.arange(len(labels) + 1)
    return csr_array((np.ones(len(labels)), labels, ends), shape=(len(labels), n_labels))


def _sparse(values: np.ndarray) -> Any:
    from scipy.sparse import csr_array

    return csr_array(values.astype(np.float64))


def _mean_ranks(order: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Ranks from 1 of each row (resamples, rows), those that are alike sharing their mean rank.

    `order` (rows,) numbers the different values by size; `counts` (resamples, rows) says how often
    each row is there.
    """
    alike = counts @ _one_hot(order, int(order.max()) + 1)
    ranks: np.ndarray = (alike.cumsum(1) - (alike - 1) / 2)[:, order]
    return ranks


def _label_table(
    labels: Sequence[str], precision: Any, recall: Any, f1: Any, support: Any
) -> dict[str, dict[str, float]]:
    columns = zip(labels, precision, recall, f1, support, strict=True)
    return {
        name: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(s)}
        for name, p, r, f, s in columns
    }
