"""Experiment tracking: what of a Learner's training is logged, and when; `services.py` says where.

fastai's own WandbCallback does not run on today's fastcore, records no settings, and cannot read
batches that are dicts.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from ftkit._fastai import Callback, MixedPrecision
from ftkit.errors import FtkitWarning, SettingError
from ftkit.inference.bundle import TASK_FILE
from ftkit.learner.describe import choose_rows, describe_learner, scores_of_texts, show_rows
from ftkit.learner.distributed import alike, is_first
from ftkit.learner.services import Service, TensorBoardService, WandbService
from ftkit.scores.labels import ClassMetrics

# Steps whose numbers stay on the device together, until they are read at once.
_KEPT_STEPS = 20
_NO_SCORES = ("epoch", "lr", "train_loss", "valid_loss", "seconds")
# A larger confusion matrix is no chart any more.
_MOST_LABELS = 100


class GradientNorm(Callback):
    """The total norm of the gradients of an optimizer step: whole, unscaled, not yet clipped."""

    # Behind Accumulate and the GradScaler, before GradientClip.
    order = MixedPrecision.order + 0.5
    run_valid = False
    value: Tensor | None = None
    """2-norm over all parameters, on their device; None for a batch without a step."""

    def before_batch(self) -> None:
        """Forget the last batch's."""
        self.value = None

    def before_step(self) -> None:
        """Take it without waiting for the device."""
        parameters = self.learn.model.parameters()
        norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
        self.value = alike(norm, self.learn.loss)


class Tracker(Callback):
    """Logs a Learner's training to a service: one run, however many fits it has.

    Once: the Learner's settings and versions. Each batch (a step): losses, learning rates and
    momenta, gradient norm, tokens a second, padding. Each epoch: validation scores, and those of
    each label. After each fit: validation rows with the largest and smallest losses and some
    others, and a confusion matrix, or how the scores of texts are spread. It sleeps in `lr_find`,
    `validate`, `get_preds` and `predict`, and in all processes but the first.

    An error of the service costs the logs, never the training: it is warned of once.
    """

    # After History, before EarlyStoppingCallback ends the fit.
    order = 56

    def __init__(
        self,
        service: Service,
        *,
        config: Mapping[str, Any] | None = None,
        predictions: int = 24,
    ) -> None:
        """`config` are settings to log beside the Learner's own, which go before: plain JSON data.

        `predictions` is how many validation rows are logged with their texts; 0 keeps texts here.
        """
        if predictions < 0:
            raise SettingError(f"predictions is {predictions}", remedy="Give 0 or more.")
        self.service, self.given, self.n_predictions = service, dict(config or {}), predictions
        self._norm = GradientNorm()
        self._settings: dict[str, Any] = {}
        self._run_id: str | None = None
        self._steps = self._epochs = self._known_epochs = 0
        self._is_open = self._is_lost = self._is_configured = self._gathers = False
        self._pending: list[tuple[int, dict[str, float | Tensor]]] = []
        self._losses: list[tuple[Tensor, Tensor]] = []

    @property
    def run_id(self) -> str | None:
        """The id of the service's run; None before the first batch."""
        return self._run_id

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs to go on in the same run: plain JSON data."""
        self._flush()
        counts = {"step": self._steps, "epoch": self._epochs}
        return {"run_id": self._run_id, **counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on in the run of `state_dict`; raises SettingError once a run has started."""
        if self._is_open:
            raise SettingError(
                f"the tracker writes the run {self._run_id} already",
                remedy="Load its state before the first batch.",
            )
        self._run_id = state["run_id"]
        self._steps, self._epochs = state["step"], state["epoch"]

    # What the Learner calls

    @property
    def _sleeps(self) -> bool:
        """Whether this is no training: `validate` and `get_preds` send the events of a fit too,
        and hold the Learner's lock.
        """
        return hasattr(self.learn, "lr_finder") or bool(self.learn.lock.locked())

    def before_fit(self) -> None:
        """Look at the gradients too."""
        if self._sleeps:
            return
        if self._norm not in self.learn.cbs:
            self.learn.add_cb(self._norm)
        self._is_configured = False
        self._known_epochs = len(self.learn.history.rows)

    def before_train(self) -> None:
        """Note the time."""
        self._clock = time.perf_counter()

    def before_validate(self) -> None:
        """Forget the losses of the pass before."""
        self._losses = []

    def after_batch(self) -> None:
        """Keep a training batch's numbers, or the losses of the rows of a validation batch."""
        learn = self.learn
        if learn.training and not self._sleeps:
            seconds = time.perf_counter() - self._clock
            if not self._is_configured:
                self._configure()
            self._steps += 1
            self._pending.append((self._steps, self._batch_numbers(seconds)))
            if len(self._pending) == _KEPT_STEPS:
                self._flush()
            # What logging takes is not the training's.
            self._clock = time.perf_counter()
        elif learn.dl is learn.dls.valid and (self._gathers or not self._sleeps):
            losses = learn.task_scores.task.loss(learn.pred, learn.y, "none")
            self._losses.append((learn.xb[0]["row"], losses))

    def _configure(self) -> None:
        """Start the run, or go on with it, and log the settings: in the first batch of a fit, for
        only then has a resumed training put back which run it was.
        """
        learn, began = self.learn, time.perf_counter()
        self._is_configured = True
        self._settings = describe_learner(learn)
        epochs = self._epochs + learn.n_epoch - learn.epoch
        self._write(self.service.configure, {**self.given, **self._settings, "epochs": epochs})
        # A service that starts takes seconds, which are not the epoch's.
        learn.history.started += time.perf_counter() - began

    def _batch_numbers(self, seconds: float) -> dict[str, float | Tensor]:
        """Numbers of the batch; those on the device stay there."""
        learn = self.learn
        mask = learn.xb[0]["attention_mask"]
        within = learn.pct_train * learn.n_epoch - learn.epoch
        numbers: dict[str, float | Tensor] = {
            "train/loss": learn.loss.detach(),
            "train/smooth_loss": float(learn.recorder.losses[-1]),
            "train/epoch": self._epochs + within,
            "train/tokens_per_second": mask.sum() / seconds,
            "train/padding_share": 1 - mask.float().mean(),
        }
        if self._norm.value is not None:
            numbers["train/gradient_norm"] = self._norm.value
        for i, group in enumerate(learn.opt.hypers):
            numbers |= {f"lr/{i}": group["lr"], f"momentum/{i}": group["mom"]}
        return numbers

    def after_epoch(self) -> None:
        """Log the scores of an epoch that was trained for."""
        rows = self.learn.history.rows
        if len(rows) == self._known_epochs:
            return
        self._flush()
        self._known_epochs, self._epochs = len(rows), self._epochs + 1
        row = rows[-1]
        named = _named_scores(row)
        numbers = {f"valid/{name}": value for name, value in named.items()}
        if named.keys() & set(self.learn.task_scores.task.metric_names):
            for label, scores in self.learn.task_scores.metrics.per_label().items():
                for name in ("precision", "recall", "f1"):
                    numbers[f"per_label/{label}/{name}"] = scores[name]
        numbers |= {"train/epoch": self._epochs, "train/epoch_seconds": row["seconds"]}
        self._write(self.service.scalars, numbers, self._steps)

    def after_fit(self) -> None:
        """Log predictions of the last epoch's model."""
        if self._sleeps:
            return
        self.learn.remove_cb(self._norm)
        self._flush()
        try:
            self._log_rows()
        except Exception as error:
            # The training is done, and no picture of it is worth its weights.
            said = f"no predictions were logged ({type(error).__name__}: {error})"
            warnings.warn(said, FtkitWarning, stacklevel=2)

    # What a person calls

    def log_predictions(self) -> None:
        """Validate, and log predictions of the model as it is now."""
        learn = self._owner()
        self._gathers = True
        try:
            learn.validate()
        finally:
            self._gathers = False
        self._log_rows()

    def log_bundle(self, folder: str | Path, *, name: str = "model") -> None:
        """Keep the bundle in `folder` with the run, as an artifact that names the data, by a hash
        of its rows, and the scores. Raises SettingError for a folder that is no bundle.
        """
        if not (Path(folder) / TASK_FILE).exists():
            raise SettingError(
                f'"{folder}" is no ftkit model', remedy="Give the folder that ftkit.save wrote."
            )
        settings = self._settings or describe_learner(self._owner())
        about = {key: settings[key] for key in ("task", "checkpoint", "data_fingerprint")}
        # KeepBest, or whoever loaded weights, may have put others back than the last epoch's.
        about |= {"step": self._steps, "scores": _named_scores(self._owner().history.scores)}
        self._write(self.service.bundle, Path(folder), name, about)

    def log_report(self, file: str | Path) -> None:
        """Keep the page of a report with the run."""
        self._write(self.service.page, "report", Path(file), self._steps)

    def finish(self) -> None:
        """End the run, and upload what is left. Whatever is logged later goes on in it."""
        self._flush()
        if self._is_open:
            self._write(self.service.finish)
            self._is_open = False

    # How it is written

    def _owner(self) -> Any:
        if self.learn is None:
            raise SettingError(
                "the tracker belongs to no Learner",
                remedy="Give it to the Learner as tracker=, not to a single fit.",
            )
        return self.learn

    def _flush(self) -> None:
        """Write the batches that were kept; the device is waited for once."""
        kept, self._pending = self._pending, []
        tensors = [value for _, row in kept for value in row.values() if isinstance(value, Tensor)]
        if not tensors:
            return
        read = iter(torch.stack([tensor.float() for tensor in tensors]).tolist())
        for step, row in kept:
            numbers = {
                name: next(read) if isinstance(value, Tensor) else value
                for name, value in row.items()
            }
            self._write(self.service.scalars, numbers, step)

    def _log_rows(self) -> None:
        learn, metrics, step = self.learn, self.learn.task_scores.metrics, self._steps
        if isinstance(metrics, ClassMetrics):
            if metrics.found and len(metrics.labels) <= _MOST_LABELS:
                wanted, found = np.concatenate(metrics.wanted), np.concatenate(metrics.found)
                chart = ("valid/confusion", wanted, found, metrics.labels, step)
                self._write(self.service.confusion, *chart)
        elif spread := scores_of_texts(metrics):
            self._write(self.service.histogram, *spread, step)
        if self._losses and self.n_predictions:
            numbers, losses = (
                torch.cat(parts).cpu().numpy() for parts in zip(*self._losses, strict=True)
            )
            chosen = choose_rows(losses, self.n_predictions, learn.dls.valid.seed)
            shown = show_rows(learn, [numbers[place] for place, _ in chosen])
            table = [
                {"chosen": why, **row, "loss": float(losses[place])}
                for (place, why), row in zip(chosen, shown, strict=True)
            ]
            self._write(self.service.table, "valid/predictions", table, step)
        self._losses = []

    def _start(self) -> None:
        self._run_id = self.service.start(self._run_id, self._steps)
        self._is_open = True

    def _write(self, write: Callable[..., object], *arguments: Any) -> None:
        if not self._is_open:
            self._attempt(self._start)
        self._attempt(write, *arguments)

    def _attempt(self, write: Callable[..., object], *arguments: Any) -> None:
        """Call the service in the first process; an error of it is the last call."""
        if self._is_lost or not is_first():
            return
        try:
            write(*arguments)
        except Exception as error:
            self._is_lost, self._is_open = True, False
            warnings.warn(
                f"nothing more of this run is tracked ({type(error).__name__}: {error}); "
                "the training goes on",
                FtkitWarning,
                stacklevel=3,
            )
            self.service.abandon(error)


class WandbTracker(Tracker):
    """Logs a Learner's training to Weights & Biases; see `Tracker` for what and when."""

    def __init__(
        self,
        project: str,
        *,
        config: Mapping[str, Any] | None = None,
        predictions: int = 24,
        **options: Any,
    ) -> None:
        """`options` go to `wandb.init`: name, group, tags, entity, dir, mode, ...

        Without a key or a network the run is tracked offline, with a warning; nobody is asked for
        a key. Inside a run that is active already, as in a sweep's function, it joins that run.
        """
        super().__init__(WandbService(project, options), config=config, predictions=predictions)


class TensorBoardTracker(Tracker):
    """Logs a Learner's training to a folder that TensorBoard shows; see `Tracker`."""

    def __init__(
        self,
        folder: str | Path,
        *,
        config: Mapping[str, Any] | None = None,
        predictions: int = 24,
    ) -> None:
        """`folder` is the run's own: its name is the run's id."""
        super().__init__(TensorBoardService(folder), config=config, predictions=predictions)


def _named_scores(row: Mapping[str, float]) -> dict[str, float]:
    """The scores in a row of the history, under the names that are logged."""
    # A language model scores a loss of its own, over tokens, and that is the better one.
    valid = {"loss": row["valid_loss"], **row} if "valid_loss" in row else row
    return {
        name: value
        for name, value in valid.items()
        if name not in _NO_SCORES and not math.isnan(value)
    }
