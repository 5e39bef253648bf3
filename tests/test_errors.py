"""Errors say what was found, where, and how to mend it."""

import pytest

from ftkit.errors import (
    CheckpointError,
    DataError,
    FtkitError,
    FtkitWarning,
    SettingError,
    check_least,
    describe_rows,
    first_line,
    quoted,
)

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("place", "where"),
    [
        ({}, ""),
        ({"split": "train"}, 'split "train": '),
        ({"row": 3}, "row 3: "),
        ({"column": "label"}, 'column "label": '),
        (
            {"split": "train", "row": 3, "column": "label"},
            'split "train", row 3, column "label": ',
        ),
        # The user's own file says more than the split it became.
        (
            {"file": "a.csv", "split": "train", "row": 3, "column": "label"},
            'a.csv, row 3, column "label": ',
        ),
    ],
)
def test_data_error_names_the_place_then_the_remedy(place, where):
    error = DataError("the label is missing", remedy="Fill it in.", **place)
    assert str(error) == f"{where}the label is missing. Fill it in."
    assert error.problem == "the label is missing"
    assert error.remedy == "Fill it in."
    for name in ("file", "split", "row", "column"):
        assert getattr(error, name) == place.get(name)


def test_located_moves_the_error_into_a_file():
    error = DataError("it is empty", remedy="Fill it in.", split="train", row=3, column="text")
    moved = error.located("part-2.jsonl", 1)
    assert str(moved) == 'part-2.jsonl, row 1, column "text": it is empty. Fill it in.'
    assert (moved.split, moved.row, moved.file) == ("train", 1, "part-2.jsonl")
    assert moved.problem == error.problem


@pytest.mark.parametrize("place", [{"split": "test"}, {"row": 9}, {"column": "body"}, {}])
def test_located_leaves_what_it_is_not_given(place):
    known = {"file": None, "split": "train", "row": 3, "column": "text"}
    moved = DataError("it is empty", remedy="Fill it in.", **known).located(**place)
    assert {name: getattr(moved, name) for name in known} == known | place


@pytest.mark.parametrize("kind", [DataError, CheckpointError, SettingError])
def test_every_error_is_an_ftkit_error(kind):
    error = kind("found", remedy="Mend it.")
    assert isinstance(error, FtkitError)
    assert str(error) == "found. Mend it."


def test_setting_error_is_a_value_error_and_a_warning_is_no_error():
    assert issubclass(SettingError, ValueError)
    assert issubclass(FtkitWarning, UserWarning)
    assert not issubclass(FtkitWarning, FtkitError)


@pytest.mark.parametrize(
    ("names", "most", "expected"),
    [
        ([], 12, ""),
        (["a"], 12, '"a"'),
        (["a", "b"], 12, '"a", "b"'),
        (list("abc"), 3, '"a", "b", "c"'),
        (list("abcde"), 3, '"a", "b", "c" and 2 more'),
    ],
)
def test_quoted(names, most, expected):
    assert quoted(names, most) == expected


@pytest.mark.parametrize(("rows", "shown"), [([4], "4"), ([1, 2, 1000, 7], "1, 2, 1,000, ...")])
def test_describe_rows(rows, shown):
    expected = f'split "train", column "text": {len(rows)} of 2,000 texts are odd (row {shown})'
    assert describe_rows("train", "text", rows, 2000, "texts are odd") == expected


@pytest.mark.parametrize(
    ("unit", "said"),
    [
        ("", "stride is -1. Give 0 or more."),
        ("tokens", "stride is -1 tokens. Give 0 or more tokens."),
    ],
)
def test_check_least_names_the_option_that_is_too_small(unit, said):
    check_least(0, unit, max_length=None, stride=0)
    with pytest.raises(SettingError) as caught:
        check_least(0, unit, max_length=None, stride=-1)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(" cannot be read.\nSee the manual."), "cannot be read"),
        (RuntimeError(), "RuntimeError"),
        (ValueError("\n"), "ValueError"),
        (ValueError("x" * 200), "x" * 157 + "..."),
    ],
)
def test_first_line_says_something_of_every_error(error, line):
    assert first_line(error) == line


def test_an_error_is_one_line_whatever_is_in_the_file():
    error = DataError('the column "\u2028a" is odd', remedy="Call it a\tb.", file="a\nb.csv")
    assert str(error) == 'a?b.csv: the column "?a" is odd. Call it a?b.'
    assert str(error.located(row=2)) == 'a?b.csv, row 2: the column "?a" is odd. Call it a?b.'
