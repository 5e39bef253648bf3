"""Texts that know which of their parts matter."""

import copy
import pickle

import pytest

from ftkit.marks import MISSED, WRONG, Mark, MarkedText, kept_parts, listed_names, marked_spans

pytestmark = pytest.mark.unit


def test_a_marked_text_is_a_string():
    cell = MarkedText("Ann", "by Ann.", [Mark(3, 6, "person"), Mark(0, 2)])
    assert cell == "Ann"
    assert type(str(cell)) is str
    assert (cell.text, cell.marks) == ("by Ann.", (Mark(0, 2), Mark(3, 6, "person")))
    assert (MarkedText("Ann").text, MarkedText("Ann").marks) == ("Ann", ())
    for again in (copy.deepcopy(cell), pickle.loads(pickle.dumps(cell))):
        assert (again, again.text, again.marks) == (cell, cell.text, cell.marks)


@pytest.mark.parametrize(
    ("others", "notes"),
    [(None, ["", ""]), ([(0, 3, "city")], ["", MISSED]), ([(0, 3, "team")], [MISSED, MISSED])],
)
def test_spans_that_the_others_lack_are_noted(others, notes):
    marks = marked_spans([(0, 3, "city"), (5, 8, "date")], others, MISSED)
    assert [mark.note for mark in marks] == notes
    assert [mark[:3] for mark in marks] == [(0, 3, "city"), (5, 8, "date")]


@pytest.mark.parametrize(
    ("names", "others", "shown", "marked"),
    [
        (["a", "bc"], ["bc", "d"], "a, bc", ["a"]),
        (["a", "bc"], [], "a, bc", ["a", "bc"]),
        (["a"], None, "a", []),
        ([], ["a"], "", []),
    ],
)
def test_listed_names(names, others, shown, marked):
    cell = listed_names(names, others, WRONG)
    assert cell == shown
    assert [shown[mark.start : mark.end] for mark in cell.marks] == marked
    assert {mark.note for mark in cell.marks} <= {WRONG}


WORDS = " ".join(f"w{i:02}" for i in range(100))  # 399 characters; word i begins at 4 * i


@pytest.mark.parametrize(
    ("text", "marks", "most", "shown"),
    [
        ("short", [], 5, ["short"]),
        (WORDS, [], 10, ["w00 w01"]),
        (WORDS, [Mark(0, 3)], 19, ["w00 w01 w02"]),
        (WORDS, [Mark(200, 203)], 13, ["w49 w50 w51"]),
        (WORDS, [Mark(396, 399)], 13, ["w98 w99"]),
        (WORDS, [Mark(80, 83), Mark(40, 43)], 24, ["w09 w10 w11", "w19 w20 w21"]),
        (WORDS, [Mark(80, 83), Mark(88, 91)], 24, ["w19 w20 w21 w22 w23"]),
        (WORDS, [Mark(40, 43), Mark(80, 83), Mark(120, 123)], 6, ["w10", "w20"]),
        (WORDS, [Mark(40, 63)], 6, ["w10 w11 w12 w13 w14 w15"]),
        ("x" * 100, [], 10, ["x" * 10]),
        ("x" * 100, [Mark(50, 52)], 10, ["x" * 10]),
    ],
)
def test_what_is_kept_of_a_long_text(text, marks, most, shown):
    assert [text[start:end] for start, end in kept_parts(text, marks, most)] == shown
