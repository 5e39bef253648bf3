"""Training in phases that unfreeze a model from its head down.

Howard and Ruder 2018, "Universal Language Model Fine-tuning for Text Classification".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ftkit._fastai import Learner
from ftkit.errors import SettingError
from ftkit.learner.optimizer import Rates


@dataclass(frozen=True)
class Phase:
    """One cycle of `epochs` over the last `groups` of layers, for `learn.fine_tune(phases=...)`.

    Raises SettingError for fewer than one of either.
    """

    epochs: int
    lr: Rates | None = None
    """As in `fit_one_cycle`, of all groups, frozen ones too; None is the Learner's own."""
    groups: int | None = None
    """How many train, the head counted; None is all."""

    def __post_init__(self) -> None:
        for name in ("epochs", "groups"):
            if (count := getattr(self, name)) is not None and count < 1:
                raise SettingError(f"{name} of a phase is {count}", remedy="Give 1 or more.")


def fit_phases(learn: Learner, phases: Sequence[Phase], **options: Any) -> None:
    """Train phase after phase: each is a `freeze_to` and a `fit_one_cycle`, and nothing else.

    Adam's means start anew in each, as with fastai's `freeze` and `unfreeze`. Afterwards the
    model stays as the last phase left it: frozen below its groups.

    Raises SettingError before anything is trained where there are no phases, or fewer groups.
    """
    count = len(learn.splitter(learn.model))
    most = max((phase.groups or 1 for phase in phases), default=0)
    if not 0 < most <= count:
        found = f"a phase trains the last {most} groups, and there are {count}"
        raise SettingError(
            found if phases else "there is no phase to train",
            remedy="learn.show_groups() shows the groups; groups=None trains all.",
        )
    for phase in phases:
        learn.freeze_to(0 if phase.groups is None else count - phase.groups)
        learn.fit_one_cycle(phase.epochs, phase.lr, **options)
