"""A Learner -> the report of its training; see `ftkit.reports`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ftkit.errors import SettingError
from ftkit.learner.describe import package_versions
from ftkit.learner.learner import TextLearner
from ftkit.learner.save import count_truncated, describe_settings, predictor, trained_task
from ftkit.model.groups import describe_groups
from ftkit.reports.report import Report, make_report
from ftkit.reports.rows import Answers, entities_of, evaluate_rows
from ftkit.reports.training import TrainingFacts

_MOST_COUNTED = 50_000  # rows of train whose entities are counted


def report(
    learn: TextLearner, data: Any = None, *, resamples: int = 1000, explain_seconds: float = 5.0
) -> Report:
    """How good the Learner's model is on validation rows, and where it fails: one page.

    In a notebook it shows itself; `ftkit.report(learn).save("report.html")` writes it. `data`,
    a DatasetDict as `ftkit.load_data` gives, has it evaluate the test split too. `resamples` are
    those of the intervals; the worst mistakes are explained for `explain_seconds`.

    Raises SettingError where `data` is no DatasetDict, or has neither a validation nor a test
    split; DataError for rows that cannot be scored.
    """
    answers = predictor(learn)
    if data is None:
        splits = {"validation": learn.dls.valid.dataset.items.rows}
    else:
        if not isinstance(data, Mapping):
            raise SettingError(
                f"the data is of type {type(data).__name__}",
                remedy="Give the DatasetDict that ftkit.load_data returned.",
            )
        splits = {name: data[name] for name in ("validation", "test") if name in data}
        if not splits:
            raise SettingError(
                f"the data has the splits {list(data)}",
                remedy='Give it a split called "validation" or "test".',
            )
    evaluated = [
        evaluate_rows(answers, rows, split, resamples=resamples) for split, rows in splits.items()
    ]
    return report_of(learn, evaluated, explain_seconds=explain_seconds)


def report_of(
    learn: TextLearner,
    evaluated: Sequence[Answers],
    *,
    check: Mapping[str, Any] | None = None,
    settings: Mapping[str, object] | None = None,
    explain_seconds: float = 5.0,
) -> Report:
    """The report on rows that were evaluated already; `settings` are told beside the Learner's."""
    task = trained_task(learn)
    parts = {"train": learn.dls.train.dataset, "validation": learn.dls.valid.dataset}
    rows = {split: len(part) for split, part in parts.items()}
    rows |= {each.split: each.evaluation.rows for each in evaluated}
    groups = learn.splitter(learn.model)
    facts = TrainingFacts(
        task=task.name,
        checkpoint=learn.checkpoint,
        rows=rows,
        settings={
            **describe_settings(learn),
            "parameters": f"{sum(p.numel() for p in learn.model.parameters()):,}",
            **(settings or {}),
        },
        versions=package_versions(),
        epochs=learn.history.rows,
        points=learn.curves.points,
        groups=describe_groups(learn.model.hf_model, groups),
        truncated=count_truncated(learn),
        train_counts=_train_counts(learn),
    )
    return make_report(
        facts, evaluated, predictor(learn), check=check, explain_seconds=explain_seconds
    )


def _train_counts(learn: TextLearner) -> dict[str, int]:
    """How often train has each label or type of entity."""
    task: Any = trained_task(learn)
    dataset = learn.dls.train.dataset
    if task.name == "classification" and task.kind != "regression":
        shares = zip(task.labels, task.label_share, strict=False)
        return {label: round(share * len(dataset)) for label, share in shares}
    if task.name != "ner" or dataset.read is not None:
        return {}
    items = dataset.items
    counts: Counter[str] = Counter()
    for number in range(min(len(items), _MOST_COUNTED)):
        counts.update(label for _, _, label in entities_of(items[number], number))
    return dict(counts)
