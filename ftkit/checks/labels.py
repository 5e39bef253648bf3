"""Labels of texts: those that are missing, unknown to train, rare, absent from a split.

Imports `finding` and `targets.labels`; `tasks` names it, and `entities` counts types by it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ftkit.checks.finding import Finding, SplitRows
from ftkit.errors import quoted
from ftkit.targets.labels import FLAGS, NAME_FLAGS, are_flags, kind_of

FEW = 10
"""Rows of train below which a label is hardly learnt."""
UNEVEN = 20
"""How often a label must be there for each row of the rarest before it is worth a word."""

_NAMED = 6  # labels that a message names


def find_unusable(rows: SplitRows) -> tuple[list[Finding], np.ndarray]:
    """Rows without a label, or with one that is no number where numbers belong."""
    nothing = np.zeros(len(rows), dtype=bool)
    if "label" not in rows.rows.column_names:
        return [], nothing
    values = rows.column("label").chunk(0)
    is_missing = values.is_null().to_numpy(zero_copy_only=False).copy()
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        if are_flags(values):
            nothing[:] = True
            flags = f"{{count}} of {{of}} rows have {FLAGS}"
            return rows.find("error", "flags", nothing, flags, NAME_FLAGS, column="label"), nothing
        inner = pc.list_flatten(values)
        parents = pc.list_parent_indices(values)
        is_missing[parents.filter(_is_missing(inner, rows.rows.features["label"].feature))] = True
    else:
        is_bad = _is_missing(values, rows.rows.features["label"])
        is_missing |= is_bad.to_numpy(zero_copy_only=False)
    found = rows.find(
        "error",
        "missing_label",
        is_missing,
        "{count} of {of} rows have no label",
        "Fill it in, drop the rows, or leave the split out.",
        column="label",
    )
    return found, is_missing


def _is_missing(values: Any, feature: Any) -> pa.Array:
    """Which labels are null, ClassLabel's -1, or no finite number."""
    is_null = values.is_null()
    if hasattr(feature, "names"):
        return pc.or_(is_null, pc.fill_null(pc.less(values, 0), True))
    if pa.types.is_floating(values.type):
        return pc.or_(is_null, pc.fill_null(pc.invert(pc.is_finite(values)), True))
    return is_null


def find_unknown(
    splits: Mapping[str, SplitRows],
) -> tuple[list[Finding], dict[str, np.ndarray]]:
    """Rows of other splits with a label that train never has, and which these are."""
    return unknown_labels({split: _labels(rows) for split, rows in splits.items()}, splits, "label")


def unknown_labels(
    labels: Mapping[str, list[tuple[str, ...]]], splits: Mapping[str, SplitRows], what: str
) -> tuple[list[Finding], dict[str, np.ndarray]]:
    """The same of the labels of each row, or the types of its entities."""
    findings: list[Finding] = []
    masks: dict[str, np.ndarray] = {}
    known = set().union(*map(set, labels.get("train", [])))
    for split, found in labels.items():
        if split == "train" or not known:
            continue
        met = Counter(name for names in found for name in set(names) - known)
        masks[split] = np.array([not known.issuperset(names) for names in found], dtype=bool)
        findings += splits[split].find(
            "error",
            f"{what}_not_in_train",
            masks[split],
            f"{{count}} of {{of}} rows have a {what} that train never has: {quoted(list(met), 6)}",
            "Put rows of it into train, mend its spelling, or drop these rows.",
            column="label" if what == "label" else None,
        )
    return findings, masks


def _labels(rows: SplitRows) -> list[tuple[str, ...]]:
    """The labels of each row; none where they are numbers to predict."""
    if "label" not in rows.rows.column_names or _kind(rows) == "regression":
        return [()] * len(rows)
    if "labels" not in rows.cache:
        listed = (value for (value,) in rows.listed("label"))
        rows.cache["labels"] = [
            tuple(map(str, value)) if isinstance(value, list) else (str(value),) for value in listed
        ]
    found: list[tuple[str, ...]] = rows.cache["labels"]
    return found


def _kind(rows: SplitRows) -> str:
    kind = getattr(rows.task, "kind", "auto")
    return str(kind_of(rows.rows) if kind == "auto" else kind)


def count_labels(rows: SplitRows) -> dict[str, int]:
    """How many rows have each label, the most frequent first."""
    counts = Counter(name for names in _labels(rows) for name in set(names))
    return dict(counts.most_common())


def look(splits: Mapping[str, SplitRows]) -> list[Finding]:
    """Rare and uneven labels of train, those that other splits lack, rows without any."""
    counts = {split: count_labels(rows) for split, rows in splits.items()}
    findings = find_balance(counts, splits, "label")
    train = counts["train"]
    often, seldom = max(train.values(), default=0), min(train.values(), default=0)
    if often > UNEVEN * max(1, seldom):
        first, last = next(iter(train)), list(train)[-1]
        findings.append(
            Finding(
                "warning",
                "uneven_labels",
                f'"{first}" has {often:,} rows of train and "{last}" {seldom:,}: '
                "accuracy says little of the rare ones",
                "Look at macro_f1; class_weights=balanced makes rare labels count as much.",
                split="train",
                column="label",
            )
        )
    for rows in splits.values():
        if _kind(rows) == "multi":
            is_bare = np.array([not names for names in _labels(rows)], dtype=bool)
            findings += rows.find(
                "note",
                "no_label",
                is_bare,
                "{count} of {of} rows have none of the labels",
                "See that this is meant: they teach that no label holds.",
                column="label",
            )
    return findings


def find_balance(
    counts: Mapping[str, Mapping[str, int]], splits: Mapping[str, SplitRows], what: str
) -> list[Finding]:
    """Labels with few rows in train, with none in another split, and those spelt in two ways."""
    findings = []
    train = counts["train"]
    column = "label" if what == "label" else None
    of = "rows" if what == "label" else "entities"
    few = sorted((count, name) for name, count in train.items() if count < FEW)
    if few:
        named = ", ".join(f'"{name}" ({count:,})' for count, name in few[:_NAMED])
        findings.append(
            Finding(
                "warning",
                f"rare_{what}s",
                f"{len(few):,} of {len(train):,} {what}s have fewer than {FEW} {of} in train: "
                f"{named}",
                f"Bring more {of} of them, or join them with others.",
                len(few),
                len(train),
                "train",
                column,
            )
        )
    for split, found in counts.items():
        absent = [name for name in train if not found.get(name)]
        if absent and split != "train" and any(found.values()):
            findings.append(
                Finding(
                    "warning",
                    f"absent_{what}s",
                    f"{len(absent):,} of {len(train):,} {what}s of train have no {of} here: "
                    f"{quoted(absent, _NAMED)}",
                    "The scores say nothing of them: bring some, or split by label.",
                    len(absent),
                    len(train),
                    split,
                    column,
                )
            )
    spelt: dict[str, list[str]] = {}
    for name in train:
        spelt.setdefault("".join(filter(str.isalnum, name.lower())) or name, []).append(name)
    twice = [name for names in spelt.values() if len(names) > 1 for name in names]
    if twice:
        findings.append(
            Finding(
                "warning",
                f"{what}_spelling",
                f"some {what}s differ in case, white space or marks alone: {quoted(twice, _NAMED)}",
                "Write each of them in one way.",
                len(twice),
                len(train),
                "train",
                column,
            )
        )
    return findings
