"""Texts that are missing, empty, or there more than once: what every task is asked.

Works on whole Arrow columns. Imports `finding` and `data.faults`; the other checks
use it, `opening` and `check` call it.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ftkit.checks.finding import Finding, SplitRows
from ftkit.data.faults import shorten
from ftkit.features import Features

_WHITE = pa.scalar(" ", pa.large_string())
_MANY = 0.05  # share of rows that are cut from which it is more than a note
# Tasks for which one text has one right answer: others may well have several.
_HAS_ONE_ANSWER = ("classification", "ner")


def find_unreadable(rows: SplitRows) -> tuple[list[Finding], np.ndarray]:
    """What is no text in the columns that the model reads, and which rows have it: (rows,)."""
    findings: list[Finding] = []
    is_bad = np.zeros(len(rows), dtype=bool)
    kinds = {column.name: column.kind for column in rows.task.columns()}
    for name in rows.inputs:
        values = rows.column(name).chunk(0)
        is_list = kinds[name] == "tokens"
        if not pa.types.is_null(values.type) and not _holds(values.type, is_list):
            findings += rows.find(
                "error",
                "not_text",
                np.ones(len(rows), dtype=bool),
                f"values of type {values.type} where {'lists of words' if is_list else 'texts'} "
                "belong",
                f'Name the column that holds them: columns={{"{name}": ...}}.',
                column=name,
                shown={0: str(values[0].as_py())},
            )
            is_bad[:] = True
            continue
        is_list = is_list and not pa.types.is_null(values.type)
        is_null = values.is_null().to_numpy(zero_copy_only=False).copy()
        if is_list and pc.list_flatten(values).null_count:
            has_null = pc.list_parent_indices(values).filter(pc.is_null(pc.list_flatten(values)))
            is_null[has_null.to_numpy()] = True
        what = "a word is missing" if is_list else "the text is missing"
        findings += rows.find(
            "error",
            "missing_text",
            is_null,
            f"{{count}} of {{of}} rows: {what} (null)",
            "Fill it in, or drop the rows.",
            column=name,
        )
        is_bad |= is_null
    return findings, is_bad


def _holds(kind: pa.DataType, is_list: bool) -> bool:
    """Whether values of that type are texts, or lists of words."""
    if not is_list:
        return bool(pa.types.is_large_string(kind))
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return False
    # Empty lists alone hold nulls.
    return bool(pa.types.is_string(kind.value_type) or pa.types.is_null(kind.value_type))


def find_blank(rows: SplitRows) -> list[Finding]:
    """Texts with nothing in them but white space, column by column."""
    findings = []
    for name in rows.inputs:
        values = rows.column(name).chunk(0)
        if pa.types.is_large_string(values.type):
            is_blank = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(values)), 0)
        else:
            is_blank = pc.equal(pc.list_value_length(values), 0)
        findings += rows.find(
            # In running text, blank lines part the paragraphs.
            "note" if rows.task.packs else "warning",
            "blank_text",
            pc.fill_null(is_blank, False).to_numpy(zero_copy_only=False),
            "{count} of {of} texts are empty or blank",
            "Fill them in, or drop the rows: the model learns nothing from them.",
            column=name,
        )
    return findings


def keys(rows: SplitRows) -> pa.Array:
    """What the model reads of each row in small letters, each white space a single blank."""
    if "keys" not in rows.cache:
        rows.cache["keys"] = plain(rows.texts)
    found: pa.Array = rows.cache["keys"]
    return found


def plain(texts: pa.Array) -> pa.Array:
    """Texts in small letters, each white space a single blank, none at the ends."""
    words = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(pc.utf8_lower(texts)))
    return pc.binary_join(words, _WHITE)


def find_repeated(rows: SplitRows) -> list[Finding]:
    """Rows that are there again with the same target, and with another one."""
    codes = keys(rows).dictionary_encode().indices.to_numpy()
    is_empty = pc.equal(keys(rows), "").to_numpy(zero_copy_only=False)
    counts = np.bincount(codes, minlength=1)
    places = np.flatnonzero((counts[codes] > 1) & ~is_empty)
    if not len(places):
        return []
    targets = dict(zip(places.tolist(), _targets(rows, places), strict=True))
    met: dict[int, list[str]] = {}
    is_repeated = np.zeros(len(rows), dtype=bool)
    for place, target in targets.items():
        known = met.setdefault(int(codes[place]), [])
        is_repeated[place] = target in known
        if target not in known:
            known.append(target)
    findings = rows.find(
        "note" if rows.task.packs else "warning",
        "duplicate_rows",
        is_repeated,
        "{count} of {of} rows repeat an earlier one, text and target alike",
        "Drop the copies: they count double in training and in scores.",
    )
    in_conflict = [code for code, found in met.items() if len(found) > 1]
    is_conflicting = np.isin(codes, in_conflict)
    # The rows of one text stand together in the examples, with the target of each.
    order = np.flatnonzero(is_conflicting)
    order = order[np.argsort(codes[order], kind="stable")][:3].tolist()
    one = rows.task.name in _HAS_ONE_ANSWER
    return findings + rows.find(
        "warning" if one else "note",
        "conflicting_rows",
        is_conflicting,
        "{count} of {of} rows share their text and differ in their target",
        "Decide for one target, or drop these rows."
        if one
        else "Look whether each of these targets is meant.",
        shown={place: f"{shorten(targets[place])}: {rows.texts[place].as_py()}" for place in order},
    )


def find_cut_texts(rows: SplitRows, features: Features, limit: int) -> list[Finding]:
    """Rows of which the model sees a part."""
    is_cut = features.rows["n_cut"] > 0
    remedy = "Take a checkpoint that reads more, or split the texts."
    if getattr(rows.task, "long_texts", "windows") != "windows":
        remedy = 'Give long_texts="windows" to have the model see all of them.'
    return rows.find(
        "warning" if is_cut.mean() > _MANY else "note",
        "cut_texts",
        is_cut,
        f"{{count}} of {{of}} rows ({is_cut.mean():.1%}) are longer than {limit} tokens; the model "
        "sees a part of them",
        remedy,
    )


def _targets(rows: SplitRows, places: np.ndarray) -> list[str]:
    """What is to be learnt of some rows, in words."""
    columns = [column.name for column in rows.task.columns() if not column.is_input]
    names = [name for name in columns if name in rows.rows.column_names and name != "references"]
    if not names:
        return [""] * len(places)
    chosen = SplitRows(rows.name, rows.rows.select(places), rows.task, rows.numbers, rows.origin)
    return [" ".join(map(str, values)) for values in chosen.listed(*names)]
