"""What a model answered to the rows of an evaluation, and how good each answer is.

Gathered while the model is scored, so that nothing is computed twice. A score of a row is
between 0 and 1 whatever the task, but for numbers, whose score is the error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ftkit.inference.predictor import Evaluation, Predictor
from ftkit.scores.answers import score_answer
from ftkit.scores.texts import chrf_score, references_of, rouge_scores
from ftkit.targets.answers import has_answers, read_answers
from ftkit.task import Rows, Task
from ftkit.tasks.classification import Classification, LabelPrediction
from ftkit.tasks.ner import EntitiesPrediction, read_words, wanted_entities
from ftkit.tasks.qa import AnswerPrediction

_MOST_ROWS = 20_000
_MOST_WRITTEN = 2_000  # rows whose texts are compared, which takes milliseconds each
_MOST_LOGITS = 20_000_000
# How a row's score is called.
_SCORE_NAMES = {"ner": "F1", "qa": "F1", "summarization": "ROUGE-L", "translation": "chrF"}

Entity = tuple[int, int, str]
"""Start and end in characters of the text, and the type."""


@dataclass(frozen=True)
class Answered:
    """A row, what is right for it, and what the model says."""

    number: int
    """From 0, in its split."""
    row: dict[str, Any]
    prediction: Any
    score: float
    """How good the answer is, from 0 to 1; of a number, how far it is off."""
    loss: float
    """What the worst rows have most of: surprise for labels, else what the score lacks."""
    wanted: str
    found: str
    words: int
    """Of the texts that the model reads, as spaces part them."""

    @property
    def text(self) -> str:
        """The text that it is about; "" where the row has words instead."""
        found = (self.row.get(name) for name in ("text", "source", "context"))
        return next((text for text in found if isinstance(text, str)), "")


@dataclass
class Answers:
    """The rows of a split as a model answered them."""

    task: Task
    split: str
    evaluation: Evaluation
    rows: list[Answered] = field(default_factory=list)
    """In the order of the split; the first 20,000 where there are more."""
    logits: np.ndarray | None = None
    """(rows, labels), and `targets` beside them, of a classifier."""
    targets: np.ndarray | None = None

    @property
    def score_name(self) -> str:
        """What the score of a row is."""
        if isinstance(self.task, Classification):
            kinds = {"single": "accuracy", "multi": "F1", "regression": "absolute error"}
            return kinds[self.task.kind]
        return _SCORE_NAMES[self.task.name]


def evaluate_rows(
    predictor: Predictor, rows: Any, split: str, *, batch_size: int = 32, resamples: int = 1000
) -> Answers:
    """Score the model on labelled rows, and keep what it answered to each."""
    task = predictor.task
    gathered = _Gathered(predictor)
    evaluation = predictor.evaluate(
        rows, batch_size=batch_size, resamples=resamples, watch=None if task.packs else gathered
    )
    return gathered.finished(split, evaluation)


class _Gathered:
    """Looks on at an evaluation."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor, self.task = predictor, predictor.task
        labels = len(getattr(self.task, "labels", ())) or 1
        self.most = min(
            _MOST_WRITTEN if self.task.generates else _MOST_ROWS, _MOST_LOGITS // labels
        )
        self.rows: list[Answered] = []
        self.numbers: list[np.ndarray] = []
        self.logits: list[np.ndarray] = []
        self.targets: list[np.ndarray] = []

    def __call__(
        self, numbers: np.ndarray, outputs: np.ndarray, targets: np.ndarray, rows: Rows
    ) -> None:
        """Take in a batch."""
        places = np.flatnonzero(numbers < self.most)
        if not len(places):
            return
        predictions = self.task.decode(outputs, rows, self.predictor.tokenizer)
        losses = None
        if isinstance(self.task, Classification) and self.task.kind != "regression":
            self.numbers.append(numbers[places])
            self.logits.append(outputs[places])
            self.targets.append(targets[places])
            losses = _surprise(self.task.scores(outputs), targets)
        for place in places.tolist():
            row = dict(rows[place])
            loss = None if losses is None else float(losses[place])
            answered = judge(self.task, int(numbers[place]), row, predictions[place], loss)
            if answered is not None:
                self.rows.append(answered)

    def finished(self, split: str, evaluation: Evaluation) -> Answers:
        """All rows in their order."""
        self.rows.sort(key=lambda each: each.number)
        answers = Answers(self.task, split, evaluation, self.rows)
        if self.logits:
            order = np.argsort(np.concatenate(self.numbers))
            answers.logits = np.concatenate(self.logits)[order]
            answers.targets = np.concatenate(self.targets)[order]
        return answers


def _surprise(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Minus the logarithm of the probability of what is right, (rows,): the least of a row's."""
    if targets.ndim == 1:
        right = scores[np.arange(len(targets)), targets]
    else:
        right = np.where(targets > 0, scores, 1 - scores).min(1)
    surprise: np.ndarray = -np.log(np.maximum(right, 1e-12))
    return surprise


def judge(
    task: Task, number: int, row: dict[str, Any], prediction: Any, loss: float | None = None
) -> Answered | None:
    """How good a prediction is; None for a row that does not say what is right."""
    texts = [row[each.name] for each in task.columns() if each.is_input and each.name in row]
    words = sum(len(text.split()) if isinstance(text, str) else len(text) for text in texts)
    found = _judged(task, number, row, prediction)
    if found is None:
        return None
    score, lacks, wanted, said = found
    return Answered(
        number, row, prediction, score, lacks if loss is None else loss, wanted, said, words
    )


def _judged(
    task: Task, number: int, row: Mapping[str, Any], prediction: Any
) -> tuple[float, float, str, str] | None:
    """The score and the loss, and what is right and what was said as texts.

    The loss is the error of a number, or the entities that are wrong; a wrong answer is the worse,
    the surer it is.
    """
    if isinstance(prediction, LabelPrediction):
        wanted = str(row["label"])
        score = float(prediction.label == wanted)
        return score, 1 - score, wanted, prediction.label
    if isinstance(prediction, EntitiesPrediction):
        right, said = entities_of(row, number), found_entities(prediction)
        shared = len(set(right) & set(said))
        score = 2 * shared / (len(right) + len(said)) if right or said else 1.0
        wrong = len(set(right) ^ set(said))
        return score, float(wrong), _named(row, right), _named(row, said)
    if isinstance(prediction, AnswerPrediction):
        if not has_answers(row):
            return None
        golds = read_answers(row).texts
        _, f1 = score_answer(prediction.answer, golds)
        return (
            f1,
            (1 - f1) * prediction.score,
            " / ".join(dict.fromkeys(golds)) or "(no answer)",
            prediction.answer or ("(no answer)"),
        )
    if isinstance(task, Classification):
        if task.kind == "regression":
            wanted_value, value = float(row["label"]), prediction.value
            error = abs(wanted_value - value)
            return error, error, f"{wanted_value:.4g}", f"{value:.4g}"
        names, chosen = [str(each) for each in row["label"]], list(prediction.labels)
        shared = len(set(names) & set(chosen))
        f1 = 2 * shared / (len(names) + len(chosen)) if names or chosen else 1.0
        return f1, 1 - f1, ", ".join(names) or "(none)", ", ".join(chosen) or "(none)"
    (text,) = prediction.to_dict().values()
    is_summary = task.name == "summarization"
    (references,) = references_of([row], "summary" if is_summary else "target")
    score = rouge_scores(text, references)[2] if is_summary else chrf_score(text, references)
    return score, 1 - score, references[0], text


def entities_of(row: Mapping[str, Any], number: int = 0) -> list[Entity]:
    """The entities that a row is labelled with."""
    _, words = read_words(row)
    return [
        (words[first][0], words[end - 1][1], label)
        for first, end, label in wanted_entities(row, number + 1, words)
    ]


def found_entities(prediction: EntitiesPrediction) -> list[Entity]:
    """The entities that a model found."""
    return [(each.start, each.end, each.label) for each in prediction.entities]


def _named(row: Mapping[str, Any], entities: list[Entity]) -> str:
    text, _ = read_words(row)
    return "; ".join(f"{text[start:end]} ({label})" for start, end, label in entities) or "(none)"
