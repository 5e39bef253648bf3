"""Callbacks that fastai lacks, or has with a fault."""

from __future__ import annotations

import sys
import time
from typing import Any

import torch

from ftkit._fastai import Callback, CancelBatchException, MixedPrecision, noop, set_seed
from ftkit.data.tables import is_notebook
from ftkit.errors import TrainingError, check_least
from ftkit.learner.distributed import count
from ftkit.learner.fits import FitCallback


class SeedEachFit(FitCallback):
    """Draw the random numbers of every fit from the same seed, whatever ran before it."""

    order = -100

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def before_fit(self) -> None:
        """Seed python, numpy and torch."""
        set_seed(self.seed)
        if hasattr(self.learn, "lr_finder"):
            self.first_epoch = self.learn.dls.train.epoch

    def after_fit(self) -> None:
        """Let a search for a learning rate leave the order of the rows as it was."""
        if hasattr(self.learn, "lr_finder"):
            self.learn.dls.train.epoch = self.first_epoch


class Accumulate(Callback):
    """Step once in `n_batches`, with the gradient that one batch of all their rows would have.

    Unlike fastai's GradientAccumulation it steps on what is left at the end of an epoch, and
    weighs batches by what their losses are means of: rows, or the tokens that count. GradScaler
    and clipping see the finished gradient.
    """

    order = MixedPrecision.order - 4
    run_valid = False

    def __init__(self, n_batches: int) -> None:
        """Raises SettingError for fewer than one."""
        check_least(1, n_batches=n_batches)
        self.n_batches = n_batches

    def before_train(self) -> None:
        """Start without gradients."""
        self.learn.opt.zero_grad()
        self.counted: Any = 0
        self.unit: Any = None
        """What the counts are weighed in."""

    def after_loss(self) -> None:
        """Weigh the batch by what counts in it; `loss` stays the batch's own mean."""
        if self.training:
            counted = count(self.learn)
            if self.unit is None:
                # In fp16, sums over hundreds of tokens would overflow once they are scaled.
                is_fp16 = self.learn.model.autocast_dtype == torch.float16
                self.unit = counted.clamp(min=1) if is_fp16 else torch.ones_like(counted)
            self.learn.loss_grad = self.learn.loss_grad * (counted / self.unit)
            self.counted = self.counted + counted

    def before_step(self) -> None:
        """Go on gathering, or divide by what was counted and let the step happen."""
        is_last = self.learn.iter + 1 == self.learn.n_iter
        if (self.learn.iter + 1) % self.n_batches and not is_last:
            raise CancelBatchException
        gradients = [p.grad for p in self.learn.model.parameters() if p.grad is not None]
        divisor = self.counted.clamp(min=1) / self.unit
        torch._foreach_div_(gradients, divisor.to(gradients[0].dtype))
        self.counted, self.unit = 0, None


class StopAtNaN(Callback):
    """End a fit whose loss is no number any more, with the likely cause.

    In fp16 the GradScaler leaves out steps that overflow, so some such batches may pass.
    """

    # After the recorder, before a state is written that could only be thrown away.
    order = 51
    run_valid = False
    _MOST_IN_FP16 = 10

    def before_train(self) -> None:
        """Count anew."""
        self.batches = 0

    def after_batch(self) -> None:
        """Raise TrainingError where batch after batch has none."""
        if bool(torch.isfinite(self.learn.loss)) or hasattr(self.learn, "lr_finder"):
            self.batches = 0
            return
        self.batches += 1
        is_fp16 = self.learn.model.autocast_dtype == torch.float16
        if self.batches < (self._MOST_IN_FP16 if is_fp16 else 1):
            return
        step = self.learn.epoch * self.learn.n_iter + self.learn.iter + 1
        raise TrainingError(
            f"the loss is {float(self.learn.loss)} at batch {step:,} of the fit, at a learning "
            f"rate of {self.learn.opt.hypers[-1]['lr']:.2g}",
            remedy=self._remedy(is_fp16),
        )

    def _remedy(self, is_fp16: bool) -> str:
        kind = self.learn.model.hf_model.config.model_type
        if is_fp16 and "t5" in kind:
            return "T5 and its kin overflow in fp16: take bf16 or fp32."
        if is_fp16:
            return "fp16 overflows easily: take bf16 or fp32, or a lower rate."
        return "Take a lower rate, or clip gradients with fastai's GradientClip."


class ProgressLines(FitCallback):
    """Progress as plain lines, for output that is not a terminal."""

    # Before CSVLogger, which hands on to the logger that it finds.
    order = 59

    def before_fit(self) -> None:
        """Print the head of the table, and let the recorder print its rows into it."""
        self.is_shown = self.learn.create_mbar and self.learn.logger is not noop
        if self.is_shown:
            self._print(self.learn.recorder.metric_names)
            self._logger, self.learn.logger = self.learn.logger, self._print

    def before_train(self) -> None:
        """Note the time."""
        self.started = time.perf_counter()

    def after_batch(self) -> None:
        """Print a line each quarter of a long epoch."""
        done, total = self.learn.iter + 1, self.learn.n_iter
        is_due = self.training and total >= 40 and done < total and done % (total // 4) == 0
        if is_due and self.is_shown:
            seconds = time.perf_counter() - self.started
            loss = float(self.learn.smooth_loss)
            line = f"  epoch {self.learn.epoch} batch {done}/{total} loss {loss:.4f} {seconds:.0f}s"
            print(line, flush=True)

    def after_fit(self) -> None:
        """Give the logger back."""
        if self.is_shown and hasattr(self, "_logger"):
            self.learn.logger = self._logger

    def _print(self, values: Any) -> None:
        cells = [f"{value:.4f}" if isinstance(value, float) else str(value) for value in values]
        print("  ".join(f"{cell:>10}" for cell in cells), flush=True)


def shows_bars() -> bool:
    """Whether a progress bar can be drawn: in a terminal or a notebook."""
    return sys.stdout.isatty() or is_notebook()


class History(FitCallback):
    """What every fit of the Learner did, epoch by epoch; fastai's recorder forgets at each fit."""

    # After the recorder, before EarlyStoppingCallback ends the fit.
    order = 55

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        """An epoch each: epoch (from 1, over all fits), highest lr, losses, metrics, seconds."""
        self.scores: dict[str, float] = {}
        """Losses and metrics of the weights that the model has now; none where they were trained
        or loaded since an epoch ended."""
        self.started, self.first_batch = time.perf_counter(), 0

    def state_dict(self) -> dict[str, Any]:
        """The rows so far, and what the epoch begun needs to become one."""
        seconds = time.perf_counter() - self.started
        return {
            "rows": self.rows,
            "scores": self.scores,
            "first_batch": self.first_batch,
            "seconds": seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.rows, self.scores = state["rows"], state.get("scores", {})
        self.first_batch = state["first_batch"]
        self.started = time.perf_counter() - state["seconds"]

    def before_epoch(self) -> None:
        """Note the time."""
        self.started, self.first_batch = time.perf_counter(), len(self.learn.recorder.lrs)

    def before_train(self) -> None:
        """Forget the scores of weights that are about to change."""
        if not hasattr(self.learn, "lr_finder"):
            self.scores = {}

    def after_epoch(self) -> None:
        """Take the recorder's row, where it was trained for and is whole."""
        learn = self.learn
        if hasattr(learn, "lr_finder"):
            return
        names = list(learn.recorder.metric_names)[1:-1]
        values = list(learn.final_record)
        # Where a callback validates before the recorder is done, its row is a mixture.
        if len(values) == len(names) and not any(isinstance(each, str) for each in values):
            values = list(map(float, values))
            # A validation within the epoch made the recorder forget.
            rates = learn.recorder.lrs[self.first_batch :] or [learn.opt.hypers[-1]["lr"]]
            row = {"epoch": len(self.rows) + 1, "lr": float(max(rates))}
            self.scores = dict(zip(names, values, strict=True))
            seconds = time.perf_counter() - self.started
            self.rows.append({**row, **self.scores, "seconds": seconds})
