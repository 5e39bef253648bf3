"""The data check: rows looked over before a training, all that is wrong with them at once.

    source --opening--> SplitRows --texts, near, the task's own, languages, lengths--> DataCheck

Imports the other files of `checks`, `data` and `model`; `learner.run` and the command line call
it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from datasets import DatasetDict

from ftkit.checks import estimate as sizes
from ftkit.checks import near
from ftkit.checks.finding import LEVELS, Finding, SplitRows
from ftkit.checks.languages import SAMPLED, SURE, count_languages
from ftkit.checks.lengths import (
    Tokenized,
    count_tokens,
    count_words,
    describe_lengths,
    find_unknown,
)
from ftkit.checks.opening import Opened, open_data, opened
from ftkit.checks.result import DataCheck, SplitFacts
from ftkit.checks.tasks import CHECKS
from ftkit.checks.texts import find_blank, find_repeated
from ftkit.data.columns import ColumnMap
from ftkit.data.parts import Source
from ftkit.errors import FtkitWarning, check_least, first_line
from ftkit.features import Padding
from ftkit.task import Task
from ftkit.tasks import get_task

WARNED = frozenset(
    (
        *("blank_text", "illegal_tags", "ragged_entities", "tag_scheme", "empty_summary"),
        *("empty_target", "long_summary", "unscored_summary", "cut_texts", "cut_targets"),
        *("unseen_words", "cut_questions", "answers_in_no_window", "long_answers"),
    )
)
"""Names of findings that `load_data` and the loaders of a training warn of themselves."""


def check(
    data: Source,
    task: str | Task = "classification",
    checkpoint: str | Path | None = None,
    *,
    columns: ColumnMap | None = None,
    group: str | None = None,
    limit: int | None = None,
    batch_size: int = 32,
    seed: int = 42,
) -> DataCheck:
    """Look over rows before a training: what is wrong with them, and how large they are.

    `data`, `columns`, `group`, `limit` and `seed` are as in `load_data`, so that the splits are
    those that a training would have; an example names the row of the user's own file or split.
    What `load_data` would stop at is a finding of level "error", and the other rows are looked at
    all the same. With a `checkpoint`, lengths are in its tokens, and where its weights are on this
    machine a training step is timed; without one they are in words. `batch_size` is of the
    estimate.

    Raises DataError for a path or hub id that is not there, CheckpointError for a checkpoint that
    cannot be opened, SettingError for an option that cannot work.
    """
    check_least(1, limit=limit, batch_size=batch_size)
    check_least(0, seed=seed)
    task = get_task(task)
    found = open_data(data, task, columns=columns, group=group, limit=limit, seed=seed)
    if checkpoint is None:
        return examine(found, task, notes=["no checkpoint was named: lengths are in words"])
    if found.task is None:
        said = "lengths are in words: the rows cannot train the task before their errors are mended"
        return examine(found, task, checkpoint=str(checkpoint), notes=[said])
    # torch takes seconds to import, and the checks above do without.
    from ftkit.data.tokenize import task_limit, tokenize
    from ftkit.model.checkpoint import fit_without_weights

    rows = DatasetDict({split: each.rows for split, each in found.splits.items()})
    with warnings.catch_warnings():
        # What the task warns of is found again, with its rows.
        warnings.simplefilter("ignore", FtkitWarning)
        fitted, tokenizer, longest = fit_without_weights(checkpoint, task, rows)
        longest = task_limit(fitted, longest)
        features = {
            split: tokenize(each, fitted, tokenizer, longest) for split, each in rows.items()
        }
        tokenized = Tokenized(features, tokenizer, longest)
        size = _estimate(str(checkpoint), task, rows, tokenized, batch_size)
    found = replace(found, task=fitted)
    return examine(found, task, tokenized, checkpoint=str(checkpoint), estimate=size)


def check_loaded(
    data: DatasetDict, task: Task, tokenized: Tokenized, checkpoint: str, **estimate: Any
) -> DataCheck:
    """The same of rows that are loaded and tokenised, for a training that goes on whatever is
    found: a part of the check that fails is a note. `task` is fitted to both; `estimate` are
    fields of `checks.estimate.Estimate`.
    """
    size = sizes.estimate_size(tokenized.features["train"], **estimate).to_dict()
    return examine(
        opened(data, task), task, tokenized, checkpoint=checkpoint, estimate=size, is_optional=True
    )


def examine(
    found: Opened,
    task: Task,
    tokenized: Tokenized | None = None,
    *,
    checkpoint: str | None = None,
    estimate: dict[str, Any] | None = None,
    notes: list[str] | None = None,
    is_optional: bool = False,
) -> DataCheck:
    """All that can be said of the rows. Where the check `is_optional`, a part that fails says so
    among the notes instead of raising.
    """
    splits = found.splits
    notes = [*(notes or ()), *_method(splits)] if splits else []
    if found.task is not None:
        splits = {name: replace(rows, task=found.task) for name, rows in splits.items()}
    findings = list(found.findings)

    def part(name: str, look: Callable[[], Any]) -> Any:
        try:
            return look()
        except Exception as error:
            if not is_optional:
                raise
            notes.append(f"{name} could not be looked at ({first_line(error)})")
            return None

    train = splits.get("train")
    for name, rows in splits.items():
        findings += part(f"blank texts of {name}", partial(find_blank, rows)) or ()
        findings += part(f"duplicates of {name}", partial(find_repeated, rows)) or ()
        if train is not None and name != "train":
            shared = partial(near.find_shared, train, rows)
            findings += part(f"texts that train and {name} share", shared) or ()
    if found.task is not None:
        own = CHECKS[task.name]
        findings += part(f"what {task.name} needs", partial(own.look, splits)) or ()
    facts, lengths = {}, part("lengths", partial(_lengths, splits, tokenized)) or {}
    for name, rows in splits.items():
        counts = part(f"labels of {name}", partial(CHECKS[task.name].count, rows)) or {}
        languages, said = part(f"languages of {name}", partial(count_languages, rows)) or ({}, [])
        findings += said
        if tokenized is not None and name in tokenized.features:
            features = tokenized.features[name]
            cut = partial(CHECKS[task.name].cut, rows, features, tokenized.limit)
            findings += part(f"what is cut of {name}", cut) or ()
            unknown = partial(find_unknown, rows, tokenized)
            findings += part(f"unknown characters of {name}", unknown) or ()
        facts[name] = SplitFacts(
            name, len(rows), rows.unreadable, counts, lengths.get(name), languages
        )
    for name, count in found.unread.items():
        facts[name] = SplitFacts(name, 0, count, {}, None, {})
    return DataCheck(
        task=task.name,
        checkpoint=checkpoint,
        splits=tuple(facts.values()),
        findings=tuple(sorted(findings, key=_rank)),
        estimate=estimate,
        notes=tuple(notes),
    )


def _rank(finding: Finding) -> int:
    return LEVELS.index(finding.level)


def _lengths(splits: dict[str, SplitRows], tokenized: Tokenized | None) -> dict[str, Any]:
    if tokenized is None or any(rows.task.packs for rows in splits.values()):
        words = {name: count_words(rows) for name, rows in splits.items()}
        return describe_lengths(words, tokenized, "words")
    tokens = {
        name: count_tokens(rows, tokenized)
        for name, rows in splits.items()
        if name in tokenized.features
    }
    return describe_lengths(tokens, tokenized, "tokens")


def _method(splits: dict[str, SplitRows]) -> list[str]:
    """What a reader must know of how it was looked."""
    notes = []
    if len(splits) > 1:
        notes.append(
            f"texts count as the same where case and white space alone differ, and as nearly the "
            f"same where {near.NEAR:.0%} of their runs of three words are shared"
        )
    if any(len(rows) > SAMPLED for rows in splits.values()):
        drawn = f"of {SAMPLED:,} rows of each split, drawn by a seed"
    else:
        drawn = "of every row"
    notes.append(f"languages are those {drawn}; below a probability of {SURE} none is told")
    return notes


def _estimate(
    checkpoint: str, task: Task, rows: DatasetDict, tokenized: Tokenized, batch_size: int
) -> dict[str, Any]:
    """The size of a training, and the time of an epoch where a step can be tried."""
    from ftkit.model.checkpoint import open_checkpoint
    from ftkit.model.module import TextModel

    features = tokenized.features["train"]
    weight = sizes.weigh(checkpoint)
    if weight is None or weight > sizes.LARGEST:
        why = "are not on this machine" if weight is None else "are too large to try a step"
        note = f"No step was timed: the checkpoint's weights {why}."
        return sizes.estimate_size(features, batch_size, note=note).to_dict()
    opened_here = open_checkpoint(checkpoint, task, rows, new_head=True)
    model = TextModel(opened_here.model, opened_here.task)
    known: dict[str, Any] = sizes.count_parameters(model)
    padding = Padding.of(tokenized.tokenizer)
    seconds, device = sizes.time_training(features, model, opened_here.task, padding)
    known |= {"seconds": seconds, "device": device}
    return sizes.estimate_size(features, batch_size, **known).to_dict()
