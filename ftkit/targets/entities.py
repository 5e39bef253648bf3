"""The entities that rows are labelled with: which types they have, and what is wrong with them.

Works on plain lists. Imports `errors` and `spans`; tasks that find entities call it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from numbers import Integral
from typing import Any

from ftkit.errors import DataError, quoted, unfit_value
from ftkit.spans import (
    entities_of_tags,
    has_spaces,
    illegal_places,
    is_inside_word,
    scheme_of,
    split_words,
    words_of_span,
)


@dataclass
class Types:
    """The types of entities in a split, and what its rows had mended; rows count from 1."""

    first_row: dict[str, int] = field(default_factory=dict)
    """The first row with each type."""
    words: Counter[str] = field(default_factory=Counter)
    """How many words have each tag: O, and B- and I- of each type."""
    scheme: str = "BIO"
    mended: dict[str, list[int]] = field(default_factory=dict)
    """The row of each thing that was mended, by what it was."""

    def count(self, row: int, words: int, entities: Iterable[tuple[int, str]]) -> None:
        """Take in a row of so many words; of each entity, how many of them, and its type."""
        outside = words
        for inside, kind in entities:
            self.first_row.setdefault(kind, row)
            self.words[f"B-{kind}"] += 1
            self.words[f"I-{kind}"] += inside - 1
            outside -= inside
        self.words["O"] += max(outside, 0)  # two entities may share what spaces make one word

    def mend(self, what: str, row: int, times: int = 1) -> None:
        """Note that a row had that mended."""
        self.mended.setdefault(what, []).extend([row] * times)


def check_tags(row: int, words: Sequence[str], tags: Any) -> list[str]:
    """The tags of a row, when they are one string a word; raises DataError otherwise."""
    is_list = hasattr(tags, "__len__") and not isinstance(tags, (str, Mapping))
    if not is_list or not all(isinstance(tag, str) for tag in tags):
        remedy = 'Give names, such as ["O", "B-city"], or numbers with a ClassLabel.'
        raise unfit_value(tags, "a list of tags", row, "tags", remedy)
    if len(tags) != len(words):
        raise DataError(
            f"there are {len(tags):,} tags for {len(words):,} tokens",
            remedy="Give each token one tag.",
            row=row,
            column="tags",
        )
    return list(tags)


def types_of_tags(rows: Sequence[Sequence[str]], scheme: str | None = None) -> Types:
    """The types in rows of tags, and their scheme, unless it is known from other rows.

    Raises DataError for a tag that belongs to none.
    """
    met: dict[str, int] = {}
    for row, tags in enumerate(rows, start=1):
        for tag in set(tags).difference(met):
            met[tag] = row
    try:
        found = scheme_of(met)
    except ValueError as error:
        tag, why = error.args
        raise DataError(
            f'the tag "{tag}" {why}',
            remedy='Use one scheme: BIO ("B-city", "I-city", "O"), IOB1, BILOU or BIOES.',
            row=met[tag],
            column="tags",
        ) from None
    if found == "BIO":
        # Few rows may have no letter that tells.
        found = scheme or ("IOB1" if _are_iob1(rows) else "BIO")
    types = Types(scheme=found)
    for row, tags in enumerate(rows, start=1):
        found_here = ((end - first, kind) for first, end, kind in entities_of_tags(tags))
        types.count(row, len(tags), found_here)
        if places := illegal_places(tags, types.scheme):
            types.mend(f"tags that cannot stand where they do in {types.scheme}", row, len(places))
    if types.scheme == "IO":
        bare = [row for row, tags in enumerate(rows, start=1) if set(tags) - {"O"}]
        types.mended["rows of tags without B- or I-, in which neighbours count as one entity"] = (
            bare
        )
    return types


def _are_iob1(rows: Sequence[Sequence[str]]) -> bool:
    """Whether B- stands only where the type of the word before it is the same, and I- begins."""
    has_beginning = any(illegal_places(tags, "BIO") for tags in rows)
    return has_beginning and not any(illegal_places(tags, "IOB1") for tags in rows)


def check_entities(row: int, text: str, entities: Any) -> list[tuple[int, int, str]]:
    """The entities (start, end, label) of a row in their order.

    Raises DataError for one that is none, empty, outside the text, or overlaps another.
    """
    if not hasattr(entities, "__len__") or isinstance(entities, (str, Mapping)):
        found = "nothing" if entities is None else repr(entities)[:60]
        raise _wrong(row, f"found {found} where a list of entities should be", _SHAPE)
    spans = sorted(_span(row, text, entity) for entity in entities)
    for (start, end, label), (next_start, next_end, next_label) in pairwise(spans):
        if next_start < end:
            raise _wrong(
                row,
                f'the entities {start} to {end} ("{label}") and {next_start} to {next_end} '
                f'("{next_label}") overlap',
                "Keep one of them: a word has one tag.",
            )
    return spans


_SHAPE = 'Give a list of {"start": 0, "end": 7, "label": "city"}, empty where there are none.'


def _span(row: int, text: str, entity: Any) -> tuple[int, int, str]:
    if not isinstance(entity, Mapping):
        raise _wrong(row, f"found {repr(entity)[:60]} where an entity should be", _SHAPE)
    start, end, label = (entity.get(name) for name in ("start", "end", "label"))
    if not isinstance(start, Integral) or not isinstance(end, Integral):
        raise _wrong(row, f"an entity has start {start!r} and end {end!r}", _SHAPE)
    if not isinstance(label, str) or not label:
        raise _wrong(row, f"an entity has the label {label!r}", _SHAPE)
    start, end = int(start), int(end)
    place = f'the entity {start} to {end} ("{label}")'
    if start < 0 or end > len(text):
        raise _wrong(
            row,
            f"{place} is not inside its text ({len(text):,} characters)",
            "Count characters from 0, the end not included.",
        )
    if not text[start:end].strip():
        raise _wrong(row, f"{place} has no words", "Mend its offsets, or drop it.")
    return start, end, label


def _wrong(row: int, found: str, remedy: str) -> DataError:
    return DataError(found, remedy=remedy, row=row, column="entities")


def types_of_entities(texts: Sequence[str], rows: Sequence[Any]) -> Types:
    """The types in rows of entities; raises DataError as `check_entities` does."""
    types = Types()
    for row, (text, entities) in enumerate(zip(texts, rows, strict=True), start=1):
        spans = check_entities(row, text, entities)
        cut = [is_inside_word(text, start) or is_inside_word(text, end) for start, end, _ in spans]
        if has_spaces(text) and not any(cut):
            # Words as spaces part them: near enough for shares, and much faster.
            found = ((len(text[start:end].split()), label) for start, end, label in spans)
            types.count(row, len(text.split()), found)
            continue
        words = split_words(text)
        kept = entities_of_words(words, spans)
        for _, _, label in spans:
            types.first_row.setdefault(label, row)  # of those that are left out too
        types.count(row, len(words), ((end - first, label) for first, end, label in kept))
        if any(cut):
            types.mend("entities that begin or end inside a word, widened to it", row, sum(cut))
            if lost := len(spans) - len(kept):
                types.mend("entities left out: another has their word", row, lost)
    return types


def entities_of_words(
    words: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int, str]]
) -> list[tuple[int, int, str]]:
    """Entities of words (first, end, type) that hold the spans (start, end, label).

    `spans` are in their order; of two that share a word the first has it.
    """
    entities, done = [], 0
    for start, end, label in spans:
        first, last = words_of_span(words, start, end)
        first = max(first, done)
        if first < last:
            entities.append((first, last, label))
            done = last
    return entities


def describe_mended(found: Mapping[str, Types]) -> list[str]:
    """A sentence on each thing that was mended in the rows of some splits."""
    said = []
    for what in dict.fromkeys(what for types in found.values() for what in types.mended):
        rows = {split: types.mended[what] for split, types in found.items() if what in types.mended}
        split, first = next(iter(rows.items()))
        count = sum(map(len, rows.values()))
        said.append(f"{count:,} {what} (in {quoted(list(rows))}; first: {split}, row {first[0]:,})")
    return said
