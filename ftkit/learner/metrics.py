"""A task's metrics as fastai Metrics: gathered once, shown under each name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ftkit._fastai import Metric
from ftkit.learner.distributed import count, gather, share
from ftkit.task import Metrics, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TaskScores:
    """The scores of one pass over rows, shared by the metrics that show them.

    A pass over the Learner's own validation rows also decides what the task leaves to them, such
    as a threshold.
    """

    def __init__(self, task: Task, tokenizer: PreTrainedTokenizerBase) -> None:
        self.task, self.tokenizer = task, tokenizer
        self.trained_task = task
        """The task with what the last pass over the validation rows chose."""
        self.metrics: Metrics = task.metrics(tokenizer, choose=True)
        self._computed: dict[str, float] | None = None
        self._decides = False
        self._is_empty = True

    def _drawn(self, learn: Any, numbers: Tensor) -> Tensor:
        """Places of the rows of a batch that are generated for, which takes its time."""
        # Counted from the last epoch, so that it is always among them.
        left = getattr(learn, "n_epoch", 1) - 1 - getattr(learn, "epoch", 0)
        if left % getattr(self.task, "validate_every", 1) or hasattr(learn, "gather_preds"):
            return numbers[:0]
        most, total = getattr(self.task, "validate_rows", None), len(learn.dl.dataset)
        if most is None or most >= total:
            return torch.arange(len(numbers), device=numbers.device)
        drawn = torch.randperm(total, generator=torch.Generator().manual_seed(0))[:most]
        return torch.isin(numbers, drawn.to(numbers.device)).nonzero()[:, 0]

    @property
    def chosen(self) -> dict[str, Any]:
        """The options of the task that the last pass over the validation rows chose."""
        task: Any = self.task
        pairs = {each.name: getattr(self.trained_task, each.name) for each in fields(task)}
        return {name: value for name, value in pairs.items() if value != getattr(task, name)}

    def choose(self, options: Mapping[str, Any]) -> None:
        """Take options that an earlier pass chose."""
        self.trained_task = replace(self.task, **options)  # type: ignore[type-var]

    def reset(self) -> None:
        """Start a pass."""
        self._is_empty = True
        self.metrics, self._computed = self.task.metrics(self.tokenizer, choose=True), None

    def add(self, learn: Any) -> None:
        """Take in the Learner's batch."""
        (inputs,), outputs, targets = learn.xb, learn.pred, learn.y
        if self.task.generates:
            drawn = self._drawn(learn, inputs["row"])
            inputs = {name: values[drawn] for name, values in inputs.items()}
            targets = targets[drawn]
            outputs = learn.model.answer(inputs) if len(drawn) else outputs[:0]
        shares = [(outputs, targets, inputs["row"])]
        if learn.dl.n_shards > 1:
            shares = share(*shares[0], is_stand_in=learn.dl.is_stand_in)
        for outputs, targets, numbers in shares:
            if len(targets):
                self.metrics.add(outputs, targets, learn.dl.rows_of({"row": numbers}))
                self._is_empty = False
        self._computed = None
        # Not so for rows at hand, whose labels may be made up, as in `learn.predict`.
        self._decides = learn.dl is learn.dls.valid

    def values(self) -> dict[str, float]:
        """The scores of the pass."""
        if self._computed is None:
            if self._is_empty:
                return dict.fromkeys(self.task.metric_names, math.nan)
            self._computed = self.metrics.compute()
            if self._decides:
                self.choose(self.metrics.chosen())
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


class CountedLoss(Metric):
    """The mean loss over what counts: rows, or tokens, of all processes.

    fastai's own weighs a batch by its rows, which for tokens is inexact.
    """

    def reset(self) -> None:
        """Start a pass."""
        self.sums = torch.zeros(2, dtype=torch.float64)

    def accumulate(self, learn: Any) -> None:
        """Take in the Learner's batch."""
        counted = float(count(learn))
        self.sums += torch.tensor([float(learn.loss.mean()) * counted, counted])

    @property
    def value(self) -> float | None:
        """The mean so far; None of nothing."""
        total, counted = torch.stack(gather(self.sums)).sum(0).tolist()
        return total / counted if counted else None

    @property
    def name(self) -> str:
        """What fastai's is called."""
        return "loss"


def task_metrics(scores: TaskScores) -> list[TaskMetric]:
    """The task's scores as fastai metrics."""
    names = scores.task.metric_names
    return [TaskMetric(scores, name, leads=i == 0) for i, name in enumerate(names)]
