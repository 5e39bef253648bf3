"""The sections on what a model answered: right and wrong, how sure, and where; see `mistakes`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ftkit.arrays import sigmoid, softmax
from ftkit.inference.predictor import Predictor
from ftkit.marks import cut
from ftkit.reports import figures
from ftkit.reports.bins import Lot, by_name, by_number
from ftkit.reports.mistakes import mistakes
from ftkit.reports.page import Section, details, figure, grid, table, text
from ftkit.reports.rows import Answered, Answers, Entity, entities_of, found_entities
from ftkit.scores.calibration import answers_of, best_temperature, reliability
from ftkit.targets.answers import read_answers
from ftkit.tasks.classification import Classification
from ftkit.tasks.ner import read_words

_MOST_LABELS = 25  # of a confusion matrix that can be read
_MOST_BARS = 30
_QUESTION_WORDS = ("what", "who", "when", "where", "why", "how", "which")
_MOST_LISTED = 1000  # labels in a table


def answer_sections(
    evaluated: Sequence[Answers],
    predictor: Predictor,
    *,
    train_counts: Mapping[str, int],
    explain_seconds: float,
) -> list[Section]:
    """Sections on the last split that was evaluated; a temperature is chosen on the first."""
    answers = evaluated[-1]
    if not answers.rows:
        return []
    sections = [_right_and_wrong(answers), _calibration(evaluated), _where(answers, train_counts)]
    sections.append(mistakes(answers, predictor, explain_seconds))
    return [section for section in sections if section.parts]


# Right and wrong


def _right_and_wrong(answers: Answers) -> Section:
    section = Section("Right and wrong")
    rows, task = answers.rows, answers.task
    if isinstance(task, Classification) and task.kind == "regression":
        section.add(_predicted_values(rows))
    elif isinstance(task, Classification) and task.kind == "single":
        section.add(*_confusion(answers))
    elif task.name == "ner":
        section.add(*_entity_errors(rows))
    elif task.generates:
        section.add(*_written(answers))
    else:
        section.add(_spread(answers))
    section.add(_by_label(answers.evaluation.per_label))
    return section


def _predicted_values(rows: Sequence[Answered]) -> str:
    wanted = [float(each.row["label"]) for each in rows]
    found = [each.prediction.value for each in rows]
    alt = f"Predicted over labelled numbers of {len(rows):,} rows."
    drawn = figures.points(wanted, found, alt, x="labelled", y="predicted", is_diagonal=True)
    return figure(drawn, "On the broken line the prediction is the label.")


def _confusion(answers: Answers) -> list[str]:
    task: Any = answers.task
    place = {label: i for i, label in enumerate(task.labels)}
    counts = np.zeros((len(place), len(place)), dtype=np.int64)
    for each in answers.rows:
        counts[place[each.wanted], place[each.found]] += 1
    wrong = [
        (int(counts[i, j]), task.labels[i], task.labels[j])
        for i, j in zip(*counts.nonzero(), strict=True)
        if i != j
    ]
    wrong.sort(key=lambda each: -each[0])
    listed = [
        {"labelled": wanted, "answered": found, "rows": count} for count, wanted, found in wrong
    ]
    most = table(listed[:15], "The most frequent mistakes" if listed else "")
    if not listed:
        most = text("Every row got its label.")
    if len(place) > _MOST_LABELS:
        return [most]
    alt = "Confusion matrix. " + (
        f"Most often {wrong[0][1]} was answered as {wrong[0][2]}, {wrong[0][0]} times."
        if wrong
        else "All counts stand on the diagonal."
    )
    drawn = figure(
        figures.matrix(counts, task.labels, alt),
        f"Labels down, answers across; {len(answers.rows):,} rows. "
        "Shades are shares of a label's rows.",
    )
    return [grid(drawn, f"<div>{most}</div>")]


def _by_label(per_label: Mapping[str, Mapping[str, float]]) -> str:
    met = {name: each for name, each in per_label.items() if each["support"]}
    if not met:
        return ""
    ranked = sorted(met, key=lambda name: met[name]["f1"])
    shown = ranked[:_MOST_BARS]
    notes = [f"{met[name]['f1']:.2f} of {met[name]['support']:,}" for name in shown]
    alt = f"F1 by label, the lowest first: {_listed(shown, met)}."
    drawn = figures.bars({name: met[name]["f1"] for name in shown}, alt, x="F1", notes=notes)
    lowest = (
        f"the {len(shown)} lowest of {len(ranked):,} labels" if len(ranked) > len(shown) else ""
    )
    whole = [
        {"label": name, **{k: _number(v) for k, v in met[name].items()}}
        for name in list(met)[:_MOST_LISTED]
    ]
    return (
        "<h3>By label</h3>"
        + figure(drawn, f"F1 and number of labelled rows{': ' + lowest if lowest else ''}.")
        + details(f"Precision and recall of {len(whole):,} labels", table(whole))
    )


def _number(value: float) -> float | int:
    return int(value) if float(value).is_integer() and value > 1 else float(value)


def _listed(names: Sequence[str], met: Mapping[str, Mapping[str, float]]) -> str:
    return ", ".join(f"{name} {met[name]['f1']:.2f}" for name in names[:5])


def error_kinds(wanted: Sequence[Entity], found: Sequence[Entity]) -> list[tuple[str, Entity]]:
    """What is wrong with entities: each that was wanted and not found as it is, and each found
    where there is none.

    "type": right words, wrong type; "boundary": right type, other words that overlap; "type and
    boundary": both; "missed": nothing overlaps; "invented": found, and nothing wanted overlaps.
    """
    kinds: list[tuple[str, Entity]] = []
    exact = set(found)
    for entity in wanted:
        if entity in exact:
            continue
        near = [each for each in found if each[0] < entity[1] and entity[0] < each[1]]
        if any(each[:2] == entity[:2] for each in near):
            kind = "type"
        elif any(each[2] == entity[2] for each in near):
            kind = "boundary"
        else:
            kind = "type and boundary" if near else "missed"
        kinds.append((kind, entity))
    for entity in found:
        if not any(each[0] < entity[1] and entity[0] < each[1] for each in wanted):
            kinds.append(("invented", entity))
    return kinds


def _entity_errors(rows: Sequence[Answered]) -> list[str]:
    counts: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    total = 0
    for each in rows:
        wanted, found = entities_of(each.row, each.number), found_entities(each.prediction)
        total += len(wanted)
        content, _ = read_words(each.row)
        for kind, (start, end, label) in error_kinds(wanted, found):
            counts[kind] += 1
            examples.setdefault(kind, []).append(
                f"{content[start:end]} ({label}), row {each.number + 1}"
            )
    if not counts:
        return [text(f"All {total:,} entities were found, and no other.")]
    named = dict(counts.most_common())
    alt = f"Of {total:,} entities: " + ", ".join(f"{n:,} {kind}" for kind, n in named.items()) + "."
    drawn = figures.bars(
        named,
        alt,
        x="entities",
        notes=[f"{count:,}" for count in named.values()],
        most=max(named.values()),
    )
    listed = [
        {"error": kind, "entities": named[kind], "such as": "; ".join(examples[kind][:3])}
        for kind in named
    ]
    return [
        grid(
            figure(
                drawn,
                f"What is wrong, of {total:,} entities. Type: right words, wrong type. Boundary: "
                "right type, other words.",
            ),
            table(listed, "Examples"),
        )
    ]


def _spread(answers: Answers) -> str:
    scores = [each.score for each in answers.rows]
    counts, edges = np.histogram(scores, bins=10, range=(0, 1))
    mean = float(np.mean(scores))
    alt = f"{answers.score_name} of {len(scores):,} rows; the mean is {mean:.2f}."
    drawn = figures.columns(
        edges.tolist(), counts.tolist(), alt, x=answers.score_name, y="rows", marks={"mean": mean}
    )
    return figure(drawn, f"How {answers.score_name} is spread over the rows.")


def _written(answers: Answers) -> list[str]:
    ranked = sorted(answers.rows, key=lambda each: each.score)
    places = {"best": ranked[-3:][::-1], "middle": _middle(ranked, 3), "worst": ranked[:3]}
    parts = [_spread(answers)]
    for name, chosen in places.items():
        listed = [
            {
                answers.score_name: each.score,
                "row": each.number + 1,
                "written by a person": each.wanted,
                "by the model": each.found,
                "of": cut(each.text, 240),
            }
            for each in chosen
        ]
        parts.append(table(listed, f"The {name} by {answers.score_name}"))
    return parts


def _middle(ranked: Sequence[Answered], count: int) -> Sequence[Answered]:
    start = max(0, len(ranked) // 2 - count // 2)
    return ranked[start : start + count]


# How sure


def _calibration(evaluated: Sequence[Answers]) -> Section:
    section = Section("How sure it is")
    answers, chosen_on = evaluated[-1], evaluated[0]
    if answers.logits is None or answers.targets is None:
        return section
    to_scores = softmax if answers.targets.ndim == 1 else sigmoid
    found = reliability(*answers_of(to_scores(answers.logits), answers.targets))
    alt = (
        f"Reliability diagram. Expected calibration error {found.error:.3f}; the model is "
        f"{'surer than it is right' if _is_too_sure(found) else 'no surer than it is right'}."
    )
    drawn = figures.reliability(found.confidence, found.accuracy, found.counts, alt)
    said = (
        "Bars: how often answers of that certainty are right. Diamonds: how sure the model was. "
        "Where a bar ends below its diamond, the model promises too much."
    )
    section.add(figure(drawn, said))
    if chosen_on.logits is None or chosen_on.targets is None:
        return section
    temperature = best_temperature(chosen_on.logits, chosen_on.targets)
    mended = reliability(*answers_of(to_scores(answers.logits / temperature), answers.targets))
    said = (
        f"The expected calibration error (ECE, {len(found.counts)} bins) on {answers.split} is "
        f"{found.error:.4f}. Dividing the logits by a temperature chosen on {chosen_on.split}, "
        f"{temperature:.2f}, "
    )
    if mended.error < found.error:
        said += (
            f"makes it {mended.error:.4f} and changes no label: ftkit.calibrate(learn) before "
            "ftkit.save, or ftkit train --calibrate, puts it into the model."
        )
    else:
        said += f"does not mend it ({mended.error:.4f})."
    section.add(text(said))
    return section


def _is_too_sure(found: Any) -> bool:
    return bool((found.counts * (found.confidence - found.accuracy)).sum() > 0)


# Where


def _where(answers: Answers, train_counts: Mapping[str, int]) -> Section:
    section = Section("Where it is better and worse")
    task: Any = answers.task
    if getattr(task, "kind", "") == "regression":
        return section
    rows, name = answers.rows, answers.score_name
    scores = [each.score for each in rows]
    lots = by_number([each.words for each in rows], scores)
    parts = [_lots(lots, name, "words in the row", is_joined=True)]
    if task.name == "qa":
        questions = by_name([_question_word(each.row["question"]) for each in rows], scores)
        parts.append(_lots(questions, name, "question word"))
        golds = [read_answers(each.row).texts for each in rows]
        answered = [
            (len(gold[0].split()), score) for gold, score in zip(golds, scores, strict=True) if gold
        ]
        by_length = by_number([words for words, _ in answered], [score for _, score in answered])
        parts.append(_lots(by_length, name, "words in the gold answer", is_joined=True))
        if len(answered) < len(rows):
            names = ["answer" if gold else "no answer" for gold in golds]
            parts.append(_lots(by_name(names, scores), name, "the gold answer"))
    parts.append(_by_frequency(answers.evaluation.per_label, train_counts))
    section.add(grid(*parts))
    return section


def _lots(lots: Sequence[Lot], score: str, what: str, *, is_joined: bool = False) -> str:
    if len(lots) < 2:
        return ""
    alt = f"Mean {score} by {what}: " + ", ".join(
        f"{lot.name} {lot.mean:.2f} ({lot.count:,} rows)" for lot in lots
    )
    drawn = figures.dots(
        [lot.name for lot in lots],
        [lot.mean for lot in lots],
        [lot.margin for lot in lots],
        alt + ".",
        x=what,
        y=f"mean {score}",
        is_joined=is_joined,
    )
    counts = ", ".join(f"{lot.count:,}" for lot in lots)
    return figure(drawn, f"Mean {score} with 95 % intervals; rows from left to right: {counts}.")


def _by_frequency(
    per_label: Mapping[str, Mapping[str, float]], train_counts: Mapping[str, int]
) -> str:
    met = [
        name for name in per_label if per_label[name]["support"] and train_counts.get(name, 0) > 0
    ]
    if len(met) < 3:
        return ""
    counts = [train_counts[name] for name in met]
    f1 = [per_label[name]["f1"] for name in met]
    lowest = set(np.argsort(f1)[:5].tolist())
    names = [name if i in lowest else "" for i, name in enumerate(met)]
    alt = f"F1 of {len(met)} labels over their number in train; lowest: {_listed(met, per_label)}."
    drawn = figures.points(
        counts,
        f1,
        alt,
        x="of the label in train",
        y="F1",
        names=names,
        is_log=max(counts) > 10 * min(counts),
    )
    return figure(drawn, "F1 of each label over how often train has it; the lowest five are named.")


def _question_word(question: str) -> str:
    words = (word.strip("?,.!\"'").lower() for word in question.split())
    return next((word for word in words if word in _QUESTION_WORDS), "other")
