"""Windows and cuts: tables of small cases, and properties over seeded random ones."""

import random
from itertools import pairwise

import pytest

from ftkit.spans import (
    entities_of_tags,
    first_tokens,
    further_tokens,
    illegal_places,
    is_inside_word,
    join_words,
    kept_positions,
    mark_entities,
    owned_bounds,
    scheme_of,
    split_words,
    tags_of_entities,
    window_bounds,
    words_of_span,
)

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("length", "size", "stride", "expected"),
    [
        (0, 4, 0, [(0, 0)]),
        (3, 4, 1, [(0, 3)]),
        (4, 4, 1, [(0, 4)]),
        (5, 4, 0, [(0, 4), (1, 5)]),
        (8, 4, 0, [(0, 4), (4, 8)]),
        (8, 4, 2, [(0, 4), (2, 6), (4, 8)]),
        (9, 4, 1, [(0, 4), (3, 7), (5, 9)]),
        (10, 4, 0, [(0, 4), (4, 8), (6, 10)]),
        (3, 1, 0, [(0, 1), (1, 2), (2, 3)]),
        (5, 3, 2, [(0, 3), (1, 4), (2, 5)]),
    ],
)
def test_window_bounds(length, size, stride, expected):
    assert window_bounds(length, size, stride) == expected


@pytest.mark.parametrize(("size", "stride"), [(0, 0), (-1, 0), (4, 4), (4, 5), (4, -1)])
def test_windows_that_could_not_move_on_are_refused(size, stride):
    with pytest.raises(ValueError, match="cannot share"):
        window_bounds(10, size, stride)


def test_windows_cover_everything_full_and_with_the_stride():
    rng = random.Random(7)
    for _ in range(2000):
        length, size = rng.randint(0, 300), rng.randint(1, 60)
        stride = rng.randrange(size)
        bounds = window_bounds(length, size, stride)
        covered = {position for start, end in bounds for position in range(start, end)}
        assert covered == set(range(length))
        assert len(set(bounds)) == len(bounds)
        if length > size:
            assert all(end - start == size for start, end in bounds)
        for (start, end), (following, _) in pairwise(bounds):
            assert following > start
            assert end - following >= stride
        for (_, end), (following, _) in list(pairwise(bounds))[:-1]:
            assert end - following == stride


@pytest.mark.parametrize(
    ("length", "size", "keep", "expected"),
    [
        (3, 5, "head", [0, 1, 2]),
        (5, 5, "tail", [0, 1, 2, 3, 4]),
        (9, 4, "head", [0, 1, 2, 3]),
        (9, 4, "tail", [5, 6, 7, 8]),
        (9, 4, "head+tail", [0, 6, 7, 8]),
        (20, 8, "head+tail", [0, 1, 14, 15, 16, 17, 18, 19]),
        (9, 3, "head+tail", [6, 7, 8]),
    ],
)
def test_kept_positions(length, size, keep, expected):
    assert kept_positions(length, size, keep) == expected


def test_head_and_tail_split_as_in_the_paper():
    kept = kept_positions(1000, 510, "head+tail")
    assert kept[:127] == list(range(127))
    assert kept[127:] == list(range(1000 - 383, 1000))


@pytest.mark.parametrize("keep", ["head", "tail", "head+tail"])
def test_kept_positions_are_as_many_as_there_is_room_for(keep):
    rng = random.Random(8)
    for _ in range(1000):
        length, size = rng.randint(0, 200), rng.randint(0, 100)
        kept = kept_positions(length, size, keep)
        assert len(kept) == min(length, size)
        assert kept == sorted(set(kept))
        assert not kept or 0 <= kept[0] <= kept[-1] < length


def test_an_unknown_cut_is_refused():
    with pytest.raises(KeyError):
        kept_positions(9, 4, "middle")


# Words, tags and entities


def cut(text, spans):
    return [text[start:end] for start, end in spans]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        (" \n\t", []),
        ("Hi, it's  3.5kg (U.S.)", ["Hi", ",", "it", "'", "s", "3", ".", "5kg", *"(U.S.)"]),
        ("foo_bar\nZürich", ["foo_bar", "Zürich"]),
        ("cafe\u0301 हिन्दी में।", ["cafe\u0301", "हिन्दी", "में", "।"]),
        ("می\u200cرود", ["می\u200cرود"]),
        ("我们 ok", ["我", "们", "ok"]),
        ("ไทยที่", ["ไ", "ท", "ย", "ที่"]),
        ("👍🏽x", ["👍", "🏽", "x"]),
        ("❤\ufe0fOslo e\u0301tat", ["❤\ufe0f", "Oslo", "e\u0301tat"]),
        ("(\u0301x", ["(\u0301", "x"]),
    ],
)
def test_split_words(text, words):
    assert cut(text, split_words(text)) == words


def test_words_leave_out_nothing_but_space():
    rng = random.Random(3)
    for _ in range(500):
        text = "".join(rng.choices("ab1_ \n.,éÄ我ท\u0301\u200d", k=rng.randint(0, 30)))
        spans = split_words(text)
        assert "".join(cut(text, spans)) == "".join(text.split())
        inside = {place for start, end in spans for place in range(start + 1, end)}
        assert {place for place in range(len(text) + 1) if is_inside_word(text, place)} >= inside


@pytest.mark.parametrize(
    "text",
    ["❤\ufe0fOslo", "e\u0301tat", "हिन्दी में।", "می\u200cرود", "ไทยที่", "か\u3099x", "a.\u0301b"],
)
def test_no_place_inside_a_word_is_a_boundary(text):
    inside = {place for start, end in split_words(text) for place in range(start + 1, end)}
    assert {place for place in range(len(text) + 1) if is_inside_word(text, place)} == inside


def test_words_of_a_long_text_take_linear_time():
    assert len(split_words("a" * 1_000_000 + " ." * 500_000)) == 500_001


def test_join_words():
    text, spans = join_words(["Ann", "", "New York", "."])
    assert text == "Ann  New York ."
    assert cut(text, spans) == ["Ann", "", "New York", "."]
    assert join_words([]) == ("", [])


@pytest.mark.parametrize(
    ("tokens", "words", "first", "further"),
    [
        ([], [], [], []),
        ([(0, 0), (0, 3), (3, 5), (6, 7), (0, 0)], [(0, 5), (6, 7)], [1, 3], [(2, 0)]),
        # Tokens with the space before them, and a token of a space alone.
        ([(0, 2), (2, 4), (4, 5), (5, 7)], [(0, 2), (3, 4), (5, 7)], [0, 1, 3], []),
        # A token that covers several words, and one that begins inside a word.
        ([(0, 3), (3, 5)], [(0, 1), (1, 2), (2, 4), (4, 5)], [0, 0, 0, 1], []),
        # A character of several tokens.
        ([(0, 1), (0, 1), (0, 1), (1, 2)], [(0, 1), (1, 2)], [0, 3], [(1, 0), (2, 0)]),
        # Words that leave no token: an empty one, and a character that was dropped.
        ([(0, 1), (5, 6)], [(0, 1), (2, 2), (3, 4), (5, 6)], [0, -1, -1, 1], []),
    ],
)
def test_tokens_of_words(tokens, words, first, further):
    assert first_tokens(tokens, words) == first
    assert further_tokens(tokens, words, first) == further


@pytest.mark.parametrize(
    ("bounds", "owned"),
    [
        ([(0, 5)], [(0, 5)]),
        ([(0, 0)], [(0, 0)]),
        ([(0, 4), (4, 8)], [(0, 4), (4, 8)]),
        ([(0, 4), (2, 6), (4, 8)], [(0, 3), (3, 5), (5, 8)]),
    ],
)
def test_owned_bounds(bounds, owned):
    assert owned_bounds(bounds) == owned


def test_each_place_is_owned_by_the_window_with_most_context():
    rng = random.Random(9)
    for _ in range(500):
        length, size = rng.randint(1, 300), rng.randint(1, 60)
        bounds = window_bounds(length, size, rng.randint(0, size // 2) if size > 1 else 0)
        owned = owned_bounds(bounds)
        assert [place for start, end in owned for place in range(start, end)] == [*range(length)]

        def context(place, window, length=length):
            left, right = place - window[0], window[1] - 1 - place
            # Where the text itself ends, no window has more.
            left = length if window[0] == 0 else left
            right = length if window[1] == length else right
            return min(left, right)

        for window, (start, end) in zip(bounds, owned, strict=True):
            for place in range(start, end):
                others = [each for each in bounds if each[0] <= place < each[1]]
                most = max(context(place, each) for each in others)
                assert context(place, window) >= most - 1


SENTENCES = [
    # BIO, IOB1, BILOU, BIOES of the same entities
    (
        [(0, 2, "a"), (2, 3, "a"), (4, 5, "b")],
        ["B-a", "I-a", "B-a", "O", "B-b"],
        ["I-a", "I-a", "B-a", "O", "I-b"],
        ["B-a", "L-a", "U-a", "O", "U-b"],
        ["B-a", "E-a", "S-a", "O", "S-b"],
    ),
    (
        [(1, 4, "a"), (4, 6, "b")],
        ["O", "B-a", "I-a", "I-a", "B-b", "I-b"],
        ["O", "I-a", "I-a", "I-a", "I-b", "I-b"],
        ["O", "B-a", "I-a", "L-a", "B-b", "L-b"],
        ["O", "B-a", "I-a", "E-a", "B-b", "E-b"],
    ),
    ([], ["O", "O"], ["O", "O"], ["O", "O"], ["O", "O"]),
    ([], [], [], [], []),
]


@pytest.mark.parametrize(("entities", "bio", "iob1", "bilou", "bioes"), SENTENCES)
def test_every_scheme_says_the_same(entities, bio, iob1, bilou, bioes):
    for name, tags in (("BIO", bio), ("IOB1", iob1), ("BILOU", bilou), ("BIOES", bioes)):
        assert entities_of_tags(tags) == entities
        assert illegal_places(tags, name) == []
        assert scheme_of(tags) in (name, "BIO")
    assert tags_of_entities(entities, len(bio)) == bio


@pytest.mark.parametrize(
    ("tags", "scheme", "illegal", "bio"),
    [
        (["O", "I-a", "I-a"], "BIO", [1], ["O", "B-a", "I-a"]),
        (["B-a", "I-b", "I-b"], "BIO", [1], ["B-a", "B-b", "I-b"]),
        (["B-a", "O", "I-a"], "BIO", [2], ["B-a", "O", "B-a"]),
        (["B-a", "O"], "IOB1", [0], ["B-a", "O"]),
        (["B-a", "O"], "BILOU", [1], ["B-a", "O"]),
        (["I-a", "L-a"], "BILOU", [0], ["B-a", "I-a"]),
        (["L-a", "U-a"], "BILOU", [0], ["B-a", "B-a"]),
        (["O", "B-a"], "BIOES", [1], ["O", "B-a"]),
        (["B-a", "B-a", "E-a"], "BIOES", [1], ["B-a", "B-a", "I-a"]),
        (["a", "a", "O", "b"], "IO", [], ["B-a", "I-a", "O", "B-b"]),
    ],
)
def test_illegal_tags_are_found_and_read(tags, scheme, illegal, bio):
    assert illegal_places(tags, scheme) == illegal
    assert tags_of_entities(entities_of_tags(tags), len(tags)) == bio


@pytest.mark.parametrize(
    ("start", "end", "words"),
    [
        (0, 3, (0, 1)),
        (1, 2, (0, 1)),
        (2, 5, (0, 2)),
        (3, 4, (1, 1)),
        (4, 11, (1, 3)),
        (0, 11, (0, 3)),
    ],
)
def test_words_of_span(start, end, words):
    assert words_of_span([(0, 3), (4, 6), (7, 11)], start, end) == words


def test_mark_entities():
    text = "Ann Lee of Oslo"
    marked = mark_entities(text, [(11, 15, "city"), (0, 7, "person")])
    assert marked == "[Ann Lee|person] of [Oslo|city]"
    assert mark_entities(text, []) == text
