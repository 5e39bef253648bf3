"""Texts of one split that another has too, the same or nearly so: a score over them flatters.

The same: equal but for case and white space. Nearly: of the sets of their three words in a row
(Broder 1997, "On the resemblance and containment of documents"), the shared part (Jaccard) is at
least `NEAR`; case and punctuation do not count. Pairs are found by MinHash (Leskovec et al.,
"Mining of Massive Datasets", chapter 3), then compared as what they are. Imports `finding` and
`texts`; `check` calls it.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ftkit.checks.finding import Finding, SplitRows
from ftkit.checks.texts import keys

NEAR = 0.8
"""Shared part of two texts' shingles from which they count as nearly the same."""
MOST_SHARED = 0.01
"""Share of a split's rows that train may have too before its scores lie: an error above it."""

_WORDS = 3  # in a shingle
_BANDS, _ROWS = 16, 5  # a pair of NEAR meets in a band with probability 0.998
_SEED = 42
_DIGESTED = 10_000  # rows at once: a digest is a Python list for a moment
# Tasks with several rows about one long text, which are alike without being the same.
_SHARED_BY_RIGHT = ("qa",)
_LEAST_LINE = 8  # words: shorter lines of running text, such as headings, come again by right
# Writing without spaces is cut into its characters.
_UNSPACED = r"([\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}])"
_BETWEEN = r"[^\p{L}\p{M}\p{N}]+"


@dataclass(frozen=True)
class _Shingles:
    """The shingles of rows, as numbers."""

    flat: np.ndarray
    offsets: np.ndarray
    words: np.ndarray
    """How many words each row has."""
    digests: np.ndarray
    """MinHash: (rows, permutations)."""

    def of(self, row: int) -> np.ndarray:
        """Those of a row, once each and sorted."""
        return np.unique(self.flat[self.offsets[row] : self.offsets[row + 1]])


def find_shared(train: SplitRows, other: SplitRows) -> list[Finding]:
    """Rows of a split whose text train has too."""
    ours, theirs = keys(train), keys(other)
    together = pa.chunked_array([ours, theirs]).dictionary_encode().unify_dictionaries()
    ours_code, theirs_code = (chunk.indices.to_numpy() for chunk in together.chunks)
    known, first = np.unique(ours_code, return_index=True)
    is_empty = pc.equal(theirs, "").to_numpy(zero_copy_only=False)
    is_same = np.isin(theirs_code, known) & ~is_empty
    if other.task.packs:
        is_same &= _shingles_of(other).words >= _LEAST_LINE
    share = is_same.mean()
    is_error = share > MOST_SHARED and not other.task.packs
    places = np.flatnonzero(is_same)[:3]
    partners = first[np.searchsorted(known, theirs_code[places])]
    findings = other.find(
        "error" if is_error else "warning",
        "same_text_in_train",
        is_same,
        f"{{count}} of {{of}} rows ({share:.1%}) have a text that train has too"
        + (f", more than {MOST_SHARED:.0%}: scores over them flatter" if is_error else ""),
        "Drop them from one of the splits"
        + (", or hold out whole groups with group=." if other.origin == "train" else "."),
        shown=_pairs(train, other, places, partners),
    )
    if other.task.name in _SHARED_BY_RIGHT:
        return findings
    return findings + _find_near(train, other, is_same | is_empty)


def _find_near(train: SplitRows, other: SplitRows, is_done: np.ndarray) -> list[Finding]:
    """Rows done are left out."""
    shingles = _shingles_of(other)
    best, partner = best_partners(_shingles_of(train), shingles)
    is_near = (best >= NEAR) & ~is_done
    if other.task.packs:
        is_near &= shingles.words >= _LEAST_LINE
    places = np.flatnonzero(is_near)[:3]
    return other.find(
        "warning",
        "near_text_in_train",
        is_near,
        f"{{count}} of {{of}} rows ({is_near.mean():.1%}) have nearly the text of a row of train "
        f"(at least {NEAR:.0%} of their runs of three words are shared)",
        "Drop them from one of the splits where they say the same.",
        shown=_pairs(train, other, places, partner[places]),
    )


def _pairs(
    train: SplitRows, other: SplitRows, places: np.ndarray, partners: np.ndarray
) -> dict[int, str]:
    """What examples show: the row's text, behind the number of the row of train that is like it."""
    return {
        int(place): f"(train, row {train.numbers[partner]:,}) {other.texts[int(place)].as_py()}"
        for place, partner in zip(places, partners, strict=True)
    }


def _shingles_of(rows: SplitRows) -> _Shingles:
    if "shingles" not in rows.cache:
        rows.cache["shingles"] = make_shingles(keys(rows))
    found: _Shingles = rows.cache["shingles"]
    return found


def make_shingles(texts: pa.Array) -> _Shingles:
    """The shingles of texts in small letters."""
    spaced = pc.replace_substring_regex(texts, _UNSPACED, r" \1 ")
    trimmed = pc.utf8_trim(pc.replace_substring_regex(spaced, _BETWEEN, " "), " ")
    lists = pc.utf8_split_whitespace(trimmed)
    coded = pc.list_flatten(lists).dictionary_encode()
    hashes = [_hash(word) for word in coded.dictionary.to_pylist()]
    words = np.array(hashes, dtype=np.uint64)[coded.indices.to_numpy()]
    counts = pc.list_value_length(lists).to_numpy(zero_copy_only=False).astype(np.int64)
    starts = np.concatenate([[0], counts.cumsum()])
    # A text of fewer words is one shingle, with nothing in the place of those that it lacks.
    n_shingles = np.maximum(counts - (_WORDS - 1), 1)
    # Splitting nothing gives a word of no letters.
    is_empty = pc.equal(trimmed, "").to_numpy(zero_copy_only=False)
    n_shingles[is_empty] = 0
    offsets = np.concatenate([[0], n_shingles.cumsum()])
    place = np.repeat(starts[:-1] - offsets[:-1], n_shingles) + np.arange(offsets[-1])
    last = np.repeat(starts[1:], n_shingles)
    flat = np.zeros(len(place), dtype=np.uint64)
    for step in range(_WORDS):
        is_there = place + step < last
        word = words[np.where(is_there, place + step, 0)] if len(words) else flat
        flat = _mixed(flat ^ np.where(is_there, word, np.uint64(0)))
    return _Shingles(flat, offsets, counts * ~is_empty, _digest(flat, offsets))


def _hash(word: str) -> int:
    return int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "little")


def _mixed(values: np.ndarray) -> np.ndarray:
    """64-bit numbers spread over all others, as by splitmix64 (Steele et al. 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = values ^ (values >> np.uint64(31))
    return mixed


def _digest(flat: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    from rensa import RMinHash

    parts = [np.zeros((0, _BANDS * _ROWS), dtype=np.uint64)]
    for start in range(0, len(offsets) - 1, _DIGESTED):
        here = offsets[start : start + _DIGESTED + 1]
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(
            flat[here[0] : here[-1]], (here - here[0]).astype(np.uint64), _BANDS * _ROWS, _SEED
        )
        parts.append(np.array(matrix.to_rows(), dtype=np.uint64))
    return np.concatenate(parts)


def best_partners(train: _Shingles, other: _Shingles) -> tuple[np.ndarray, np.ndarray]:
    """For each row of the other its highest Jaccard with one of train, and which that is.

    In each band the first row of train with the same hashes is compared, and no others: a bucket
    may hold any number of rows of one template.
    """
    candidates = [np.zeros((0, 2), dtype=np.int64)]
    for band in range(_BANDS):
        ours, theirs = (_hash_band(each.digests, band) for each in (train, other))
        order = np.argsort(ours, kind="stable")
        place = np.minimum(np.searchsorted(ours[order], theirs), len(ours) - 1)
        partner = order[place]
        met = np.flatnonzero(ours[partner] == theirs)
        candidates.append(np.stack([met, partner[met]], axis=1))
    best = np.zeros(len(other.words))
    chosen = np.zeros(len(other.words), dtype=np.int64)
    for row, partner in np.unique(np.concatenate(candidates), axis=0).tolist():
        left, right = train.of(partner), other.of(row)
        both = len(np.intersect1d(left, right, assume_unique=True))
        share = both / max(1, len(left) + len(right) - both)
        if share > best[row]:
            best[row], chosen[row] = share, partner
    return best, chosen


def _hash_band(digests: np.ndarray, band: int) -> np.ndarray:
    """A number for the digests of a band: (rows,)."""
    hashed = np.zeros(len(digests), dtype=np.uint64)
    for column in digests[:, band * _ROWS : (band + 1) * _ROWS].T:
        hashed = _mixed(hashed ^ column)
    return hashed
