"""Why a model answers as it does: how much each word of a row speaks for the answer.

Integrated gradients stand in `gradients`; occlusion, which hides one word after the other and
needs nothing but answers, stands here. So does what is explained of each task. `predictor` calls
it; torch and captum are imported where gradients are computed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, get_args

import numpy as np

from ftkit.errors import DataError, FtkitError, SettingError, check_least, quoted
from ftkit.features import Features
from ftkit.inference.explanation import Explanation, Method, Unit, WordScore
from ftkit.inference.gradients import copy_to_hook, integrate
from ftkit.inference.hiding import HiddenScores, WordedRow
from ftkit.spans import entities_of_tags
from ftkit.task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MOST_WORDS = 2_000  # that are hidden one after the other


class Answering(Protocol):
    """What is asked of a `Predictor`."""

    tokenizer: PreTrainedTokenizerBase
    task: Task
    limit: int

    def predict(self, rows: Sequence[Any]) -> list[Any]: ...

    def run(self, features: Features, batch_size: int) -> Iterator[tuple[list[int], Any, Any]]: ...


def explain_row(
    predictor: Answering,
    row: Any,
    *,
    label: str | None = None,
    entity: int | None = None,
    method: Method | None = None,
    n_steps: int | None = None,
    batch_size: int = 32,
) -> Explanation:
    """See `Predictor.explain`."""
    check_least(1, n_steps=n_steps, batch_size=batch_size)
    if method is not None and method not in get_args(Method):
        raise SettingError(
            f"method is {method!r}", remedy=f"Use one of {quoted(get_args(Method))}."
        )
    task = predictor.task
    if task.name not in EXPLAINED:
        raise SettingError(
            f"answers of {task.name} cannot be explained yet",
            remedy=f"Those of {quoted(EXPLAINED)} can.",
        )
    worded = WordedRow.read(row, task, predictor.tokenizer, predictor.limit)
    clone = None if method == "occlusion" else _differentiable(predictor, worded, method)
    _, outputs, _ = next(predictor.run(worded.copies(1), batch_size))
    target = _TARGETS[task.name](
        task, predictor.predict([row])[0], np.asarray(outputs)[0], label, entity
    )
    if clone is None:
        method, found = "occlusion", _occlude(predictor, worded, target.score, batch_size)
    else:
        found = integrate(clone, worded, target.score, n_steps, batch_size)
    return Explanation(
        target.label,
        found.output,
        found.hidden_output,
        target.unit,
        tuple(_scored(worded, number, found.scores[number]) for number in worded.seen),
        worded.texts,
        method or "integrated_gradients",
        found.gap,
        len(worded.words) - len(worded.seen),
    )


def _scored(worded: WordedRow, number: int, score: float) -> WordScore:
    column, start, end = worded.words[number]
    return WordScore(worded.texts[column][start:end], start, end, float(score), column)


def _differentiable(predictor: Any, worded: WordedRow, method: Method | None) -> Any:
    """A model for integrated gradients; None where there can be none and none is demanded."""
    try:
        model = predictor.model
    except (FtkitError, AttributeError):
        model = None
    if model is not None and importlib.util.find_spec("captum") is None:
        raise SettingError(
            "integrated gradients need captum, which is not installed",
            remedy='Install it: pip install "ftkit[explain]"; or use method="occlusion".',
        )
    clone = None if model is None else copy_to_hook(model, worded)
    if clone is None and method is not None:
        raise SettingError(
            "integrated gradients need a torch model that looks up all its tokens in one table of "
            "embeddings, and this one is none",
            remedy='Use method="occlusion".',
        )
    return clone


# What is explained


@dataclass(frozen=True)
class _Target:
    """The one number of the model's that is explained."""

    label: str
    unit: Unit
    score: Callable[[Any], Any]
    """(rows,) from outputs (rows, ...), arrays as well as tensors."""


def _label_target(
    task: Any, prediction: Any, outputs: np.ndarray, label: str | None, entity: int | None
) -> _Target:
    _refuse(entity=entity)
    if task.kind == "regression":
        _refuse(label=label)
        return _Target("value", "value", lambda outputs: outputs[:, 0])
    if label is None:
        label = next(iter(prediction.scores))
    if label not in task.labels:
        raise SettingError(
            f"the model has no label {label!r}", remedy=f"Its labels are {quoted(task.labels)}."
        )
    place = task.labels.index(label)
    if task.kind == "multi":
        return _Target(label, "log-odds", lambda outputs: outputs[:, place])
    return _Target(label, "log-odds", lambda outputs: _log_odds(outputs, [place]))


def _entity_target(
    task: Any, prediction: Any, outputs: np.ndarray, label: str | None, entity: int | None
) -> _Target:
    """That the words of an entity are of its type, the mean over them."""
    _refuse(label=label)
    found = entities_of_tags(prediction.tags)
    if not 0 <= (number := entity or 0) < len(found):
        raise SettingError(
            f"entity {number} is asked for, and the model finds {len(found)} here",
            remedy="Count from 0." if found else "Give a text in which it finds one.",
        )
    first, end, kind = found[number]
    places = [task.labels.index(f"{letter}-{kind}") for letter in "BI"]
    return _Target(
        f"{prediction.entities[number].text} ({kind})",
        "log-odds",
        lambda outputs: _log_odds(outputs[:, first:end], places).mean(1),
    )


def _answer_target(
    task: Any, prediction: Any, outputs: np.ndarray, label: str | None, entity: int | None
) -> _Target:
    """Start and end logit of the answer together, in the window where they are highest."""
    _refuse(label=label, entity=entity)
    if not prediction.answer:
        raise SettingError(
            "the model finds no answer here, so there is none to explain",
            remedy="Ask what the context answers.",
        )
    start, end, char_start, char_end = np.moveaxis(outputs, -1, 0)
    _, window, first, last = max(
        (start[window, first] + end[window, last], window, first, last)
        for window in range(len(outputs))
        for first in np.flatnonzero(char_start[window] == prediction.start)
        for last in np.flatnonzero(char_end[window] == prediction.end)
    )
    return _Target(
        prediction.answer,
        "logits",
        lambda outputs: outputs[:, window, first, 0] + outputs[:, window, last, 1],
    )


_TARGETS: Mapping[str, Callable[..., _Target]] = {
    "classification": _label_target,
    "ner": _entity_target,
    "qa": _answer_target,
}
EXPLAINED = tuple(_TARGETS)
"""Names of the tasks whose answers can be explained."""


def _refuse(**options: Any) -> None:
    for name, value in options.items():
        if value is not None:
            raise SettingError(f"{name} means nothing to this model", remedy="Leave it out.")


def _log_odds(logits: Any, places: list[int]) -> Any:
    """Log-odds of some of the classes together, from logits (..., classes)."""
    others = [place for place in range(logits.shape[-1]) if place not in places]
    return _log_sum(logits[..., places]) - _log_sum(logits[..., others])


def _log_sum(logits: Any) -> Any:
    if isinstance(logits, np.ndarray):
        return np.logaddexp.reduce(logits, axis=-1)
    return logits.logsumexp(-1)


# Occlusion


def _occlude(
    predictor: Answering, row: WordedRow, score: Callable[[Any], Any], batch_size: int
) -> HiddenScores:
    """By how much the output falls where a word is hidden."""
    if len(row.seen) > _MOST_WORDS:
        raise DataError(
            f"the row has {len(row.seen):,} words, and {_MOST_WORDS:,} at most are hidden one "
            "after the other",
            remedy="Give a part of it.",
        )
    # The row as it is, with all words hidden, and with each of them.
    features = row.copies(2 + len(row.seen))
    ids = features.tokens["input_ids"].reshape(2 + len(row.seen), -1)
    ids[1, row.owners >= 0] = row.hidden_id
    for variant, word in enumerate(row.seen, start=2):
        ids[variant, row.owners == word] = row.hidden_id
    found = np.empty(len(ids))
    for numbers, outputs, _ in predictor.run(features, batch_size):
        found[numbers] = score(np.asarray(outputs, dtype=np.float64))
    scores = np.zeros(len(row.words))
    scores[row.seen] = found[0] - found[2:]
    return HiddenScores(scores, float(found[0]), float(found[1]), None)
