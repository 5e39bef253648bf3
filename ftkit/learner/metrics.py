"""A task's metrics as fastai Metrics: gathered once, shown under each name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ftkit._fastai import Metric
from ftkit.task import Metrics, Task


class TaskScores:
    """The scores of one pass over rows, shared by the metrics that show them.

    A pass over the Learner's own validation rows also decides what the task leaves to them, such
    as a threshold.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.trained_task = task
        """The task with what the last pass over the validation rows chose."""
        self.metrics: Metrics = task.metrics(choose=True)
        self._computed: dict[str, float] | None = None
        self._decides = False

    def reset(self) -> None:
        """Start a pass."""
        self.metrics, self._computed = self.task.metrics(choose=True), None

    def add(self, learn: Any) -> None:
        """Take in the Learner's batch."""
        self.metrics.add(learn.pred, learn.y)
        self._computed = None
        # Not so for rows at hand, whose labels may be made up, as in `learn.predict`.
        self._decides = learn.dl is learn.dls.valid

    def values(self) -> dict[str, float]:
        """The scores of the pass."""
        if self._computed is None:
            self._computed = self.metrics.compute()
            if self._decides:
                chosen = self.metrics.chosen()
                self.trained_task = replace(self.task, **chosen)  # type: ignore[type-var]
        return self._computed


class TaskMetric(Metric):
    """One score of a task, under its own name."""

    def __init__(self, scores: TaskScores, name: str, *, leads: bool) -> None:
        """The metric that `leads` gathers for all that share `scores`."""
        self._scores, self._name, self._leads = scores, name, leads

    def reset(self) -> None:
        """Start a pass."""
        if self._leads:
            self._scores.reset()

    def accumulate(self, learn: Any) -> None:
        """Take in the Learner's batch."""
        if self._leads:
            self._scores.add(learn)

    @property
    def value(self) -> float:
        """The score of the pass so far."""
        return self._scores.values()[self._name]

    @property
    def name(self) -> str:
        """The score's name."""
        return self._name


def task_metrics(scores: TaskScores) -> list[TaskMetric]:
    """The task's scores as fastai metrics."""
    names = scores.task.metric_names
    return [TaskMetric(scores, name, leads=i == 0) for i, name in enumerate(names)]
