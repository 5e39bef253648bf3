"""Answers to questions: off their offsets, there twice, none at all, out of every window.

Imports `finding` and `targets.answers`; `tasks` names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow.compute as pc

from ftkit.checks.finding import Finding, SplitRows
from ftkit.errors import DataError
from ftkit.features import IGNORED, Features
from ftkit.targets.answers import has_answers, place_answers, read_answers

_READ = ("context", "answers", "answer", "answer_start")


def _rows(rows: SplitRows) -> list[Mapping[str, Any]]:
    names = [name for name in _READ if name in rows.rows.column_names]
    return [dict(zip(names, values, strict=True)) for values in rows.listed(*names)]


def find_unusable(rows: SplitRows) -> tuple[list[Finding], np.ndarray]:
    """Rows with an answer that does not stand in its context where it should."""
    is_bad = np.zeros(len(rows), dtype=bool)
    if not has_answers(rows.rows.features):
        return [], is_bad
    errors: list[DataError] = []
    n_movable = 0
    repair = bool(getattr(rows.task, "repair", False))
    for place, row in enumerate(_rows(rows)):
        try:
            place_answers(read_answers(row), row["context"], repair=repair)
        except DataError as error:
            is_bad[place] = True
            errors.append(error)
            n_movable += _is_movable(row)
    if not errors:
        return [], is_bad
    more = f" ({n_movable:,} of them occur once, and repair=True moves them)" if n_movable else ""
    first = errors[0]
    told = rows.find(
        "error",
        "misplaced_answers",
        is_bad,
        f"{{count}} of {{of}} rows have an answer that is not where it should be{more}; in the "
        f"first, {first.problem}",
        first.remedy,
        column=first.column,
    )
    return told, is_bad


def _is_movable(row: Mapping[str, Any]) -> bool:
    try:
        place_answers(read_answers(row), row["context"], repair=True)
    except DataError:
        return False
    return True


def look(splits: Mapping[str, SplitRows]) -> list[Finding]:
    """Questions without an answer, answers given twice, contexts that train has too."""
    findings: list[Finding] = []
    contexts = splits["train"].column("context").chunk(0)
    n_none = {}
    for split, rows in splits.items():
        answers = [read_answers(row) for row in _rows(rows)]
        is_none = np.array([not each.texts for each in answers], dtype=bool)
        n_none[split] = int(is_none.sum())
        findings += rows.find(
            "note",
            "unanswerable",
            is_none,
            f"{{count}} of {{of}} questions ({is_none.mean():.1%}) have no answer",
            "See that this is the share that the model will meet.",
        )
        pairs = [list(zip(each.texts, each.starts, strict=True)) for each in answers]
        findings += rows.find(
            "note",
            "repeated_answers",
            np.array([len(set(each)) < len(each) for each in pairs], dtype=bool),
            "{count} of {of} rows list an answer more than once",
            "Nothing is to be done where several people answered: the best match counts.",
        )
        findings += rows.find(
            "warning",
            "blank_edges",
            np.array([any(t != t.strip() for t in each.texts) for each in answers], dtype=bool),
            "{count} of {of} rows have an answer with white space at its ends",
            "Trim the answers, and move their offsets.",
        )
        if split != "train":
            is_known = pc.is_in(rows.column("context").chunk(0), value_set=contexts)
            share = is_known.to_numpy(zero_copy_only=False).mean()
            findings += rows.find(
                "warning",
                "context_in_train",
                is_known.to_numpy(zero_copy_only=False),
                f"{{count}} of {{of}} rows ({share:.1%}) have a context that train has too, with "
                "any question",
                "Split by context, so that the scores are of texts never seen"
                + (": give group=." if rows.origin == "train" else "."),
                column="context",
            )
    others = [split for split, count in n_none.items() if count and split != "train"]
    if others and not n_none["train"]:
        findings.append(
            Finding(
                "warning",
                "unanswerable_unlearnt",
                f"{' and '.join(others)} have questions without an answer, and train has none",
                "Bring such questions for train, or drop them.",
                split=others[0],
            )
        )
    return findings


def find_cut(rows: SplitRows, features: Features, limit: int) -> list[Finding]:
    """Answers that no window holds, or that are too long to be given; questions that are cut."""
    findings = rows.find(
        "warning",
        "cut_questions",
        features.rows["n_cut"] > 0,
        f"{{count}} of {{of}} questions are longer than half a window of {limit} tokens, and lose "
        "their end",
        "Shorten them, or raise max_length.",
        column="question",
    )
    if "target" not in features.rows:
        return findings
    findings += rows.find(
        "warning",
        "answers_in_no_window",
        features.rows["target"][:, 0] == IGNORED,
        f"{{count}} of {{of}} rows have an answer that no window of {limit} tokens holds, and "
        "teach nothing",
        "Raise stride or max_length.",
    )
    most = int(getattr(rows.task, "max_answer_length", 0))
    return findings + rows.find(
        "warning",
        "long_answers",
        features.rows["answer_tokens"] > most,
        f"{{count}} of {{of}} rows have an answer of more than {most} tokens, which is never given",
        "Raise max_answer_length.",
    )
