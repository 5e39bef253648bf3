"""check_rows on canonical data."""

import time
import warnings

import pytest
from datasets import Dataset, DatasetDict

from ftkit.data.check import check_rows
from ftkit.errors import DataError, FtkitWarning
from ftkit.task import Column
from ftkit.tasks import get_task

TASK = get_task("classification")


def make(**splits) -> DatasetDict:
    return DatasetDict({name: Dataset.from_dict(columns) for name, columns in splits.items()})


GOOD = {"text": ["a", "b"], "label": [0, 1]}

BAD = [
    ({"test": {"text": [], "label": []}}, 'split "test": has no rows. Add rows'),
    ({"test": {"text": ["a"]}}, 'split "test", column "label": there is no column "label"'),
    (
        {"test": {"text": ["a", None, None], "label": [0, 1, 0]}},
        'split "test", row 2, column "text": the text is missing (null); 2 of 3 rows have none.',
    ),
    (
        {"test": {"text": [None, None], "label": [0, 1]}},
        'split "test", row 1, column "text": the text is missing (null); 2 of 2 rows have none.',
    ),
    (
        {"test": {"text": [None, 5, 6], "label": [0, 1, 0]}},
        'split "test", row 2, column "text": a number (5) where a text belongs; 2 of 3 rows',
    ),
    (
        {"test": {"text": [["a"], ["b"]], "label": [0, 1]}},
        "row 1, column \"text\": a list of text (['a']) where a text belongs; 2 of 2 rows",
    ),
    (
        {"test": {**GOOD, "text_pair": ["a", "b"]}},
        'split "train", column "text_pair": there is no such column, which test has',
    ),
]


@pytest.mark.parametrize(("splits", "message"), BAD)
def test_bad_rows(splits, message):
    with pytest.raises(DataError) as raised:
        check_rows(make(train=GOOD, **splits), TASK.columns())
    assert message in str(raised.value)


def test_a_selection_is_checked_by_its_own_rows():
    data = make(train={"text": [None, "a", "b"], "label": [0, 1, 0]})
    check_rows(DatasetDict(train=data["train"].select([2, 1])), TASK.columns())
    with pytest.raises(DataError, match='split "train", row 3'):
        check_rows(DatasetDict(train=data["train"].select([2, 1, 0])), TASK.columns())


def test_blank_texts_are_counted():
    data = make(
        train={"text": ["a", "", " \n", "b", "\u00a0", "\t"], "label": [0, 1] * 3}, test=GOOD
    )
    with pytest.warns(FtkitWarning) as caught:
        check_rows(data, TASK.columns())
    assert [str(warning.message) for warning in caught] == [
        'split "train", column "text": 4 of 6 texts are empty or blank (row 2, 3, 5, ...)'
    ]
    assert caught[0].filename == __file__


def test_good_rows_pass_in_silence():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_rows(make(train=GOOD, test=GOOD), TASK.columns())


def test_a_million_rows_take_no_time():
    texts = ["my card was charged twice", "where is my parcel"] * 500_000
    data = make(train={"text": texts, "label": [0, 1] * 500_000})
    start = time.perf_counter()
    check_rows(data, TASK.columns())
    assert time.perf_counter() - start < 2


WORDS = (Column("tokens", "tokens"),)


def test_lists_of_words_are_taken():
    check_rows(make(train={"tokens": [["a", "b"], []]}), WORDS)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([["a"], None, ["b"]], 'split "train", row 2, column "tokens": a word is missing (null)'),
        ([["a"], ["b", None]], 'split "train", row 2, column "tokens": a word is missing (null)'),
        (["a b", "c"], 'column "tokens": values of type string where lists of words belong'),
        ([[1, 2], [3]], 'column "tokens": values of type list<item: int64> where lists of words'),
    ],
)
def test_words_that_are_none(values, message):
    with pytest.raises(DataError) as caught:
        check_rows(make(train={"tokens": values}), WORDS)
    assert message in str(caught.value)
