"""The sections on the training: what was trained on what, the scores, the curves, the rates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ftkit.reports import figures
from ftkit.reports.figures import Line
from ftkit.reports.page import Section, cards, details, facts, figure, grid, number, table, text
from ftkit.reports.rows import Answers
from ftkit.task import falls

_RATE_POINTS = 200  # of a schedule, which is smooth
_NO_SCORES = ("epoch", "lr", "train_loss", "valid_loss", "seconds")


@dataclass(frozen=True)
class TrainingFacts:
    """What the page tells of a training; plain data."""

    task: str
    checkpoint: str
    rows: Mapping[str, int]
    """By split."""
    settings: Mapping[str, object]
    versions: Mapping[str, str]
    epochs: Sequence[Mapping[str, float]] = ()
    """A dict an epoch: epoch, lr, losses, scores, seconds."""
    points: Sequence[Mapping[str, Any]] = ()
    """Points of the course: batch, loss, rates (groups,)."""
    groups: Sequence[str] = ()
    """What each group of layers holds."""
    truncated: Mapping[str, int] = field(default_factory=dict)
    """Rows of each split of which the model saw a part only."""
    train_counts: Mapping[str, int] = field(default_factory=dict)
    """How often train has each label."""


def headline(evaluated: Sequence[Answers]) -> str:
    """The main score of each split, large, with its interval."""
    shown = []
    for answers in evaluated:
        found = answers.evaluation
        name, value = next(iter(found.scores.items()))
        ends = found.intervals.get(name)
        interval = f"95 %: {ends[0]:.3f} to {ends[1]:.3f}; " if ends else ""
        shown.append(
            (f"{name} on {answers.split}", number(value), f"{interval}{found.rows:,} rows")
        )
    return cards(shown)


def training_sections(facts_: TrainingFacts, evaluated: Sequence[Answers]) -> list[Section]:
    """What was trained, how good it is, and how it got there."""
    sections = [_what(facts_), _scores(evaluated), _course(facts_)]
    return [section for section in sections if section.parts]


def _what(found: TrainingFacts) -> Section:
    section = Section("What was trained on what")
    rows = ", ".join(f"{count:,} {split}" for split, count in found.rows.items())
    section.add(
        facts({"task": found.task, "checkpoint": found.checkpoint, "rows": rows, **found.settings})
    )
    for split, count in found.truncated.items():
        if count:
            section.add(
                text(f"Of {count:,} rows of {split} the model saw a part only: they were too long.")
            )
    versions = table([{"package": name, "version": each} for name, each in found.versions.items()])
    section.add(details("Versions", versions))
    return section


def _scores(evaluated: Sequence[Answers]) -> Section:
    section = Section("Scores")
    names = list(dict.fromkeys(name for each in evaluated for name in each.evaluation.scores))
    listed = []
    for name in names:
        row: dict[str, object] = {"score": name}
        for answers in evaluated:
            found = answers.evaluation
            row[answers.split] = found.scores.get(name, math.nan)
            ends = found.intervals.get(name)
            row[f"95 % ({answers.split})"] = f"{ends[0]:.3f} to {ends[1]:.3f}" if ends else ""
        listed.append(row)
    section.add(table(listed))
    if any(each.evaluation.intervals for each in evaluated):
        section.add(
            text(
                "Intervals by the bootstrap over rows: they hold the chance of which rows were "
                "drawn, not that of the training's seed.",
                "soft",
            )
        )
    return section


def _course(found: TrainingFacts) -> Section:
    section = Section("How it was trained")
    section.add(grid(_losses(found), _metrics(found), _rates(found)))
    if found.epochs:
        listed = [
            {name: int(v) if name == "epoch" else _shown(v) for name, v in row.items()}
            for row in found.epochs
        ]
        section.add(details("Every epoch", table(listed)))
    return section


def _shown(value: float) -> object:
    if math.isnan(value):
        return ""
    return f"{value:.2g}" if 0 < abs(value) < 0.01 else float(value)


def _losses(found: TrainingFacts) -> str:
    points = [each for each in found.points if math.isfinite(each["loss"])]
    if not points:
        return ""
    series = [Line("train", [each["batch"] for each in points], [each["loss"] for each in points])]
    valid = [row.get("valid_loss", math.nan) for row in found.epochs]
    if any(math.isfinite(each) for each in valid):
        series.append(Line("validation", _ends(found), valid, is_dotted=True))
    alt = f"The training loss goes from {series[0].y[0]:.3f} to {series[0].y[-1]:.3f}" + (
        f", that on validation from {valid[0]:.3f} to {valid[-1]:.3f}." if len(series) > 1 else "."
    )
    drawn = figures.lines(series, alt, x="batch", y="loss")
    return figure(drawn, "Loss: of train smoothed over batches, of validation after each epoch.")


def _ends(found: TrainingFacts) -> list[float]:
    """The batch at which each epoch ended; epochs of one training have as many batches."""
    last = found.points[-1]["batch"]
    return [last * (i + 1) / len(found.epochs) for i in range(len(found.epochs))]


def _metrics(found: TrainingFacts) -> str:
    names = [
        name
        for name in (found.epochs[-1] if found.epochs else ())
        if name not in _NO_SCORES and not falls(name)
    ]
    epochs = [row["epoch"] for row in found.epochs]
    series = []
    for name in names[:4]:
        values = [row.get(name, math.nan) for row in found.epochs]
        if any(math.isfinite(each) and -1 <= each <= 1 for each in values):
            series.append(Line(name, epochs, values, is_dotted=True))
    if not series:
        return ""
    alt = "Validation scores after the last epoch: " + ", ".join(
        f"{line.name} {line.y[-1]:.3f}" for line in series
    )
    drawn = figures.lines(series, alt + ".", x="epoch", y="score")
    return figure(drawn, "Scores on validation after each epoch.")


def _rates(found: TrainingFacts) -> str:
    points = [each for each in found.points if len(each["rates"]) == len(found.groups)]
    points = points[:: max(1, len(points) // _RATE_POINTS)]
    if not points:
        return ""
    batches = [each["batch"] for each in points]
    alike: dict[tuple[float, ...], list[int]] = {}
    for i in range(len(found.groups)):
        alike.setdefault(tuple(max(each["rates"][i], 1e-12) for each in points), []).append(i)
    series = [Line(_group(found.groups, members), batches, y) for y, members in alike.items()]
    peaks = [max(line.y) for line in series]
    alt = "Learning rate of each group of layers; the highest: " + ", ".join(
        f"{line.name} {peak:.1e}" for line, peak in zip(series, peaks, strict=True)
    )
    drawn = figures.lines(
        series, alt + ".", x="batch", y="learning rate", is_log=True, limits=_visible(peaks)
    )
    return figure(drawn, "Learning rates of the groups of layers, from the embeddings to the head.")


def _group(names: Sequence[str], members: Sequence[int]) -> str:
    """The name of groups that are trained alike."""
    first, last = members[0], members[-1]
    return f"{first}: {names[first]}" if first == last else f"{first} to {last}"


def _visible(peaks: Sequence[float]) -> tuple[float, float]:
    """Where a schedule that ends at almost nothing can still be seen."""
    positive = [peak for peak in peaks if peak > 1e-12] or [1e-6]
    return min(positive) / 100, max(positive) * 2
