"""The best answers, against a search over all spans of all windows, with many equal ones."""

import numpy as np
import pytest

from ftkit.targets import answer_spans
from ftkit.targets.answer_spans import MASKED, NO_PLACE, NULL, best_spans, null_logits

pytestmark = pytest.mark.unit


def drawn(seed, rows=6, windows=3, tokens=9, step=1.0):
    """Outputs whose logits are few numbers; windows overlap, and the first row lacks some."""
    rng = np.random.default_rng(seed)
    outputs = np.zeros((rows, windows, tokens, 4), dtype=np.float32)
    outputs[..., :2] = rng.integers(-2, 3, (rows, windows, tokens, 2)) * step
    first = np.arange(windows)[:, None] * (tokens // 2)
    outputs[..., 2] = 3 * (first + np.arange(tokens))
    outputs[..., 3] = outputs[..., 2] + 2
    outputs[:, :, 0, 2:] = NULL
    # The question, and padding.
    outputs[:, :, 1, 2:] = outputs[1, 0, 5:, 2:] = NO_PLACE
    outputs[0, 1:, :, 2:] = NO_PLACE
    outputs[..., :2][outputs[..., 2] == NO_PLACE] = MASKED
    return outputs


def searched(row, longest):
    """Every span (start, end, logits) of a row, the best first; of equals the first in the text."""
    spans = []
    for w, window in enumerate(row):
        for i, (start, _, char_start, _) in enumerate(window):
            for j, (_, end, _, char_end) in enumerate(window[i : i + longest]):
                if char_start >= 0 and window[i + j, 2] >= 0:
                    spans.append((-(start + end), w, i, j, char_start, char_end))
    return [(start, end, -logits) for logits, *_, start, end in sorted(spans)]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("step", [1.0, 0.1])
@pytest.mark.parametrize("longest", [1, 3, 9, 50])
@pytest.mark.parametrize("n_best", [1, 2, 7, 20, 1000])
def test_the_best_are_those_of_a_search_over_all(seed, step, longest, n_best):
    outputs = drawn(seed, step=step)
    found = best_spans(outputs, longest, n_best)
    assert found.dtype == np.float32
    for row, spans in zip(outputs, found.tolist(), strict=True):
        wanted = searched(row, longest)[:n_best]
        assert [tuple(span) for span in spans[: len(wanted)]] == wanted
        # Fewer spans than were asked for: the rest says that there are no more.
        for start, end, logits in spans[len(wanted) : n_best]:
            assert (start, end) == (NULL, NULL)
            assert logits <= MASKED / 2


@pytest.mark.parametrize("at_once", [1, 4, 100])
def test_windows_a_few_at_a_time_give_the_same(monkeypatch, at_once):
    outputs = drawn(0)
    whole = best_spans(outputs, 4, 5)
    monkeypatch.setattr(answer_spans, "_WINDOWS_AT_ONCE", at_once)
    np.testing.assert_array_equal(best_spans(outputs, 4, 5), whole)


def test_of_equal_spans_one_alone_is_the_first_of_many():
    outputs = drawn(1)
    outputs[..., :2] = np.where(outputs[..., 2:3] >= 0, 2.0, MASKED)
    one, many = best_spans(outputs, 4, 1)[:, 0], best_spans(outputs, 4, 20)[:, 0]
    assert one.tolist() == many.tolist() == [[6.0, 8.0, 4.0]] * len(outputs)


def test_logits_that_are_no_numbers_make_no_answer(recwarn):
    outputs = drawn(2)
    outputs[2, :, :, :2] = np.nan
    outputs[3, 0, 4, 0], outputs[3, 1, 5, 1] = np.inf, -np.inf
    found = best_spans(outputs, 4, 20)
    assert (found[2, :, :2] == NULL).all()
    assert (found[3, :20, :2] >= 0).all()
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[4:], best_spans(drawn(2), 4, 20)[4:])
    assert not recwarn.list


def test_what_speaks_for_no_answer_is_the_least_of_the_windows():
    outputs = drawn(3)
    wanted = [min(w[0, 0] + w[0, 1] for w in row if w[0, 2] == NULL) for row in outputs]
    assert null_logits(outputs).tolist() == wanted
    # Nothing at all, as of a row that is cut to nothing.
    outputs[2, ..., 2:] = NO_PLACE
    assert null_logits(outputs)[2] == 2 * MASKED
