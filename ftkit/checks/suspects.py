"""Labels that a trained model does not believe: rows to look at again, the least likely first.

Classification and NER by confident learning (Northcutt et al. 2021, "Confident Learning:
Estimating Uncertainty in Dataset Labels") through cleanlab; numbers and answers by the loss alone.
Only rows that the model was not trained on are judged: it believes those that it was. Imports
`finding` and `inference`; the command line calls it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from ftkit.checks.finding import SplitRows
from ftkit.errors import DataError, SettingError, printable
from ftkit.features import prepare_rows
from ftkit.inference.predictor import Predictor, slice_columns
from ftkit.spans import join_words, split_words

_SLICE = 4096
_WORST = 0.02  # share of the rows that is listed where there is a loss alone
_SHOWN = 10


@dataclass(frozen=True)
class Suspect:
    """A row, or a word of one, whose label may be wrong."""

    split: str
    row: int
    """In the user's own data, from 1."""
    given: str
    suggested: str
    score: float
    """The model's probability of what was given; where there is a loss alone, minus that."""
    text: str
    word: str = ""
    """NER: the word whose tag it is."""


@dataclass(frozen=True)
class Suspects:
    """The rows to look at again, the most suspicious first; printed, the first of them."""

    rows: int
    """That were judged."""
    method: str
    found: tuple[Suspect, ...]

    def __str__(self) -> str:
        lines = [f"{len(self.found):,} of {self.rows:,} rows to look at again, by {self.method}"]
        for each in self.found[:_SHOWN]:
            what = f'"{each.word}" ' if each.word else ""
            lines += [
                f"  {each.split} row {each.row:,}: {what}given {each.given}, "
                f"suggested {each.suggested} ({each.score:.3f})",
                f"    {each.text}",
            ]
        lines = [printable(line) for line in lines]
        if len(self.found) > _SHOWN:
            lines.append(f"  and {len(self.found) - _SHOWN:,} more")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """A plain dict, ready for JSON."""
        return {**asdict(self), "found": [asdict(each) for each in self.found]}

    def write(self, file: str | Path) -> None:
        """Write a csv file, a suspect a row."""
        with Path(file).open("w", newline="", encoding="utf-8") as opened:
            writer = csv.writer(opened)
            names = [field.name for field in fields(Suspect)]
            writer.writerow(names)
            writer.writerows([getattr(each, name) for name in names] for each in self.found)


def find_suspects(
    model: Predictor, splits: Mapping[str, SplitRows], *, batch_size: int = 32
) -> Suspects:
    """The suspects among the splits but train, which the model has learnt.

    Raises DataError where there is no other split, SettingError for a model that writes texts or
    has no labels.
    """
    task = model.task
    if task.generates or task.packs:
        raise SettingError(
            f"a model for {task.name} has no labels to doubt",
            remedy="Read the worst cases of its report instead.",
        )
    held_out = [rows for split, rows in splits.items() if split != "train"]
    if not held_out:
        raise DataError(
            "there is no split that the model was not trained on",
            remedy="Bring a validation or a test split.",
        )
    judge = {"classification": _judge_labels, "ner": _judge_tags}.get(task.name, _judge_losses)
    if task.name == "classification" and getattr(task, "kind", "") == "regression":
        judge = _judge_losses
    outputs = [row for rows in held_out for row in _outputs(model, rows, batch_size)]
    method, found = judge(model, outputs)
    return Suspects(len(outputs), method, tuple(sorted(found, key=lambda each: each.score)))


@dataclass(frozen=True)
class _Judged:
    """A row with what the model makes of it."""

    rows: SplitRows
    place: int
    outputs: np.ndarray
    target: np.ndarray

    def suspect(self, given: str, suggested: str, score: float, word: str = "") -> Suspect:
        example = self.rows.example(self.place)
        return Suspect(
            example.split, example.row, given, suggested, round(score, 6), example.text, word
        )


def _outputs(model: Predictor, rows: SplitRows, batch_size: int) -> Iterator[_Judged]:
    """Each row with its outputs and target, in the order of the rows."""
    for start in range(0, len(rows), _SLICE):
        part = slice_columns(rows.rows, start, start + _SLICE)
        try:
            features = prepare_rows(part, model.task, model.tokenizer, model.limit)
        except DataError as error:
            raise error.located(
                split=rows.origin, row=error.row and int(rows.numbers[start + error.row - 1])
            ) from None
        found: dict[int, _Judged] = {}
        for numbers, outputs, targets in model.run(features, batch_size):
            for i, number in enumerate(numbers):
                found[number] = _Judged(rows, start + number, outputs[i : i + 1], targets[i])
        yield from (found[number] for number in sorted(found))


def _judge_labels(model: Predictor, judged: list[_Judged]) -> tuple[str, list[Suspect]]:
    from cleanlab.filter import find_label_issues

    names = np.array(model.task.head().labels)
    scores = np.concatenate([model.task.scores(each.outputs) for each in judged])
    targets = np.stack([each.target for each in judged])
    found = []
    if targets.ndim == 1:
        places = find_label_issues(
            targets, scores, return_indices_ranked_by="self_confidence", n_jobs=1
        )
        for place in places:
            given = int(targets[place])
            found.append(
                judged[place].suspect(
                    names[given], names[scores[place].argmax()], float(scores[place, given])
                )
            )
        return "confident learning", found
    is_doubted = np.zeros(len(targets), dtype=bool)
    for has, score in zip(targets.T.astype(int), scores.T, strict=True):
        # cleanlab's own way with several labels, which fails for one that all rows have, or none.
        if has.min() < has.max():
            is_doubted |= find_label_issues(has, np.stack([1 - score, score], -1), n_jobs=1)
    decided = model.task.decide(scores)
    for place in np.flatnonzero(is_doubted):
        told, wanted = targets[place].astype(bool), decided[place].astype(bool)
        likely = np.where(told, scores[place], 1 - scores[place]).min()
        old, new = (", ".join(names[each]) or "none" for each in (told, wanted))
        found.append(judged[place].suspect(old, new, float(likely)))
    return "confident learning, label by label", found


def _judge_tags(model: Predictor, judged: list[_Judged]) -> tuple[str, list[Suspect]]:
    from cleanlab.token_classification.filter import find_label_issues

    names = model.task.head().labels
    spoken, scores, targets, kept = [], [], [], []
    for each in judged:
        row = slice_columns(each.rows.rows, each.place, each.place + 1)
        if "tokens" in row:
            text, spans = join_words(row["tokens"][0])
        else:
            text = row["text"][0]
            spans = split_words(text)
        if not spans:
            continue
        kept.append(each)
        spoken.append([text[start:end] for start, end in spans])
        probabilities = model.task.scores(each.outputs)[0, : len(spans)]
        scores.append(probabilities / probabilities.sum(-1, keepdims=True))
        targets.append(each.target[: len(spans)].tolist())
    found = []
    for place, word in find_label_issues(targets, scores, n_jobs=1):
        given = targets[place][word]
        found.append(
            kept[place].suspect(
                names[given],
                names[int(scores[place][word].argmax())],
                float(scores[place][word][given]),
                spoken[place][word],
            )
        )
    return "confident learning, word by word", found


def _judge_losses(model: Predictor, judged: list[_Judged]) -> tuple[str, list[Suspect]]:
    """No probability of the given target is at hand: the rows with the highest loss."""
    import torch

    losses, told = [], []
    for each in judged:
        outputs, target = torch.from_numpy(each.outputs), torch.from_numpy(each.target[None])
        losses.append(float(model.task.loss(outputs, target, "none").flatten()[0]))
    order = np.argsort(losses, kind="stable")[::-1][: max(1, round(_WORST * len(losses)))]
    for place in order:
        each = judged[int(place)]
        columns = slice_columns(each.rows.rows, each.place, each.place + 1)
        row = {name: values[0] for name, values in columns.items()}
        (answer,) = model.task.decode(each.outputs, [row], model.tokenizer)
        plain = answer.to_dict()
        given = [row[name] for name in ("answers", "answer", "label") if row.get(name) is not None]
        suggested = plain.get("answer", plain.get("value", ""))
        told.append(each.suspect(str(given[0] if given else ""), str(suggested), -losses[place]))
    return f"their loss alone, the highest {_WORST:.0%}", told
