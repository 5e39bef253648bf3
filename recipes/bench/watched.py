"""Watching: what W&B, checkpoints and progress lines add to a training step.

A leaf, imported by speed.py only: it times the passes, which are compared there.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

STEPS = 40  # of a pass: the fewest with progress lines, and twice what the tracker keeps
WRITE_EVERY = 200  # steps
RATE = 1e-4


def clocks() -> dict[str, float]:
    """Seconds of this process's CPU time, of its children's, and on the wall.

    W&B writes from a process of its own, which is a child of this one.
    """
    children = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return {
        "CPU": time.process_time(),
        "children": sum(each.user + each.system for each in children),
        "wall": time.perf_counter(),
    }


def since(started: dict[str, float]) -> dict[str, float]:
    """Seconds since then, by each clock."""
    return {name: seconds - started[name] for name, seconds in clocks().items()}


class Passes:
    """Fits a Learner for an epoch a call, and keeps what a step of its training pass took: the
    loader and all that callbacks do meanwhile, but neither validation nor what is done once a fit.

    A pass is too short for its share of writing the training state, which the fit does in its end
    too: one write, timed apart, is spread over the steps that one comes after.
    """

    def __init__(self, learn: Any, *, is_watched: bool) -> None:
        self.learn, self.is_watched = learn, is_watched
        self.steps: list[dict[str, float]] = []
        """Milliseconds of a step in each round, its share of a write included."""
        self.writing: list[dict[str, float]] = []
        """That share."""
        self._write = dict.fromkeys(clocks(), 0.0)
        """Seconds of the newest write."""
        self._within = self._write
        """Seconds of a write that fell into the pass."""
        if is_watched:
            kept = learn.checkpoints
            kept.write = partial(self._timed, kept.write)

    def _timed(self, write: Callable[..., Any], **options: Any) -> Any:
        started, found = clocks(), write(**options)
        self._write = since(started)
        if self.learn.training:
            self._within = self._write
        return found

    def __call__(self) -> float:
        """One epoch; milliseconds of this process's CPU time a step."""
        from fastai.callback.core import Callback

        started, seconds = dict[str, float](), dict[str, float]()
        self._within = dict.fromkeys(self._within, 0.0)
        # `self` is the callback in what an event calls.
        first = Callback(before_train=lambda self: started.update(clocks()))
        last = Callback(after_train=lambda self: seconds.update(since(started)))
        first.order, last.order = -1000, 2000
        if self.is_watched:
            self.learn.fit_one_cycle(1, RATE, cbs=[first, last])
        else:
            self.learn.create_mbar = False
            with self.learn.no_bar(), self.learn.no_logging():
                self.learn.fit_one_cycle(1, RATE, cbs=[first, last])
        writing = {clock: 1000 * each / WRITE_EVERY for clock, each in self._write.items()}
        batches = len(self.learn.dls.train)
        self.writing.append(writing)
        self.steps.append(
            {
                clock: 1000 * (whole - self._within[clock]) / batches + writing[clock]
                for clock, whole in seconds.items()
            }
        )
        return self.steps[-1]["CPU"]


def watching(folder: Path) -> dict[str, Any]:
    """What a watched Learner is given; progress lines it has anyway, where there is no terminal."""
    import ftkit

    return {
        "tracker": ftkit.WandbTracker("bench", dir=folder),
        "cbs": ftkit.Checkpoints(folder / "checkpoints", every=WRITE_EVERY, minutes=None),
    }
