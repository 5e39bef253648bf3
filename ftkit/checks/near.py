"""Texts of one split that another has too, the same or nearly so: a score over them flatters.

The same: equal but for case and white space. Nearly: of the sets of their three words in a row
(Broder 1997, "On the resemblance and containment of documents"), the shared part (Jaccard) is at
least `NEAR`; case and punctuation do not count. Pairs are found by MinHash (Leskovec et al.,
"Mining of Massive Datasets", chapter 3), then compared as what they are. Imports `finding` and
`texts`; `check` calls it.
"""

from __future__ import annotations

from dataclasses import dataclass

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
_BANDS, _ROWS = 20, 6  # a pair of NEAR meets in a band with probability 0.998
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
    """The shingles of rows, as numbers, sorted and once each."""

    flat: np.ndarray
    offsets: np.ndarray
    words: np.ndarray
    """How many words each row has."""

    def of(self, row: int) -> np.ndarray:
        return self.flat[self.offsets[row] : self.offsets[row + 1]]


def find_shared(train: SplitRows, other: SplitRows) -> list[Finding]:
    """Rows of a split whose text train has too."""
    ours, theirs = keys(train), keys(other)
    together = pa.chunked_array([ours, theirs]).dictionary_encode().unify_dictionaries()
    codes = np.concatenate([chunk.indices.to_numpy() for chunk in together.chunks])
    ours_code, theirs_code = codes[: len(train)], codes[len(train) :]
    known, first = np.unique(ours_code, return_index=True)
    is_empty = pc.equal(theirs, "").to_numpy(zero_copy_only=False)
    is_same = np.isin(theirs_code, known) & ~is_empty
    if other.task.packs:
        is_same &= _shingles([theirs]).words >= _LEAST_LINE
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
    return findings + _find_near(train, other, first, is_same | is_empty)


def _find_near(
    train: SplitRows, other: SplitRows, first: np.ndarray, is_done: np.ndarray
) -> list[Finding]:
    """`first` are the places in train of each text that it has; rows done are left out."""
    left = np.flatnonzero(~is_done)
    if not len(left):
        return []
    shingles = _shingles([keys(train).take(first), keys(other).take(left)])
    best, partner = _best_partners(shingles, len(first))
    is_near = np.zeros(len(other), dtype=bool)
    found = best >= NEAR
    if other.task.packs:
        found &= shingles.words[len(first) :] >= _LEAST_LINE
    is_near[left[found]] = True
    places, partners = left[found][:3], first[partner[found][:3]]
    return other.find(
        "warning",
        "near_text_in_train",
        is_near,
        f"{{count}} of {{of}} rows ({is_near.mean():.1%}) have nearly the text of a row of train "
        f"(at least {NEAR:.0%} of their runs of three words are shared)",
        "Drop them from one of the splits where they say the same.",
        shown=_pairs(train, other, places, partners),
    )


def _pairs(
    train: SplitRows, other: SplitRows, places: np.ndarray, partners: np.ndarray
) -> dict[int, str]:
    """What examples show: the row's text, behind the number of the row of train that is like it."""
    return {
        int(place): f"(train, row {train.numbers[partner]:,}) {other.texts[int(place)].as_py()}"
        for place, partner in zip(places, partners, strict=True)
    }


def _shingles(parts: list[pa.Array]) -> _Shingles:
    """Of all rows of the arrays, end to end."""
    spaced = [pc.replace_substring_regex(part, _UNSPACED, r" \1 ") for part in parts]
    plain = [pc.replace_substring_regex(part, _BETWEEN, " ") for part in spaced]
    trimmed = pa.concat_arrays([pc.utf8_trim(part, " ") for part in plain])
    lists = pc.utf8_split_whitespace(trimmed)
    words = pc.list_flatten(lists).dictionary_encode().indices.to_numpy().astype(np.uint64)
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
    hashed = np.zeros(len(place), dtype=np.uint64)
    padded = np.append(words + np.uint64(1), np.zeros(_WORDS, dtype=np.uint64))
    for step in range(_WORDS):
        word = np.where(place + step < last, padded[place + step], np.uint64(0))
        hashed = _mixed(hashed ^ word)
    row = np.repeat(np.arange(len(counts)), n_shingles)
    order = np.lexsort((hashed, row))
    hashed, row = hashed[order], row[order]
    is_new = np.ones(len(hashed), dtype=bool)
    is_new[1:] = (hashed[1:] != hashed[:-1]) | (row[1:] != row[:-1])
    sizes = np.bincount(row[is_new], minlength=len(counts))
    return _Shingles(hashed[is_new], np.concatenate([[0], sizes.cumsum()]), counts * ~is_empty)


def _mixed(values: np.ndarray) -> np.ndarray:
    """64-bit numbers spread over all others, as by splitmix64 (Steele et al. 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = values ^ (values >> np.uint64(31))
    return mixed


def _best_partners(shingles: _Shingles, n_train: int) -> tuple[np.ndarray, np.ndarray]:
    """For each row behind the first `n_train`, its highest Jaccard with one of these, and which.

    In each band the first row of train with the same hashes is compared, and no others: a bucket
    may hold any number of rows of one template.
    """
    digests = _digests(shingles)
    n_other = len(digests) - n_train
    candidates = []
    for band in range(_BANDS):
        columns = digests[:, band * _ROWS : (band + 1) * _ROWS]
        hashed = np.zeros(len(digests), dtype=np.uint64)
        for column in columns.T:
            hashed = _mixed(hashed ^ column)
        order = np.argsort(hashed[:n_train], kind="stable")
        place = np.searchsorted(hashed[:n_train][order], hashed[n_train:])
        partner = order[np.minimum(place, n_train - 1)]
        met = np.flatnonzero(hashed[partner] == hashed[n_train:])
        candidates.append(np.stack([met, partner[met]], axis=1))
    pairs = np.unique(np.concatenate(candidates), axis=0)
    best, chosen = np.zeros(n_other), np.zeros(n_other, dtype=np.int64)
    for row, partner in pairs.tolist():
        ours, theirs = shingles.of(n_train + row), shingles.of(partner)
        both = len(np.intersect1d(ours, theirs, assume_unique=True))
        share = both / max(1, len(ours) + len(theirs) - both)
        if share > best[row]:
            best[row], chosen[row] = share, partner
    return best, chosen


def _digests(shingles: _Shingles) -> np.ndarray:
    """MinHash digests: (rows, permutations)."""
    from rensa import RMinHash

    parts = []
    for start in range(0, len(shingles.words), _DIGESTED):
        offsets = shingles.offsets[start : start + _DIGESTED + 1]
        flat = shingles.flat[offsets[0] : offsets[-1]]
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(
            flat, (offsets - offsets[0]).astype(np.uint64), _BANDS * _ROWS, _SEED
        )
        parts.append(np.array(matrix.to_rows(), dtype=np.uint64))
    return np.concatenate(parts)
