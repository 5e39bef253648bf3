"""Callbacks that hear of fits alone: `callbacks`, `best`, `resume` and others build on this one."""

from __future__ import annotations

from ftkit._fastai import Callback


class FitCallback(Callback):
    """A Callback without the events of a validation that a person, or another callback, asks for.

    fastai sends those of a fit there too, `before_fit` to `after_fit`, also in the middle of a
    real one. Such a validation holds the Learner's lock.
    """

    def __call__(self, event_name: str) -> None:
        """Pass the event on where it is of a fit."""
        if not self.learn.lock.locked():
            super().__call__(event_name)
