"""Keep the best epoch's weights, and stop where there is no better one to come."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ftkit._fastai import CancelFitException
from ftkit.errors import SettingError, check_least, quoted
from ftkit.learner.fits import FitCallback
from ftkit.learner.state import model_tensors
from ftkit.task import falls


class KeepBest(FitCallback):
    """End a fit with the weights of its best epoch by any metric; stop early where asked to.

        learn.fit_one_cycle(10, cbs=KeepBest("macro_f1", patience=3))

    What the best epoch's validation chose, such as a threshold, comes back with its weights. An
    epoch whose score is no number (nothing was generated, say) does not count; a loss that is
    none is no better. One-cycle fits are planned to their end: stopping one early leaves its low
    rates, so its best, unused.
    """

    # After the recorder and ftkit's history have the epoch, before `Checkpoints` writes it.
    order = 61
    run_valid = False

    def __init__(
        self,
        monitor: str = "valid_loss",
        *,
        patience: int | None = None,
        min_delta: float = 0.0,
        lower_is_better: bool | None = None,
    ) -> None:
        """`monitor` is a column of the table that a fit prints. The fit stops after `patience`
        epochs without one better by more than `min_delta`. Without `lower_is_better`, losses,
        errors, perplexities, empty and merely copied texts are to fall, all else to rise.

        Raises SettingError for a patience below 1; `before_fit` does for an unknown metric.
        """
        check_least(1, patience=patience)
        self.monitor, self.patience, self.min_delta = monitor, patience, min_delta
        is_loss = falls(monitor) if lower_is_better is None else lower_is_better
        self.sign = -1 if is_loss else 1
        self.best: float | None = None
        """The best score so far in this fit."""
        self.best_epoch: int | None = None
        self._waited = 0
        """Scored epochs since the best."""
        self._weights: dict[str, Tensor] = {}
        self._chosen: dict[str, Any] = {}
        self._scores: dict[str, float] = {}

    def before_fit(self) -> None:
        """Forget the fit before."""
        self.run = not hasattr(self.learn, "lr_finder")
        names = list(self.learn.recorder.metric_names)[1:-1]
        if self.run and self.monitor not in names:
            raise SettingError(
                f'there is no metric "{self.monitor}" to keep the best of',
                remedy=f"Give one of {quoted(names)}.",
            )
        self.best, self.best_epoch, self._weights, self._waited = None, None, {}, 0

    def after_epoch(self) -> None:
        """Keep the weights where they are the best so far."""
        names, record = list(self.learn.recorder.metric_names)[1:-1], self.learn.final_record
        if len(record) != len(names):
            # Of an epoch that was not validated to its end.
            return
        score = float(record[names.index(self.monitor)])
        is_better = self.best is None or self.sign * (score - self.best) > self.min_delta
        if not math.isnan(score) and is_better:
            self.best, self.best_epoch = score, self.learn.epoch
            self._weights = {
                name: tensor.detach().clone()
                for name, tensor in model_tensors(self.learn.model).items()
            }
            self._chosen = self.learn.task_scores.chosen
            self._scores = self.learn.history.scores
            self._waited = 0
        elif not math.isnan(score) or self.monitor.endswith("loss"):
            self._waited += 1
        if self.patience is not None and self._waited >= self.patience:
            raise CancelFitException

    def after_fit(self) -> None:
        """Put the best weights back."""
        if not self._weights:
            return
        with torch.no_grad():
            for name, tensor in model_tensors(self.learn.model).items():
                tensor.copy_(self._weights[name])
        self.learn.task_scores.choose(self._chosen)
        self.learn.history.scores = self._scores
        self._weights = {}

    def state_dict(self) -> dict[str, Any]:
        """What the epochs so far left."""
        return {
            "best": self.best,
            "best_epoch": self.best_epoch,
            "waited": self._waited,
            "weights": self._weights,
            "chosen": self._chosen,
            "scores": self._scores,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.best, self.best_epoch = state["best"], state["best_epoch"]
        self._waited = state.get("waited", 0)
        self._weights, self._chosen = state["weights"], state["chosen"]
        self._scores = state.get("scores", {})
