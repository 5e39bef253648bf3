"""Offsets: windows over a sequence longer than the model, words, tags, entities and answers.

Pure functions over integers and strings: imports no module of ftkit, every module may import it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise
from operator import itemgetter

import regex


def window_bounds(length: int, size: int, stride: int) -> list[tuple[int, int]]:
    """Start and end of the windows of `size` tokens that cover `length` tokens.

    Neighbours share `stride` tokens, transformers' meaning of the word. The last window ends
    with the sequence and is full, so that no window is left with a few tokens only.

    Raises ValueError where the windows could not move on.
    """
    if size < 1 or not 0 <= stride < size:
        raise ValueError(f"windows of {size} tokens cannot share {stride}")
    if length <= size:
        return [(0, length)]
    starts = list(range(0, length - size, size - stride))
    return [(start, start + size) for start in [*starts, length - size]]


def kept_positions(length: int, size: int, keep: str) -> list[int]:
    """Positions of the `size` tokens kept of `length`: their head, their tail, or both.

    "head+tail" keeps a quarter of the room for the head, the split that served best in
    Sun et al. 2019, "How to Fine-Tune BERT for Text Classification?" (128 and 382 of 510).
    """
    head = {"head": size, "tail": 0, "head+tail": size // 4}[keep]
    if length <= size:
        return list(range(length))
    return [*range(head), *range(length - (size - head), length)]


def find_once(text: str, part: str) -> int | None:
    """Where `part` stands in `text`, if it occurs exactly once; None otherwise."""
    first = text.find(part)
    return first if first >= 0 and text.find(part, first + 1) < 0 else None


def trim_span(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without white space at its ends; empty where it has nothing else."""
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return start, end


# Words, tags and entities. A span is (start, end) in characters; an entity of words is
# (first word, end word, type), its end not included.

_ALONE = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
# Scripts that put no space between words are read a character at a time. The two joiners stand
# inside words of Persian and of the scripts of India.
_WORD = regex.compile(
    rf"[{_ALONE}]\p{{M}}*|[\w\u200c\u200d--[{_ALONE}]][\w\p{{M}}\u200c\u200d--[{_ALONE}]]*"
    r"|\S\p{M}*",
    flags=regex.VERSION1,
)
_ANY_ALONE = regex.compile(f"[{_ALONE}]")
_MARK = regex.compile(r"\p{M}")

SCHEMES = {"BIO": "BI", "IOB1": "BI", "BILOU": "BILU", "BIOES": "BIES"}
"""Schemes of tags and the letters before their types; "IO" has no letters."""
_LETTERS = ("B", "I", "L", "U", "E", "S")


def split_words(text: str) -> list[tuple[int, int]]:
    """Spans of the words of a text: runs of letters, digits and _, or one other character."""
    return [match.span() for match in _WORD.finditer(text)]


def has_spaces(text: str) -> bool:
    """Whether no character of the text is of a script that puts no space between words."""
    return text.isascii() or not _ANY_ALONE.search(text)


def is_inside_word(text: str, place: int) -> bool:
    """Whether the characters before and behind a place belong to one word of `split_words`."""
    if not 0 < place < len(text):
        return False
    start = place - 1
    while start and _MARK.match(text, start) and not text[start - 1].isspace():
        start -= 1  # a mark belongs to the character before it
    return _WORD.fullmatch(text, start, place + 1) is not None


def join_words(words: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """The words with a space between them, and the span of each."""
    spans, start = [], 0
    for word in words:
        spans.append((start, start + len(word)))
        start += len(word) + 1
    return " ".join(words), spans


def first_tokens(tokens: Sequence[tuple[int, int]], words: Sequence[tuple[int, int]]) -> list[int]:
    """For each word the first token that overlaps it; -1 where none does.

    Both are spans in the order of the text; special tokens are empty spans and overlap nothing.
    """
    found, place = [], 0
    for start, end in words:
        while place < len(tokens) and (
            tokens[place][1] <= start or tokens[place][0] == tokens[place][1]
        ):
            place += 1
        found.append(place if place < len(tokens) and tokens[place][0] < end else -1)
    return found


def further_tokens(
    tokens: Sequence[tuple[int, int]], words: Sequence[tuple[int, int]], first: Sequence[int]
) -> list[tuple[int, int]]:
    """(token, word) for each token that overlaps a word and is the first of none.

    `first` is what `first_tokens` gives. A token of several words goes to the first of them.
    """
    taken, found = set(first), []
    for word, (place, (_, end)) in enumerate(zip(first, words, strict=True)):
        if place < 0:
            continue
        for token in range(place + 1, len(tokens)):
            start, token_end = tokens[token]
            if start >= end:
                break
            if start < token_end and token not in taken:
                taken.add(token)
                found.append((token, word))
    return found


def owned_bounds(bounds: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The part of each window that no other window sees with more context around it.

    `bounds` are those of `window_bounds`; the parts cover the same positions, each once.
    """
    cuts = [(start + end) // 2 for (_, end), (start, _) in pairwise(bounds)]
    starts, ends = [bounds[0][0], *cuts], [*cuts, bounds[-1][1]]
    return list(zip(starts, ends, strict=True))


def split_tag(tag: str) -> tuple[str, str]:
    """Letter and type of a tag: ("B", "city") of B-city, ("O", "") of O, ("", tag) of others."""
    if tag == "O":
        return "O", ""
    letter, dash, kind = tag.partition("-")
    if dash and kind and letter in _LETTERS:
        return letter, kind
    return "", tag


def scheme_of(tags: Collection[str]) -> str:
    """The scheme that all the tags belong to, IOB1 called BIO: only sentences tell them apart.

    Raises ValueError, with a tag that belongs to none, and why.
    """
    letters = {tag: split_tag(tag)[0] for tag in tags}
    met = set(letters.values()) - {"O"}
    strange = sorted(tag for tag, letter in letters.items() if not letter)
    for tag in strange:
        if tag in ("", *_LETTERS):
            raise ValueError(tag, "has no type")
        if _MARKED.match(tag):
            raise ValueError(tag, "is of no scheme known")
    if strange and met != {""}:
        raise ValueError(strange[0], "has no letter such as B- before its type, as others have")
    if strange or not met:
        return "IO" if strange else "BIO"
    for name in ("BIO", "BILOU", "BIOES"):
        if met <= set(SCHEMES[name]):
            return name
    odd = next(tag for tag in sorted(tags) if letters[tag] in ("E", "S"))
    raise ValueError(odd, "is of the scheme BIOES, and others are of BILOU")


# A letter before or behind the type that is none of the schemes': M-city, B_city, city-B.
_MARKED = regex.compile(r"[A-Za-z][-_]|.*[-_][BILUESOM]$")


def illegal_places(tags: Sequence[str], scheme: str) -> list[int]:
    """Places of the tags that cannot stand where they do; none in the scheme IO."""
    if scheme == "IO":
        return []
    if scheme == "IOB1":
        pairs = pairwise(map(split_tag, ["O", *tags]))
        return [
            place
            for place, ((_, last), (letter, kind)) in enumerate(pairs)
            if letter == "B" and last != kind
        ]
    found, last_letter, last_kind = [], "O", ""
    for place, tag in enumerate([*tags, "O"]):
        letter, kind = split_tag(tag)
        was_open, is_inside = last_letter in ("B", "I"), letter in ("I", "L", "E")
        goes_on = is_inside and was_open and kind == last_kind
        must_go_on = was_open and scheme != "BIO"
        if (is_inside or must_go_on) and not goes_on:
            found.append(min(place, len(tags) - 1))
        last_letter, last_kind = letter, kind
    return sorted(set(found))


def entities_of_tags(tags: Sequence[str]) -> list[tuple[int, int, str]]:
    """Entities of words (first, end, type) from tags of any scheme.

    What cannot stand in its scheme is read as it was most likely meant: a tag that goes on with
    an entity that is not there begins one, as in the CoNLL scorer.
    """
    entities, first, open_kind = [], 0, ""
    for place, tag in enumerate([*tags, "O"]):
        letter, kind = split_tag(tag)
        if open_kind and (letter in ("B", "U", "S") or kind != open_kind):
            entities.append((first, place, open_kind))
            open_kind = ""
        if kind and not open_kind:
            first, open_kind = place, kind
        if open_kind and letter in ("L", "U", "E", "S"):
            entities.append((first, place + 1, open_kind))
            open_kind = ""
    return entities


def tags_of_entities(entities: Iterable[tuple[int, int, str]], count: int) -> list[str]:
    """BIO tags of `count` words with these entities."""
    tags = ["O"] * count
    for first, end, kind in entities:
        tags[first:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - first - 1)]
    return tags


def words_of_span(words: Sequence[tuple[int, int]], start: int, end: int) -> tuple[int, int]:
    """First and end of the words that a span of characters overlaps; both the same where none."""
    first = bisect_right(words, start, key=itemgetter(1))
    return first, max(first, bisect_left(words, end, key=itemgetter(0)))


def mark_entities(text: str, entities: Iterable[tuple[int, int, str]]) -> str:
    """The text with each entity (start, end, label) as [words|label]."""
    parts, done = [], 0
    for start, end, label in sorted(entities):
        parts += [text[done:start], "[", text[start:end], "|", label, "]"]
        done = end
    return "".join([*parts, text[done:]])
