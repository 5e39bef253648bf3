"""What callbacks and generators of random numbers know, taken and given back. See `resume.py`."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ftkit._fastai import L, ParamScheduler, Recorder, TrackerCallback

# What fastai's own callbacks remember, by their classes.
_REMEMBERED: dict[type, tuple[str, ...]] = {
    Recorder: ("lrs", "iters", "values"),
    TrackerCallback: ("best", "new_best", "wait"),
    ParamScheduler: ("hps",),
}


def random_state() -> dict[str, Any]:
    """Where the generators of python, numpy and torch stand."""
    state = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put the generators where `random_state` found them."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def remembered(cb: Any) -> Any:
    """What a callback must not forget, None where that is nothing."""
    # fastai's Callback has an attribute for every method of the Learner: ask the class.
    if hasattr(type(cb), "state_dict"):
        return cb.state_dict()
    for kind, names in _REMEMBERED.items():
        if isinstance(cb, kind):
            state = {name: plain(vars(cb)[name]) for name in names if name in vars(cb)}
            if isinstance(cb, Recorder):
                state["losses"] = torch.stack(list(cb.losses)) if cb.losses else None
                state["smooth"] = (cb.smooth_loss.count, cb.smooth_loss.val)
            return state
    return None


def remind(cb: Any, state: Any) -> None:
    """Give a callback back what `remembered` took."""
    if hasattr(type(cb), "load_state_dict"):
        cb.load_state_dict(state)
        return
    state = dict(state)
    if isinstance(cb, Recorder):
        losses = state.pop("losses")
        cb.losses = [] if losses is None else list(losses.unbind())
        cb.smooth_loss.count, cb.smooth_loss.val = state.pop("smooth")
    for name, value in state.items():
        setattr(cb, name, value)


def plain(value: Any) -> Any:
    """A value with fastai's lists as lists."""
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, tuple):
        return tuple(plain(each) for each in value)
    return [plain(each) for each in value] if isinstance(value, (L, list)) else value
