"""Exact resume: a fit that was stopped goes on as if nothing had happened.

A script is resumed by running it again. Fits that were done are passed over, the one that was
stopped begins in the middle, and on a CPU everything ends bit-equal to a run never stopped.
`state.py` says how a state lies on the disk.
"""

from __future__ import annotations

import shutil
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, NoneType
from typing import Any

import torch
from torch import Tensor

from ftkit._fastai import (
    CancelEpochException,
    Learner,
    LRFinder,
)
from ftkit.errors import (
    CheckpointError,
    FtkitError,
    FtkitWarning,
    SettingError,
    TrainingError,
    check_least,
    first_line,
)
from ftkit.learner.distributed import alike, gather, is_first, most, wait, whole
from ftkit.learner.fits import FitCallback
from ftkit.learner.remember import plain, random_state, remembered, remind, set_random_state
from ftkit.learner.sharding import share_optimizer
from ftkit.learner.state import WRITING, model_tensors, read_state, write_state
from ftkit.learner.tracking import Tracker
from ftkit.model.device import is_out_of_memory

_FORMAT = 1
_PREFIX = "step-"
_END = "ended at step"
# What `Checkpoints.write` puts into a state.
_CONTENT: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("fit", "epoch", "batch", "step", "loader_epoch"), int),
    **dict.fromkeys(("learner", "optimizer", "callbacks", "chosen"), dict),
    "fits": list,
    "is_done": bool,
    "data": str,
    "random": (list, tuple),
    "scaler": (dict, NoneType),
}


class TrainingStopped(KeyboardInterrupt):
    """SIGTERM or Ctrl-C ended a fit after its state was written; says where, and how to go on."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


class ResumableLearner(Learner):
    """A Learner whose fits can begin in the middle, where it has `Checkpoints`."""

    begin_at = 0
    """The epoch that the next fit begins at."""

    def fit(
        self,
        n_epoch: int,
        lr: Any = None,
        wd: Any = None,
        cbs: Any = None,
        reset_opt: bool = False,
        start_epoch: int = 0,
    ) -> None:
        """As fastai's; a fit that was done before the run was stopped is passed over.

        Raises SettingError for a second `Checkpoints`.
        """
        given = _listed(cbs)
        ours = [*self._grab_cbs(Checkpoints), *(cb for cb in given if isinstance(cb, Checkpoints))]
        if len(ours) > 1:
            raise SettingError(
                "there are two Checkpoints", remedy="Give one, to the Learner or to the fit."
            )
        if not ours or any(isinstance(cb, LRFinder) for cb in given):
            super().fit(n_epoch, lr, wd, cbs, reset_opt, start_epoch)
            return
        others = [cb for cb in given if cb is not ours[0]]
        # It looks at the Learner before the fit begins.
        with self.added_cbs([cb for cb in given if cb is ours[0]]):
            if not ours[0].passes_over(n_epoch):
                with ours[0].at_work():
                    super().fit(n_epoch, lr, wd, others, reset_opt, start_epoch)

    def _do_fit(self) -> None:
        first, self.begin_at = self.begin_at, 0
        for epoch in range(first, self.n_epoch):
            self.epoch = epoch
            self._with_events(self._do_epoch, "epoch", CancelEpochException)

    def all_batches(self) -> None:
        """Every batch of the loader that is left in this pass.

        Raises TrainingError for a batch that the device has not the memory for.
        """
        self.n_iter = len(self.dl)
        for i, batch in enumerate(self.dl, getattr(self.dl, "first_batch", 0)):
            try:
                self.one_batch(i, batch)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                raise self._no_memory(batch, error) from error

    def _no_memory(self, batch: Any, error: RuntimeError) -> TrainingError:
        (inputs, _), kind = batch, "training" if self.training else "validation"
        windows, tokens = inputs["input_ids"].shape
        device = inputs["input_ids"].device.type
        return TrainingError(
            f"batch {self.iter + 1:,} of {self.n_iter:,} in {kind}, {windows:,} windows of "
            f"{tokens:,} tokens, does not fit into the memory of the {device} device "
            f"({first_line(error)})",
            remedy="Give a smaller batch size, and Accumulate (--accumulate) to learn as from "
            "larger ones; gradient_checkpointing, lora and a shorter max_length need less too.",
        )


class Checkpoints(FitCallback):
    """Write the whole training state now and then, and go on from it.

        learn = ftkit.classification_learner(data, "minilm", cbs=Checkpoints("run/checkpoints"))
        learn.fine_tune(3)

    Stopped, by Ctrl-C, SIGTERM or a power cut, the same script with `resume=True` goes on with
    the weights, optimizer, schedule, random numbers, order of rows, history and whatever the
    callbacks with a `state_dict()` remember. The script must be the same: what is passed over is
    counted in fits. A state that is torn or was altered is passed over, with a warning.

    Where a state cannot be written, on a full disk for one, the run goes on with a warning, and
    the states before it stay as they were.
    """

    # After every other callback: what they did with a batch belongs to its state.
    order = 1000

    def __init__(
        self,
        folder: str | Path,
        *,
        every: int | None = None,
        minutes: float | None = 10,
        keep: int = 2,
        resume: bool = False,
    ) -> None:
        """Write into `folder` after `every` optimizer steps, after `minutes`, and after each fit;
        keep the newest `keep`, and the end of each fit, for what a script does between two.

        Raises SettingError for counts below 1, and where the folder holds states and `resume`
        does not say to go on from them.
        """
        check_least(1, every=every, keep=keep)
        check_least(0, minutes=minutes)
        self.folder, self.every, self.minutes = Path(folder), every, minutes
        self.keep = keep
        self.remedy = "Run the same again with resume=True to go on."
        """What one who stopped it is told."""
        self._fit_number = 0
        self._done: list[dict[str, int]] = []
        """What each fit was, and the step it ended at."""
        self._steps = 0
        """Optimizer steps over all fits."""
        self.is_on = False
        """Whether a fit goes on that can be resumed, not a validation or a search for a rate."""
        self._asked: int | None = None
        """The signal that asked to stop."""
        self._has_stepped = False
        self._fingerprint = ""
        self._drawn: Mapping[str, Any] | None = None
        """Random numbers to put back."""
        self._pending: tuple[dict[str, Tensor], Any] | None = None
        if resume:
            self._pending = newest_state(self.folder)
        elif found := _states(self.folder):
            raise SettingError(
                f'"{self.folder}" holds the state of an unfinished run ({found[-1].name})',
                remedy="Go on with it by resume=True, or remove that folder.",
            )

    # Passing over what was done

    def passes_over(self, n_epoch: int) -> bool:
        """Whether the fit that is about to begin was done already; counts it."""
        self._fit_number += 1
        signature = self._signature(n_epoch)
        if self._pending is None:
            self._done.append(signature)
            return False
        model, state = self._pending
        with self._taking():
            self._check_same(state, signature)
        self._done.append(dict(state["fits"][self._fit_number - 1]))
        if self._fit_number < state["fit"]:
            self._end_as_then(self._done[-1].get(_END))
        elif state["is_done"]:
            self._pending = None
            with self._taking():
                self._remind(state, first=True)
            self._end_with(model, state)
        else:
            with self._taking():
                self._remind(state, first=True)
            return False
        return True

    def _end_as_then(self, step: int | None) -> None:
        """Have what a fit before the newest ended with, for what stands between the two."""
        why = "it had not ended"
        if step is not None:
            try:
                self._end_with(*read_state(self._of_step(step)))
                return
            except CheckpointError as error:
                why = error.found
        warnings.warn(
            f"fit {self._fit_number} is passed over without what it ended with ({why}): the next "
            "fit has it, and what stands before that has not",
            FtkitWarning,
            stacklevel=4,
        )

    def _end_with(self, model: Mapping[str, Tensor], state: Any) -> None:
        """Have all that a fit ended with."""
        with self._taking():
            self._restore(model, state)
        self.before_batch()
        self.learn.dls.train.start_at(state["loader_epoch"])

    @contextmanager
    def _taking(self) -> Iterator[None]:
        """Within, things are taken from a state; raises CheckpointError where one does not fit."""
        try:
            yield
        except FtkitError:
            raise
        except Exception as error:
            raise CheckpointError(
                f'the state in "{self.folder}" cannot be gone on from '
                f"({type(error).__name__}: {first_line(error)})",
                remedy="Remove the newest state to go on from an older one, or train anew.",
            ) from error

    def _signature(self, n_epoch: int) -> dict[str, int]:
        """What must be the same when a fit is met again."""
        if not self.learn.opt:
            self.learn.create_opt()
        trained = sum(p.numel() for p in self.learn.model.parameters() if p.requires_grad)
        return {
            "epochs": n_epoch,
            "batches an epoch": len(self.learn.dls.train),
            "processes": self.learn.dls.train.n_shards,
            "trainable parameters": trained,
        }

    def _check_same(self, state: Any, signature: Mapping[str, int]) -> None:
        then = state["fits"][self._fit_number - 1]
        for name, number in signature.items():
            if then[name] != number:
                raise SettingError(
                    f"fit {self._fit_number} has {number:,} {name}, and had {then[name]:,} in the "
                    f'run that "{self.folder}" is of',
                    remedy="Resume with the same data, settings and calls, or train anew.",
                )
        if state["data"] != self._of_data():
            raise SettingError(
                f'the rows are not those of the run that "{self.folder}" is of',
                remedy="Resume with the same data, or train anew in another folder.",
            )

    def _of_data(self) -> str:
        """A fingerprint of the tokenised rows that are trained on."""
        if not self._fingerprint:
            self._fingerprint = self.learn.dls.train.dataset.features.fingerprint()
        return self._fingerprint

    # Events

    def before_fit(self) -> None:
        """Say at which epoch a stopped fit goes on."""
        if not self.is_on:
            return
        self._written_at = time.monotonic()
        self._has_stepped = False
        self._at_validation, self._loader_epoch = random_state(), self.learn.dls.train.epoch
        if self._pending is not None:
            self.learn.begin_at = self._pending[1]["epoch"]

    def before_train(self) -> None:
        """Put everything back as it was, but for the random numbers."""
        if not self.is_on:
            return
        loader = self.learn.dls.train
        self._loader_epoch = loader.epoch
        if self._pending is None:
            return
        (model, state), self._pending = self._pending, None
        self._loader_epoch = state["loader_epoch"]
        with self._taking():
            loader.start_at(self._loader_epoch, state["batch"], state["random"][loader.shard][1])
            self._restore(model, state)

    def before_batch(self) -> None:
        """Put the random numbers back: torch draws some where a loader begins to iterate."""
        if self._drawn is not None:
            with self._taking():
                set_random_state(self._drawn)
            self._drawn = None

    def after_train(self) -> None:
        """Note the random numbers that validation begins with."""
        self.before_batch()
        if self.is_on:
            self._at_validation = random_state()

    def after_step(self) -> None:
        """Only between optimizer steps is there nothing half done."""
        if self.is_on:
            self._steps += 1
            self._has_stepped = True

    def after_batch(self) -> None:
        """Write where it is time, or where a signal asked for it."""
        if not self.is_on:
            return
        if self.training and not self._has_stepped:
            return
        self._has_stepped = False
        # Clocks and signals differ between processes, which must write together.
        signum, is_due = most(self._asked or 0, self.training and self._is_due())
        if signum:
            self._stop(signum, self.write())
        if is_due:
            self.write()

    def _is_due(self) -> bool:
        if self.every is not None and self._steps % self.every == 0:
            return True
        since = time.monotonic() - self._written_at
        return self.minutes is not None and since >= self.minutes * 60

    def after_fit(self) -> None:
        """Write what the fit ended with, so that it need not be done again."""
        if self.is_on:
            self.write(is_done=True)

    # Signals

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """In a fit, and not in a mere validation: take SIGTERM and Ctrl-C as a wish to stop after
        this step; a second one stops at once.
        """
        self.is_on, self._asked = True, None
        steps = self._steps
        try:
            if threading.current_thread() is threading.main_thread():
                with self._asked_by_signals():
                    yield
            else:
                yield
        except BaseException:
            if steps == self._steps:
                # It ended before it did anything, and is not met again once it is mended.
                self._fit_number -= 1
                self._done.pop()
            raise
        finally:
            self.is_on = False
        if signum := most(self._asked or 0)[0]:
            # It came after the last step, and what that ended with is written.
            self._stop(signum, _states(self.folder)[-1])

    @contextmanager
    def _asked_by_signals(self) -> Iterator[None]:
        found = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
        # What is ignored stays so: a shell has its background jobs ignore Ctrl-C.
        before = {each: handler for each, handler in found.items() if handler != signal.SIG_IGN}

        def ask(signum: int, frame: FrameType | None) -> None:
            self._asked = signum
            for each, handler in before.items():
                signal.signal(each, handler)

        for each in before:
            signal.signal(each, ask)
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def _stop(self, signum: int, written: Path | None) -> None:
        for cb in self.learn.cbs:
            if isinstance(cb, Tracker):
                # So that its run can be gone on with, in this process too.
                cb.finish()
        where = f'its state is in "{written}"' if written else "its state could not be written"
        raise TrainingStopped(
            f"stopped after {self._steps:,} steps; {where}. {self.remedy}", signum
        )

    # The state

    def write(self, *, is_done: bool = False) -> Path | None:
        """Write the state now; returns its folder, or None where that failed, with a warning."""
        folder = self._of_step(self._steps)
        if is_done:
            self._done[-1][_END] = self._steps
        learn, loader = self.learn, self.learn.dls.train
        state = {
            "format": _FORMAT,
            "fits": self._done,
            "fit": self._fit_number,
            "is_done": is_done,
            "epoch": learn.epoch,
            "batch": learn.iter + 1 if learn.training else len(loader),
            "step": self._steps,
            "data": self._of_data(),
            "loader_epoch": loader.epoch if is_done else self._loader_epoch,
            # Of every process.
            "random": gather(
                (random_state() if learn.training else self._at_validation, loader.random_state)
            ),
            "learner": {"pct_train": learn.pct_train, "train_iter": learn.train_iter},
            "optimizer": plain(learn.opt.state_dict()),
            "scaler": learn.scaler.state_dict() if getattr(learn, "scaler", None) else None,
            "callbacks": {cb.name: found for cb in learn.cbs if (found := remembered(cb))},
            "chosen": learn.task_scores.chosen,
        }
        weights, state = whole(model_tensors(learn.model)), whole(state)
        try:
            if is_first():
                write_state(folder, weights, state)
        except OSError as error:
            warnings.warn(
                f'the training state could not be written to "{folder}" '
                f"({error.strerror or error}); training goes on, older states are kept",
                FtkitWarning,
                stacklevel=2,
            )
            return None
        finally:
            self._written_at = time.monotonic()
            wait()
        ends = {self._of_step(fit[_END]) for fit in self._done if _END in fit}
        for old in _states(self.folder)[: -self.keep]:
            if old not in ends:
                shutil.rmtree(old, ignore_errors=True)
        return folder

    def _of_step(self, step: int) -> Path:
        return self.folder / f"{_PREFIX}{step:08}"

    def _restore(self, model: Mapping[str, Tensor], state: Any) -> None:
        learn = self.learn
        current = model_tensors(learn.model)
        if current.keys() != model.keys():
            raise SettingError(
                f'"{self.folder}" is of another model', remedy="Resume with the same checkpoint."
            )
        with torch.no_grad():
            for name, tensor in current.items():
                tensor.copy_(alike(model[name], tensor))
        learn.opt.load_state_dict(share_optimizer(learn, state["optimizer"]))
        if state["scaler"] is not None and getattr(learn, "scaler", None) is not None:
            learn.scaler.load_state_dict(state["scaler"])
        learn.pct_train = state["learner"]["pct_train"]
        learn.train_iter = state["learner"]["train_iter"]
        self._steps = state["step"]
        self._remind(state, first=False)
        learn.task_scores.choose(state["chosen"])
        self._drawn = state["random"][learn.dls.train.shard][0]

    def _remind(self, state: Any, *, first: bool) -> None:
        """Give the callbacks what they remembered: trackers first, before the fit, which would
        else begin a run, and the others within it, for its beginning makes them forget.
        """
        for cb in self.learn.cbs:
            if isinstance(cb, Tracker) == first and cb.name in state["callbacks"]:
                remind(cb, state["callbacks"][cb.name])


def newest_state(folder: Path) -> tuple[dict[str, Tensor], Any] | None:
    """The newest whole state in a folder: weights and the rest; None where there is none.

    One that is torn or was altered is passed over with a warning that says why. What a killed
    write left is removed.
    """
    for litter in folder.glob(f"{WRITING}*"):
        shutil.rmtree(litter, ignore_errors=True)
    for found in reversed(_states(folder)):
        try:
            model, state = read_state(found)
            _check_content(state, found)
            return model, state
        except CheckpointError as error:
            warnings.warn(f"passed over: {error.found}", FtkitWarning, stacklevel=2)
    return None


def _check_content(state: Any, folder: Path) -> None:
    """Raises CheckpointError where a state is of another format, or lacks what one holds."""
    known = state.get("format") if isinstance(state, dict) else None
    if known != _FORMAT:
        raise CheckpointError(
            f'"{folder}" has format {str(known)[:40]}, not {_FORMAT}',
            remedy="Resume with the ftkit that wrote it.",
        )
    for name, kind in _CONTENT.items():
        is_there = name in state and isinstance(state[name], kind)
        if not is_there or (kind is int and state[name] < 0):
            raise CheckpointError(
                f'"{folder}" holds no usable "{name}"', remedy="Go on from an older one."
            )


def _states(folder: Path) -> list[Path]:
    """The folders with states, oldest first."""
    return sorted(folder.glob(f"{_PREFIX}*"))


def _listed(cbs: Any) -> list[Any]:
    if cbs is None:
        return []
    return list(cbs) if hasattr(cbs, "__iter__") else [cbs]
