"""Gold answers: every shape that is read, every fault that is named, every repair."""

import pytest
from datasets import Dataset

from ftkit.errors import DataError
from ftkit.targets.answers import check_answers, place_answers, read_answers

pytestmark = pytest.mark.unit
CONTEXT = "Anna met Ben in Rome. In Rome it rained."


def squad(text, start):
    return {"answers": {"text": text, "answer_start": start}}


@pytest.mark.parametrize(
    ("row", "texts", "starts"),
    [
        (squad(["Ben"], [9]), ("Ben",), (9,)),
        (squad(["Ben", "Anna met Ben"], [9, 0]), ("Ben", "Anna met Ben"), (9, 0)),
        (squad([], []), (), ()),
        (squad([""], [0]), (), ()),
        ({"answers": {"text": ["Ben"]}}, ("Ben",), (None,)),
        ({"answer": "Ben", "answer_start": 9}, ("Ben",), (9,)),
        ({"answer": "Ben", "answer_start": "9"}, ("Ben",), (9,)),
        ({"answer": "Ben", "answer_start": 9.0}, ("Ben",), (9,)),
        ({"answer": "Ben", "answer_start": "9.0"}, ("Ben",), (9,)),
        ({"answer": "Ben", "answer_start": ""}, ("Ben",), (None,)),
        ({"answer": "Ben", "answer_start": float("nan")}, ("Ben",), (None,)),
        ({"answer": "Ben"}, ("Ben",), (None,)),
        ({"answer": "", "answer_start": 7}, (), ()),
        ({"answer": None}, (), ()),
    ],
)
def test_every_shape_is_read(row, texts, starts):
    answers = read_answers(row)
    assert (answers.texts, answers.starts) == (texts, starts)


@pytest.mark.parametrize(
    ("row", "column", "message"),
    [
        ({}, None, 'neither a column "answers" nor a column "answer"'),
        ({"answers": None}, "answers", "found nothing where .*empty lists where there is no"),
        ({"answers": "Ben"}, "answers", "found 'Ben' where .*columns="),
        (squad(None, None), "answers", "found .* where"),
        (squad("Ben", 9), "answers", "found 'Ben' where a list of texts should be"),
        (squad([None], [9]), "answers", "a list of texts"),
        (squad(["Ben", "Rome"], [9]), "answers", "2 answers have 1 offsets"),
        ({"answer": 5}, "answer", "found 5 where a text should be"),
        ({"answer": "Ben", "answer_start": "nine"}, "answer_start", "'nine' where a whole number"),
        ({"answer": "Ben", "answer_start": 9.5}, "answer_start", "9.5 where a whole number"),
        ({"answer": "Ben", "answer_start": "9.5"}, "answer_start", "'9.5' where a whole number"),
        ({"answer": "Ben", "answer_start": float("inf")}, "answer_start", "inf where a whole"),
    ],
)
def test_other_shapes_are_refused(row, column, message):
    with pytest.raises(DataError, match=message) as error:
        read_answers(row)
    assert error.value.column == column


@pytest.mark.parametrize(
    ("text", "start", "repair", "place"),
    [
        ("Ben", 9, False, 9),
        ("Rome", 16, False, 16),
        ("Rome", 25, False, 25),
        ("Ben", None, False, 9),
        ("Ben", 8, True, 9),
        ("Ben", -1, True, 9),
        ("Ben", 400, True, 9),
        ("Rome", 25, True, 25),
    ],
)
def test_answers_get_their_place(text, start, repair, place):
    answers = read_answers({"answer": text, "answer_start": start})
    placed, moved = place_answers(answers, CONTEXT, repair=repair)
    assert placed.starts == (place,)
    assert moved == (start is not None and start != place)


@pytest.mark.parametrize(
    ("text", "start", "repair", "message"),
    [
        (
            "Ben",
            8,
            False,
            'answer_start 8, where there is " Be"; it occurs once, at 9.*repair=True',
        ),
        ("Ben", 400, False, r"400 is past the end of its context \(40 characters\).*repair=True"),
        ("Ben", -3, False, "answer_start -3 is before the start of its context"),
        ("Rome", 3, True, "it occurs more than once. Mend the offset"),
        ("Rome", None, True, "occurs 2 times in its context, and no answer_start says which"),
        ("Oslo", 3, True, 'where there is "a me"; it does not occur in the context at all. Copy'),
        ("Oslo", None, True, "does not occur in its context.*Copy it"),
        ("ben", 9, True, "does not occur"),
    ],
)
def test_answers_without_a_place_are_refused(text, start, repair, message):
    answers = read_answers({"answer": text, "answer_start": start})
    with pytest.raises(DataError, match=message):
        place_answers(answers, CONTEXT, repair=repair)


def test_overlapping_occurrences_are_two():
    with pytest.raises(DataError, match="no answer_start says which"):
        place_answers(read_answers({"answer": "aa"}), "aaa")


def test_a_split_is_counted():
    rows = [squad(["Ben"], [9]), squad([], []), squad(["Anna"], [2]), squad([], [])]
    rows = Dataset.from_list([{"context": CONTEXT, **row} for row in rows])
    counts = check_answers("train", rows, repair=True)
    assert (counts.n_unanswerable, counts.n_moved) == (2, 1)


def test_the_first_bad_row_is_named_and_all_are_counted():
    rows = [squad(["Ben"], [9])] * 1200 + [squad(["Ben"], [0]), squad(["Oslo"], [0])]
    rows = Dataset.from_list([{"context": CONTEXT, **row} for row in rows])
    with pytest.raises(DataError, match=r"2 such rows in all") as error:
        check_answers("validation", rows)
    assert (error.value.split, error.value.row, error.value.column) == (
        "validation",
        1201,
        "answers",
    )
