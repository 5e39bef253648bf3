"""The best answers in a question answering model's outputs, over all windows of a row.

Outputs (rows, windows, tokens, 4) hold for each token the start logit, the end logit, and the
offsets of its characters. Imports numpy alone; the question answering task calls it.
"""

from __future__ import annotations

import numpy as np

# What the offsets of a token say where it is no part of the context: the token that stands for
# no answer, and one where none can start or end.
NULL, NO_PLACE = -1, -2
# The logit of a token where no answer can start or end: finite, so that no sum of them is nan.
MASKED = -1e9
# Windows whose spans are searched at once.
_WINDOWS_AT_ONCE = 64


def best_spans(outputs: np.ndarray, longest: int, n_best: int) -> np.ndarray:
    """Start, end and logits of at least `n_best` spans of each row (rows, spans, 3), best first.

    Spans have `longest` tokens at most; of equals, the first in the text is the better. One that
    stands in two windows comes twice; where a row has too few, -1, -1 and a logit below all
    others fill up.
    """
    rows, most, tokens, _ = outputs.shape
    longest = min(longest, tokens)
    # A span in two windows must not push another out, so each window gives as many as asked for.
    each = min(n_best, tokens * longest)
    windows = outputs.reshape(rows * most, tokens, 4)
    parts = [
        _best_of_windows(windows[i : i + _WINDOWS_AT_ONCE], longest, each)
        for i in range(0, len(windows), _WINDOWS_AT_ONCE)
    ]
    found = np.concatenate(parts).reshape(rows, most * each, 3)
    order = np.argsort(-found[..., 2], axis=1, kind="stable")
    best: np.ndarray = np.take_along_axis(found, order[..., None], 1)
    return best


def _best_of_windows(windows: np.ndarray, longest: int, each: int) -> np.ndarray:
    """Start, end and logits of the best spans of each window (windows, each, 3), in any order."""
    tokens = windows.shape[1]
    start, end, char_start, char_end = (windows[..., i] for i in range(4))
    # A token without finite logits, as of a model that diverged, is the same as one outside.
    is_outside = (char_start < 0) | ~np.isfinite(start + end)
    start, end = np.where(is_outside, MASKED, start), np.where(is_outside, MASKED, end)
    end = np.pad(end, ((0, 0), (0, longest - 1)), constant_values=MASKED)
    best_end = end[:, :tokens]
    for further in range(1, longest):
        best_end = np.maximum(best_end, end[:, further : further + tokens])

    window = np.arange(len(windows))[:, None]
    # Only these start one of the best: each has a span that goes before all of another token.
    first = _highest(start + best_end, min(each, tokens))
    # (windows, first tokens, longest): the span from that token to the one k behind it.
    ends = np.lib.stride_tricks.sliding_window_view(end, longest, axis=1)[window, first]
    sums = (start[window, first][..., None] + ends).reshape(len(windows), -1)
    place = _highest(sums, each)
    logits, first = sums[window, place], first[window, place // longest]
    last = np.minimum(first + place % longest, tokens - 1)
    found = np.stack([char_start[window, first], char_end[window, last], logits], -1)
    found[logits <= MASKED / 2, :2] = NULL
    return found


def _highest(values: np.ndarray, count: int) -> np.ndarray:
    """Where the highest values of each row stand (rows, count), in order; of equals the first."""
    least = -np.partition(-values, count - 1, axis=1)[:, count - 1, None]
    is_above, is_equal = values > least, values == least
    is_high = is_above | (is_equal & (is_equal.cumsum(1) <= count - is_above.sum(1)[:, None]))
    places: np.ndarray = is_high.nonzero()[1].reshape(len(values), count)
    return places


def null_logits(outputs: np.ndarray) -> np.ndarray:
    """What speaks for no answer (rows,): the least of its windows, for each is to say so."""
    start, end, char_start = (outputs[..., i] for i in range(3))
    is_null = char_start == NULL
    logits = np.where(is_null, start + end, 2 * MASKED).max(-1)
    logits = np.where(is_null.any(-1), logits, np.inf).min(1)
    least: np.ndarray = np.where(np.isinf(logits), 2 * MASKED, logits)
    return least
