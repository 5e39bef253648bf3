"""The mean of the weights over the steps of a fit, which often does better than the last ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ftkit.errors import SettingError
from ftkit.learner.distributed import alike
from ftkit.learner.fits import FitCallback


class AverageWeights(FitCallback):
    """Keep an average of the trainable weights, validate with it, and end the fit with it.

    Training itself goes on from the raw weights. From the end of a validation to the next epoch
    the model has the average, so that what saves a model then saves what was validated. Every fit
    starts an average of its own. Buffers are not averaged.
    """

    def __init__(self, decay: float | None = 0.999, *, start: float = 0.0) -> None:
        """`decay` is what an exponential mean keeps at each step: no more than (1 + n) / (10 + n)
        at the step n, so that a short fit does not end near its beginning. None takes the equal
        mean (Izmailov et al. 2018, who begin at 0.75). `start` is the share of the fit's steps
        before the first that counts.

        Raises SettingError for numbers that cannot work.
        """
        if decay is not None and not 0 < decay < 1:
            raise SettingError(
                f"decay of the average is {decay}",
                remedy="Give a number between 0 and 1, or None for an equal mean.",
            )
        if not 0 <= start < 1:
            raise SettingError(
                f"start of the average is {start}", remedy="Give a share from 0, less than 1."
            )
        self.decay, self.start = decay, start
        self._count = 0
        # What the model does not have: the average while it trains, else the raw weights.
        self._others: dict[str, Tensor] = {}
        self._has_average = self._is_on = self._is_loaded = False

    def before_fit(self) -> None:
        """Start an average, or go on with the one that was loaded."""
        self._is_on = not hasattr(self.learn, "lr_finder")
        if self._is_on and not self._is_loaded:
            self._count, self._others, self._has_average = 0, {}, False
        self._is_loaded = False

    def before_train(self) -> None:
        """Go on from the raw weights."""
        if self._has_average and self._is_on:
            self._swap()

    @torch.no_grad()
    def after_step(self) -> None:
        """Take in the weights of a step."""
        learn = self.learn
        done = learn.epoch * learn.n_iter + learn.iter
        if not self._is_on or done < self.start * learn.n_epoch * learn.n_iter:
            return
        weights = self._weights()
        if not self._count:
            self._others = {name: each.clone() for name, each in weights.items()}
        else:
            share = 1 / (self._count + 1)
            if self.decay is not None:
                share = max(1 - self.decay, 9 / (10 + self._count))
            torch._foreach_lerp_(list(self._others.values()), list(weights.values()), share)
        self._count += 1

    def before_validate(self) -> None:
        """Validate with the average, where there is one by now."""
        if self._is_on and self._count and not self._has_average:
            self._swap()

    def after_fit(self) -> None:
        """Leave the Learner with the average, and drop the raw weights."""
        self.before_validate()
        self._is_on, self._others = False, {}

    def state_dict(self) -> dict[str, Any]:
        """What another run needs to go on: {"weights": {name: tensor}, "count", "has_average"}.

        `weights` are those that the model does not have at the moment: the average in training,
        else ("has_average") the raw ones.
        """
        return {
            "weights": dict(self._others),
            "count": self._count,
            "has_average": self._has_average,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, in the fit that runs, or else in the next."""
        device = next(self.learn.model.parameters()).device
        weights = dict(self.learn.model.named_parameters())
        self._others = {
            name: alike(each.to(device), weights[name]).clone()
            for name, each in state["weights"].items()
        }
        self._count, self._has_average = int(state["count"]), bool(state["has_average"])
        # What a fit ended with has no weights to go on from.
        self._is_loaded = bool(self._others) and not self._is_on

    def _weights(self) -> dict[str, Tensor]:
        """The weights that are averaged: those that train, or have since the average began."""
        named = self.learn.model.named_parameters()
        return {
            name: each.detach()
            for name, each in named
            if (name in self._others if self._others else each.requires_grad)
        }

    @torch.no_grad()
    def _swap(self) -> None:
        for name, weight in self._weights().items():
            other = self._others[name]
            kept = weight.clone()
            weight.copy_(alike(other, weight))
            other.copy_(alike(kept, other))
        self._has_average = not self._has_average
