"""How sure scores are: percentile intervals by the bootstrap over rows.

Efron and Tibshirani 1993, chapter 13: rows are drawn again, as many as there are, with
replacement; scores of all rows together, such as F1 or BLEU, are computed anew on each draw
(Koehn 2004). The rows are taken as drawn independently from what the model will meet; the chance
in its training is not in the interval. Imports numpy, `errors` and the Metrics protocol.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ftkit.errors import check_least
from ftkit.task import Draw, Metrics

_CELLS = 1 << 21  # times that a row is in a resample, held at once


def confidence_intervals(
    resampled: dict[str, np.ndarray], *, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """The lower and the upper end for each score (resamples,); none for a score that is no number
    in any of them.
    """
    tails = [(1 - level) / 2, (1 + level) / 2]
    intervals = {}
    for name, scores in resampled.items():
        scores = scores[np.isfinite(scores)]
        if len(scores):
            low, high = np.quantile(scores, tails).tolist()
            intervals[name] = (low, high)
    return intervals


def resampled_scores(
    metrics: Metrics, resamples: int, order: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """The scores of so many resamples of the rows, (resamples,) each; none for 0.

    `order` (rows,) are the numbers of the rows as the metrics took them in. With it, the same
    rows are drawn whatever model answered them, so that two models' resamples are pairs.
    """
    check_least(0, resamples=resamples)
    return metrics.resampled(Draw(resamples, order)) if resamples else {}


def resample(
    draw: Draw, rows: int, scores: Callable[[np.ndarray], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Scores (resamples,) of draws of `rows` rows; nothing where there is none.

    `scores` computes them (some,) from how often each row was drawn: (some, rows).
    """
    if not rows:
        return {}
    rng = np.random.default_rng(draw.seed)
    # Rows may have been passed over, as those without labels.
    order = draw.order if draw.order is not None and len(draw.order) == rows else None
    step = max(1, _CELLS // rows)
    parts = []
    for start in range(0, draw.resamples, step):
        some = min(step, draw.resamples - start)
        drawn = rng.integers(rows, size=(some, rows)) + np.arange(some)[:, None] * rows
        counts = np.bincount(drawn.ravel(), minlength=some * rows).reshape(some, rows)
        if order is not None:
            counts = counts[:, order]
        parts.append(scores(counts.astype(np.float64)))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Element by element, nan where the denominator is 0."""
    shape = np.broadcast_shapes(numerator.shape, denominator.shape)
    ratios = np.full(shape, np.nan)
    np.divide(numerator, denominator, out=ratios, where=denominator != 0)
    return ratios
