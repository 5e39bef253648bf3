"""Rows' tags and entities: their types, what is refused and what is mended and counted."""

import pytest

from ftkit.errors import DataError
from ftkit.spans import split_words
from ftkit.targets.entities import (
    check_entities,
    describe_mended,
    entities_of_words,
    types_of_entities,
    types_of_tags,
)

pytestmark = pytest.mark.unit


def entity(start, end, label="x"):
    return {"start": start, "end": end, "label": label}


@pytest.mark.parametrize(
    ("rows", "scheme", "mended"),
    [
        ([["B-a", "I-a", "O"], ["O", "B-b"]], "BIO", {}),
        ([["O", "I-a"]], "IOB1", {}),
        ([["I-a", "B-a", "I-a"], ["I-a", "I-b"]], "IOB1", {}),
        ([["B-a", "I-a"], ["O", "I-a"], ["I-b", "I-b"]], "BIO", {"in BIO": [2, 3]}),
        ([["B-a", "L-a", "U-b"], ["B-a", "I-a", "L-a"]], "BILOU", {}),
        ([["U-a"], ["B-a", "O", "I-a"]], "BILOU", {"in BILOU": [2, 2]}),
        ([["S-a", "B-b", "I-b", "E-b", "O"]], "BIOES", {}),
        ([["O", "a", "a"], ["O"], ["b"]], "IO", {"neighbours": [1, 3]}),
        ([["O"], []], "BIO", {}),
    ],
)
def test_scheme_and_what_is_mended(rows, scheme, mended):
    types = types_of_tags(rows)
    assert types.scheme == scheme
    assert len(types.mended) == len(mended)
    for (said, found), (part, wanted) in zip(types.mended.items(), mended.items(), strict=True):
        assert part in said
        assert found == wanted


def test_words_are_counted_by_tag_and_types_by_their_first_row():
    types = types_of_tags([["O"], ["B-a", "L-a", "O"], ["U-b", "U-a"]])
    assert types.first_row == {"a": 2, "b": 3}
    assert types.words == {"O": 2, "B-a": 2, "I-a": 1, "B-b": 1, "I-b": 0}


def test_a_split_without_telling_letters_has_the_scheme_of_train():
    assert types_of_tags([["B-a", "O"]], "BILOU").mended != {}
    assert types_of_tags([["I-a", "O"]], "IOB1").mended == {}
    assert types_of_tags([["I-a", "O"]], "BIO").mended != {}


@pytest.mark.parametrize(
    ("rows", "row", "message"),
    [
        ([["O"], ["B", "I"]], 2, 'the tag "B" has no type'),
        ([["B-a"], ["a"]], 2, 'the tag "a" has no letter such as B-'),
        ([["O", "B_a"]], 1, 'the tag "B_a" is of no scheme known'),
        ([["M-a"]], 1, 'the tag "M-a" is of no scheme known'),
        ([["a-B"]], 1, 'the tag "a-B" is of no scheme known'),
        ([["B-a"], ["U-a"], ["E-a"]], 3, 'the tag "E-a" is of the scheme BIOES'),
        ([["B-a", ""]], 1, 'the tag "" has no type'),
    ],
)
def test_tags_of_no_scheme_are_refused(rows, row, message):
    with pytest.raises(DataError, match=message) as caught:
        types_of_tags(rows)
    assert (caught.value.row, caught.value.column) == (row, "tags")


@pytest.mark.parametrize(
    ("entities", "message"),
    [
        (None, "found nothing where a list of entities should be"),
        ("x", "found 'x' where a list"),
        (["x"], "found 'x' where an entity should be"),
        ([{"start": 0, "label": "x"}], "an entity has start 0 and end None"),
        ([entity(0, 3, "")], "an entity has the label ''"),
        ([entity(0, 3, 4)], "an entity has the label 4"),
        ([entity(-1, 3)], r'the entity -1 to 3 \("x"\) is not inside its text \(11 characters\)'),
        ([entity(8, 12)], "the entity 8 to 12 .* is not inside its text"),
        ([entity(3, 3)], "the entity 3 to 3 .* has no words"),
        ([entity(6, 4)], "the entity 6 to 4 .* has no words"),
        ([entity(3, 4)], "the entity 3 to 4 .* has no words"),
        ([entity(4, 11), entity(0, 5, "y")], r'0 to 5 \("y"\) and 4 to 11 \("x"\) overlap'),
        ([entity(0, 3), entity(0, 3)], "overlap"),
    ],
)
def test_entities_that_cannot_work_are_refused(entities, message):
    with pytest.raises(DataError, match=message) as caught:
        check_entities(7, "Ann in Oslo", entities)
    assert (caught.value.row, caught.value.column) == (7, "entities")


def test_entities_inside_words_are_widened_and_counted():
    text = "20kg from NewYorkers, Ann"
    rows = [[entity(0, 2, "n"), entity(2, 4, "u"), entity(13, 17, "p")], [entity(22, 25, "p")]]
    types = types_of_entities([text, text], rows)
    assert types.first_row == {"n": 1, "u": 1, "p": 1}
    inside, lost = types.mended
    assert "inside a word" in inside
    assert "left out" in lost
    assert (types.mended[inside], types.mended[lost]) == ([1, 1, 1], [1])
    spans = check_entities(1, text, rows[0])
    words = split_words(text)
    assert entities_of_words(words, spans) == [(0, 1, "n"), (2, 3, "p")]


@pytest.mark.parametrize(
    ("text", "entities", "words"),
    [
        ("Ann Lee of Oslo", [entity(0, 7), entity(11, 15, "y")], (1, 1, 1, 1, 0)),
        ("王小明在北京见到了李四", [entity(0, 3), entity(4, 6, "y")], (6, 1, 2, 1, 1)),
        ("王小明", [entity(0, 3)], (0, 1, 2, 0, 0)),
        ("王小明 has an x-ray", [entity(0, 3), entity(11, 16, "y")], (2, 1, 2, 1, 2)),
        # The second of two that share a word has none.
        ("20kg of it", [entity(0, 2), entity(2, 4, "y")], (2, 1, 0, 0, 0)),
        ("20kg", [entity(0, 2), entity(2, 4, "y")], (0, 1, 0, 0, 0)),
    ],
)
def test_words_of_entities_are_counted_by_tag(text, entities, words):
    counts = types_of_entities([text], [entities]).words
    assert tuple(counts[tag] for tag in ("O", "B-x", "I-x", "B-y", "I-y")) == words


def test_an_entity_with_spaces_around_it_is_its_words():
    words = split_words("in  New York .")
    assert entities_of_words(words, [(2, 13, "x")]) == [(1, 3, "x")]
    assert types_of_entities(["in  New York ."], [[entity(2, 13)]]).mended == {}


def test_what_was_mended_is_said_in_a_sentence():
    found = {
        "train": types_of_tags([["B-a"], ["I-a", "O", "I-a"]]),
        "test": types_of_tags([["O", "I-a"]], "BIO"),
    }
    (sentence,) = describe_mended(found)
    assert sentence.startswith("3 tags that cannot stand where they do in BIO")
    assert sentence.endswith('(in "train", "test"; first: train, row 2)')
    assert describe_mended({"train": types_of_tags([["B-a"]])}) == []
