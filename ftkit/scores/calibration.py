"""Whether a model is as sure as it is right: reliability, and the temperature that mends it.

Guo et al. 2017, "On Calibration of Modern Neural Networks": the expected calibration error over
bins of equal width, and one temperature that all logits are divided by, chosen by the likelihood
of held-out rows. Imports numpy, `arrays` and, to choose, scipy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ftkit.arrays import sigmoid, softmax

BINS = 10
_LOWEST, _HIGHEST = 0.05, 20.0


@dataclass(frozen=True)
class Reliability:
    """How often answers were right, by how sure the model was of them; (bins,) each."""

    counts: np.ndarray
    confidence: np.ndarray
    """Mean probability that the model gave; 0 where a bin has none."""
    accuracy: np.ndarray
    """Share that was right; 0 where a bin has none."""

    @property
    def error(self) -> float:
        """The expected calibration error (ECE): the mean distance of the two, over answers."""
        gaps = np.abs(self.confidence - self.accuracy)
        return float((gaps * self.counts).sum() / max(self.counts.sum(), 1))


def reliability(confidence: np.ndarray, is_right: np.ndarray) -> Reliability:
    """Answers of these probabilities (answers,), right or wrong (answers,), in bins of a tenth."""
    place = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(place, minlength=BINS)
    of = np.maximum(counts, 1)
    sure = np.bincount(place, confidence, BINS) / of
    right = np.bincount(place, is_right, BINS) / of
    return Reliability(counts, sure, right)


def answers_of(scores: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How sure each answer is, and whether it is right.

    Of probabilities (rows, labels) and class numbers (rows,), the likeliest label of each row; of
    0/1 targets (rows, labels), the decision on each label at one half: its probability, or the
    rest where the label is left out.
    """
    if targets.ndim == 1:
        return scores.max(1), (scores.argmax(1) == targets).astype(float)
    is_found = scores >= 0.5
    return np.where(is_found, scores, 1 - scores).ravel(), (is_found == targets).ravel().astype(
        float
    )


def best_temperature(logits: np.ndarray, targets: np.ndarray) -> float:
    """The temperature at which the targets are likeliest, between 0.05 and 20.

    Logits (rows, labels); targets are class numbers (rows,), or 0/1 (rows, labels). Above 1 the
    model is too sure, below 1 not sure enough. 1 where every answer is right: by such rows alone
    no certainty would be too much.
    """
    right = logits.argmax(1) == targets if targets.ndim == 1 else (logits > 0) == targets
    if right.all():
        return 1.0
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        return negative_log_likelihood(logits / np.exp(log_temperature), targets)

    bounds = np.log(_LOWEST), np.log(_HIGHEST)
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))


def negative_log_likelihood(logits: np.ndarray, targets: np.ndarray) -> float:
    """The mean over rows of one label, or over all labels of rows of several."""
    tiny = np.finfo(np.float64).tiny
    logits = logits.astype(np.float64)
    if targets.ndim == 1:
        chosen = softmax(logits)[np.arange(len(targets)), targets]
    else:
        chosen = sigmoid(np.where(targets > 0, logits, -logits))
    return float(-np.log(np.maximum(chosen, tiny)).mean())
