"""Lots of rows: every row in one, by hand-worked cases."""

import numpy as np
import pytest

from ftkit.reports.bins import by_name, by_number

pytestmark = pytest.mark.unit


def test_every_row_is_in_one_lot():
    rng = np.random.default_rng(0)
    numbers, scores = rng.integers(1, 60, 500), rng.random(500)
    lots = by_number(numbers, scores)
    assert 4 <= len(lots) <= 6
    assert sum(lot.count for lot in lots) == 500
    mean = sum(lot.mean * lot.count for lot in lots) / 500
    assert mean == pytest.approx(scores.mean())


def test_names_say_what_is_in_a_lot():
    lots = by_number([1] * 10 + [7] * 10, [1.0] * 10 + [0.0] * 10)
    assert [(lot.name, lot.count, lot.mean) for lot in lots] == [("1", 10, 1.0), ("7", 10, 0.0)]
    assert [lot.margin for lot in lots] == [0.0, 0.0]


@pytest.mark.parametrize(("numbers", "count"), [([3] * 50, 1), ([1, 2, 3], 0), ([], 0)])
def test_rows_alike_or_few(numbers, count):
    assert len(by_number(numbers, [0.5] * len(numbers))) == count


def test_margin_is_that_of_a_mean():
    (lot,) = by_number([2] * 40, [0.0, 1.0] * 20)
    assert lot.margin == pytest.approx(1.96 * np.std([0.0, 1.0] * 20, ddof=1) / np.sqrt(40))


def test_names_of_few_rows_are_left_out():
    lots = by_name(["who"] * 6 + ["why"] * 4 + ["what"] * 9, [1.0] * 19)
    assert [(lot.name, lot.count) for lot in lots] == [("what", 9), ("who", 6)]
