"""The course of a training, thinned: losses and learning rates of all its fits, for the report."""

from __future__ import annotations

from typing import Any

from ftkit._fastai import Callback

_MOST_POINTS = 1000


class Curves(Callback):
    """Keeps a point every so many batches: the smoothed loss, and each group's learning rate.

    fastai's recorder forgets at each fit, and keeps the last group's rate alone. A long training
    keeps no more than 1,000 points: where they are full, every other one goes.
    """

    # After the recorder, whose smoothed loss it takes.
    order = 54
    run_valid = False

    def __init__(self) -> None:
        self.points: list[dict[str, Any]] = []
        """Each with the batch from 1 over all fits, the loss, and the rates by group."""
        self.batches, self.stride = 0, 1

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training goes on from."""
        return {"points": self.points, "batches": self.batches, "stride": self.stride}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.points, self.batches = state["points"], state["batches"]
        self.stride = state["stride"]

    def after_batch(self) -> None:
        """Keep a point where it is time."""
        if hasattr(self.learn, "lr_finder"):
            return
        self.batches += 1
        if self.batches % self.stride:
            return
        rates = [float(group["lr"]) for group in self.learn.opt.hypers]
        loss = float(self.learn.recorder.losses[-1])
        self.points.append({"batch": self.batches, "loss": loss, "rates": rates})
        if len(self.points) > _MOST_POINTS:
            self.stride *= 2
            self.points = self.points[1::2]
