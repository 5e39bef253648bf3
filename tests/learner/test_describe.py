"""What is said of a Learner: the rows that are chosen to be shown."""

import math

import numpy as np
import pytest

from ftkit.learner.describe import choose_rows, show_rows


@pytest.mark.unit
@pytest.mark.parametrize(
    ("losses", "count", "worst", "best", "n_random"),
    [
        ([3.0, 1.0, 2.0, 5.0, 4.0, 0.0, 6.0], 3, [6], [5], 1),
        ([3.0, 1.0, 2.0, 5.0, 4.0, 0.0, 6.0], 6, [6, 3], [5, 1], 2),
        ([3.0, 1.0, 2.0, 5.0, 4.0, 0.0, 6.0], 5, [6, 3, 4], [5], 1),
        ([3.0, 1.0, 2.0, 5.0, 4.0, 0.0, 6.0], 1, [6], [], 0),
        ([1.0, 3.0], 24, [1, 0], [], 0),
        ([3.0, math.nan, 1.0], 3, [1], [2], 1),
        ([1.0] * 9, 6, [8, 7], [0, 1], 2),
    ],
    ids=["one each", "two each", "no third", "the worst alone", "few rows", "no number", "equal"],
)
def test_rows_are_chosen_by_their_losses(losses, count, worst, best, n_random):
    chosen = choose_rows(np.array(losses), count, seed=0)
    places = [place for place, _ in chosen]
    assert len(set(places)) == len(places) <= count
    of = {why: [place for place, each in chosen if each == why] for why in ("worst", "best")}
    assert of == {"worst": worst, "best": best}
    assert sum(why == "random" for _, why in chosen) == n_random
    assert chosen == choose_rows(np.array(losses), count, seed=0)


def test_rows_are_shown_as_plain_strings(fitted):
    rows = show_rows(fitted, [0, 5])
    assert [list(row) for row in rows] == [["text", "label", "predicted"]] * 2
    assert {type(cell) for row in rows for cell in row.values()} == {str}
