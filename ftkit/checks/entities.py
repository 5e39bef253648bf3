"""Entities: tags that do not go with their words, illegal sequences, types and their balance,
entities that two windows share between them.

Imports `finding`, `labels`, `targets.entities` and `spans`; `tasks` names it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from ftkit.checks.finding import Finding, SplitRows
from ftkit.checks.labels import find_balance, unknown_labels
from ftkit.errors import DataError
from ftkit.features import Features
from ftkit.spans import entities_of_tags
from ftkit.targets.entities import (
    Types,
    check_entities,
    check_tags,
    types_of_entities,
    types_of_tags,
)


def _columns(rows: SplitRows) -> tuple[str, str] | None:
    """The columns of words or text, and of what is in them; None where the rows lack them."""
    has_words = "tokens" in rows.rows.column_names
    names = ("tokens", "tags") if has_words else ("text", "entities")
    return names if set(names) <= set(rows.rows.column_names) else None


def _pairs(rows: SplitRows, names: tuple[str, str]) -> list[tuple[Any, ...]]:
    if "pairs" not in rows.cache:
        rows.cache["pairs"] = rows.listed(*names)
    found: list[tuple[Any, ...]] = rows.cache["pairs"]
    return found


def find_unusable(rows: SplitRows) -> tuple[list[Finding], np.ndarray]:
    """Rows whose tags are not one a word, or whose entities are not in their text."""
    is_bad = np.zeros(len(rows), dtype=bool)
    names = _columns(rows)
    if names is None:
        return [], is_bad
    check = check_tags if names[1] == "tags" else check_entities
    errors: list[DataError] = []
    for place, (read, target) in enumerate(_pairs(rows, names)):
        try:
            check(place + 1, read, target)
        except DataError as error:
            is_bad[place] = True
            errors.append(error)
    if not errors:
        return [], is_bad
    found = rows.find(
        "error",
        f"unusable_{names[1]}",
        is_bad,
        f"{{count}} of {{of}} rows have {names[1]} that cannot be read; in the first, "
        f"{errors[0].problem}",
        errors[0].remedy,
        column=names[1],
    )
    return found, is_bad


def _entities(rows: SplitRows) -> list[list[tuple[int, int, str]]]:
    """The entities of each row: of words (first, end, type), or of characters."""
    names = _columns(rows)
    if names is None:
        return [[] for _ in range(len(rows))]
    pairs = _pairs(rows, names)
    if names[1] == "tags":
        return [entities_of_tags(tags) for _, tags in pairs]
    return [[(e["start"], e["end"], e["label"]) for e in entities] for _, entities in pairs]


def find_unknown(
    splits: Mapping[str, SplitRows],
) -> tuple[list[Finding], dict[str, np.ndarray]]:
    """Rows of other splits with a type that train never has, and which these are."""
    try:
        types = {
            split: [tuple(kind for *_, kind in found) for found in _entities(rows)]
            for split, rows in splits.items()
        }
    except ValueError:
        # Tags of no scheme: the task says which.
        return [], {}
    return unknown_labels(types, splits, "type")


def count_types(rows: SplitRows) -> dict[str, int]:
    """How many entities there are of each type, the most frequent first."""
    return dict(Counter(kind for found in _entities(rows) for *_, kind in found).most_common())


def look(splits: Mapping[str, SplitRows]) -> list[Finding]:
    """The scheme, what was mended, and the balance of the types."""
    findings: list[Finding] = []
    scheme: str | None = None
    for split, rows in splits.items():
        names = _columns(rows)
        if names is None:
            continue
        pairs = _pairs(rows, names)
        if names[1] == "tags":
            types = types_of_tags([tags for _, tags in pairs], scheme)
            scheme = scheme or types.scheme
        else:
            types = types_of_entities([text for text, _ in pairs], [each for _, each in pairs])
        findings += _mended(rows, types, names[1])
        if split == "train" and types.scheme != "BIO":
            findings.append(
                Finding(
                    "note",
                    "tag_scheme",
                    f"the tags are in the scheme {types.scheme}; the model learns BIO",
                    "Nothing is to be done: its answers are in BIO.",
                    split=split,
                    column="tags",
                )
            )
    counts = {split: count_types(rows) for split, rows in splits.items()}
    return findings + find_balance(counts, splits, "type")


def _mended(rows: SplitRows, types: Types, column: str) -> list[Finding]:
    findings = []
    for what, found in types.mended.items():
        has_it = np.zeros(len(rows), dtype=bool)
        has_it[np.array(found) - 1] = True
        is_note = what.startswith("rows of tags without")
        findings += rows.find(
            "note" if is_note else "warning",
            "tag_scheme" if is_note else "illegal_tags" if column == "tags" else "ragged_entities",
            has_it,
            f"{len(found):,} {what}, in {{count}} of {{of}} rows"
            if not is_note
            else f"{{count}} of {{of}} {what}",
            "They are read as most likely meant; mend them where they are meant otherwise.",
            column=column,
        )
    return findings


def find_cut(rows: SplitRows, features: Features, limit: int) -> list[Finding]:
    """Entities whose words are answered for in two windows, and words without a token."""
    found = rows.find(
        "warning",
        "unseen_words",
        features.rows["unseen"] > 0,
        f"{int(features.rows['unseen'].sum()):,} words in {{count}} of {{of}} rows leave no token, "
        "and are always tagged O",
        "Take out control characters and the like.",
    )
    is_split = np.zeros(len(rows), dtype=bool)
    if "target" in features.sequences:
        flat, offsets = features.sequences["target"]
        goes_on = np.char.startswith(np.array(rows.task.head().labels), "I-")
        for place in np.flatnonzero(features.windows > 1):
            owner = _owners(features, int(place), int(features.rows["words"][place]))
            inside = goes_on[flat[offsets[place] : offsets[place + 1]]][1:]
            is_seen = (owner[1:] >= 0) & (owner[:-1] >= 0)
            is_split[place] = bool((inside & is_seen & (owner[1:] != owner[:-1])).any())
    return found + rows.find(
        "warning",
        "split_entities",
        is_split,
        f"{{count}} of {{of}} rows are longer than {limit} tokens, and a window ends inside one of "
        "their entities",
        "Cut long texts between entities, or raise max_length.",
    )


def _owners(features: Features, row: int, n_words: int) -> np.ndarray:
    """Which window of a row answers for each of its words, -1 for none: (words,)."""
    owner = np.full(n_words, -1)
    first = features.row_offsets[row]
    for window in range(first, features.row_offsets[row + 1]):
        tokens = slice(features.window_offsets[window], features.window_offsets[window + 1])
        words, covers = features.tokens["word"][tokens], features.tokens["covers"][tokens]
        for word, count in zip(words[words > 0], covers[words > 0], strict=True):
            owner[word - 1 : word - 1 + count] = window - first
    return owner
