"""Texts to write, summaries and translations: missing, empty, copied, longer than what they sum up.

Works on whole Arrow columns. Imports `finding` and `texts`; `tasks` names it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ftkit.checks.finding import Finding, SplitRows
from ftkit.checks.texts import find_cut_texts, keys, plain
from ftkit.features import Features

_COPIED = 20  # characters from which a text that stands in another is no chance
_RATIO = 3  # times as long, or as short, as most translations of a split are


def _target(rows: SplitRows) -> str:
    return "summary" if rows.task.name == "summarization" else "target"


def find_unusable(rows: SplitRows) -> tuple[list[Finding], np.ndarray]:
    """Rows without a text to learn."""
    name = _target(rows)
    values = rows.column(name).chunk(0)
    is_null = values.is_null().to_numpy(zero_copy_only=False)
    found = rows.find(
        "error",
        "missing_target",
        is_null,
        f"{{count}} of {{of}} rows have no {name} (null)",
        "Fill it in, or drop the rows.",
        column=name,
    )
    return found, is_null


def look(splits: Mapping[str, SplitRows]) -> list[Finding]:
    """What is odd in the texts to learn."""
    findings: list[Finding] = []
    for rows in splits.values():
        name = _target(rows)
        targets = rows.column(name).chunk(0)
        if not pa.types.is_large_string(targets.type):
            continue
        is_blank = _mask(pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(targets)), 0))
        findings += rows.find(
            "warning",
            f"empty_{name}",
            is_blank,
            "{count} of {of} texts to learn are empty, which teaches the model silence",
            "Fill them in, or drop the rows.",
            column=name,
        )
        ours, theirs = keys(rows), plain(targets)
        is_copy = _mask(pc.equal(ours, theirs)) & ~is_blank
        findings += rows.find(
            "warning",
            f"copied_{name}",
            is_copy,
            "{count} of {of} texts to learn are their text, word for word",
            "Drop these rows: they teach the model to copy.",
            column=name,
        )
        if name == "summary":
            findings += _look_at_summaries(rows, targets, ours, theirs, is_copy | is_blank)
        else:
            findings += _look_at_translations(rows, targets, is_blank)
    return findings


def _look_at_summaries(
    rows: SplitRows, summaries: pa.Array, ours: pa.Array, theirs: pa.Array, is_done: np.ndarray
) -> list[Finding]:
    is_longer = _mask(pc.greater(pc.utf8_length(summaries), pc.utf8_length(rows.texts)))
    findings = rows.find(
        "warning",
        "long_summary",
        is_longer & ~is_done,
        "{count} of {of} summaries are longer than their text",
        "Look whether the two columns are exchanged in these rows, or drop them.",
        column="summary",
    )
    pairs = zip(ours.to_pylist(), theirs.to_pylist(), strict=True)
    is_part = np.array([len(short) >= _COPIED and short in text for text, short in pairs])
    findings += rows.find(
        "note",
        "part_as_summary",
        is_part & ~is_done,
        "{count} of {of} summaries stand in their text, word for word",
        "Nothing is to be done where summaries are meant to be taken from the text.",
        column="summary",
    )
    has_letters = pc.match_substring_regex(summaries, "[A-Za-z0-9]")
    return findings + rows.find(
        "warning",
        "unscored_summary",
        ~_mask(has_letters) & ~is_done,
        "{count} of {of} summaries have none of the letters a to z, the only ones that ROUGE reads",
        "Score them by another measure.",
        column="summary",
    )


def _look_at_translations(
    rows: SplitRows, targets: pa.Array, is_blank: np.ndarray
) -> list[Finding]:
    sizes = [
        np.maximum(1, pc.utf8_length(each).to_numpy(zero_copy_only=False))
        for each in (targets, rows.texts)
    ]
    ratios = sizes[0] / sizes[1]
    usual = np.median(ratios[~is_blank]) if (~is_blank).any() else 1.0
    is_odd = (ratios > _RATIO * usual) | (ratios < usual / _RATIO)
    return rows.find(
        "warning",
        "odd_length",
        is_odd & ~is_blank & (sizes[1] >= _COPIED),
        f"{{count}} of {{of}} translations are {_RATIO} times longer or shorter than others of a "
        "source of their length",
        "Look whether they belong to their source.",
        column="target",
    )


def find_cut(rows: SplitRows, features: Features, limit: int) -> list[Finding]:
    """Texts and targets that lose their end."""
    findings = find_cut_texts(rows, features, limit)
    if "target_cut" not in features.rows:
        return findings
    most = int(getattr(rows.task, "max_target_length", 0))
    return findings + rows.find(
        "warning",
        "cut_targets",
        features.rows["target_cut"] > 0,
        f"{{count}} of {{of}} texts to learn are longer than {most} tokens and lose their end",
        "Raise max_target_length.",
        column=_target(rows),
    )


def _mask(values: pa.Array) -> np.ndarray:
    mask: np.ndarray = pc.fill_null(values, False).to_numpy(zero_copy_only=False)
    return mask
