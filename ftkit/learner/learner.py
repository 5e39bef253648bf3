"""The Learner that every verb returns: fastai's, for rows of text and a Hugging Face model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ftkit._fastai import L, join_path_file
from ftkit.data.loaders import TextLoaders
from ftkit.data.tables import print_table
from ftkit.errors import SettingError
from ftkit.learner.distributed import is_first
from ftkit.learner.metrics import TaskScores
from ftkit.learner.optimizer import Rates
from ftkit.learner.phases import Phase, fit_phases
from ftkit.learner.precision import ChosenPrecision
from ftkit.learner.resume import ResumableLearner
from ftkit.learner.sharding import check_saves_whole
from ftkit.model.device import Precision, autocast_dtype
from ftkit.model.groups import describe_groups
from ftkit.task import Reduction


class TaskLoss:
    """A task's loss as fastai wants it: with `reduction`, `activation` and `decodes`."""

    def __init__(self, scores: TaskScores) -> None:
        """`scores` know the task, and what validation rows chose for it."""
        self.scores = scores
        self.reduction: Reduction = "mean"

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch."""
        return self.scores.task.loss(outputs, targets, self.reduction)

    def activation(self, outputs: Tensor | L) -> Tensor | L:
        """Scores from outputs, for `get_preds`."""
        return _of_rows(self.scores.task.scores, outputs)

    def decodes(self, scores: Tensor | L) -> Tensor | L:
        """Decisions from scores, for `get_preds(with_decoded=True)`."""
        return _of_rows(self.scores.trained_task.decide, scores)


def _of_rows(answer: Callable[[Tensor], np.ndarray], rows: Tensor | L) -> Tensor | L:
    """What a task makes of all rows; where batches differ in shape, fastai gathers a list of them.

    The rows of what is made are a tensor again where they are of one shape.
    """
    if isinstance(rows, Tensor):
        return torch.from_numpy(answer(rows))
    made = [torch.from_numpy(answer(row[None]))[0] for row in rows]
    return torch.stack(made) if len({each.shape for each in made}) == 1 else L(made)


def _beside(weights: Path) -> Path:
    return weights.with_suffix(".scores.json")


class TextLearner(ResumableLearner):
    """A fastai Learner that shows its batches, and whose precision verbs also work on a CPU."""

    dls: TextLoaders
    checkpoint: str
    """The name of the checkpoint that it started from."""
    task_scores: TaskScores
    """The scores of the last validation, and what it chose."""

    def show_batch(self, **kwargs: Any) -> None:
        """Show rows of a training batch in a table, as `learn.dls.show_batch` does."""
        self.dls.show_batch(**kwargs)

    def show_results(
        self, ds_idx: int = 1, dl: Any = None, max_n: int = 9, shuffle: bool = True, **kwargs: Any
    ) -> None:
        """Show rows of the validation set, or of `dl`, in a table with what the model answers."""
        loader = self.dls[ds_idx] if dl is None else dl
        batch = loader.new(bs=max_n, max_tokens=None, shuffle=shuffle).one_batch()
        self.model.eval()
        with torch.inference_mode():
            outputs = self.model.answer(batch[0])
        task = self.task_scores.trained_task
        loader.show_results(batch, task.decide(task.scores(outputs)), max_n, **kwargs)

    def show_groups(self, lr: Rates | None = None) -> None:
        """Print the groups of layers that `freeze_to` counts, and the highest rates that a verb
        given `lr`, by default the Learner's own, would train them at.
        """
        groups = self.splitter(self.model)
        rates = self.opt_func(groups, lr=self.lr if lr is None else lr).hypers
        holds = describe_groups(self.model.hf_model, groups)
        print_table(
            [
                {
                    "group": i,
                    "holds": held,
                    "tensors": len(group),
                    "parameters": f"{sum(p.numel() for p in group):,}",
                    "trainable": "yes" if any(p.requires_grad for p in group) else "no",
                    "lr": f"{rate['lr']:.2g}",
                }
                for i, (group, held, rate) in enumerate(zip(groups, holds, rates, strict=True))
            ]
        )

    def fine_tune(
        self,
        epochs: int | None = None,
        *options: Any,
        phases: Sequence[Phase] | None = None,
        **named: Any,
    ) -> None:
        """Train as fastai's `fine_tune(epochs, base_lr)` does, or in the given phases.

        `base_lr` is one number, or a slice of one, as `learn.lr` is.

        Gradual unfreezing (Howard and Ruder 2018) is `fine_tune(phases=[Phase(1, groups=1),
        Phase(1, groups=2), Phase(3)])`; named options go to `fit_one_cycle` in each phase.

        Raises SettingError for neither or both of `epochs` and `phases`, for a rate that is not
        one number, and as `fit_phases`.
        """
        if (epochs is None) == (phases is None):
            raise SettingError(
                "fine_tune wants epochs or phases", remedy="Give one of them: fine_tune(3)."
            )
        if phases is None:
            if options:
                options = (_one_rate(options[0]), *options[1:])
            elif "base_lr" in named:
                named["base_lr"] = _one_rate(named["base_lr"])
            super().fine_tune(epochs, *options, **named)
        else:
            fit_phases(self, phases, **named)

    def predict(self, item: Any, rm_type_tfms: Any = None, with_input: bool = False) -> Any:
        """What is decided for one row (a text, a tuple of texts, or a dict), in words and as a
        tensor, and its scores; a task that generates gives its typed prediction instead.
        """
        task = self.task_scores.trained_task
        if task.packs:
            raise SettingError(
                f"a model for {task.name} reads blocks of text and answers no rows",
                remedy="Save it, and fine-tune from its folder or open it with transformers.",
            )
        if task.generates:
            loader = self.dls.test_dl([item])
            (inputs, _) = loader.one_batch()
            self.model.eval()
            rows, tokenizer = loader.rows_of(inputs), loader.dataset.tokenizer
            found: tuple[Any, ...] = tuple(task.decode(self.model.answer(inputs), rows, tokenizer))
        else:
            loader = self.dls.test_dl([item], rm_type_tfms)
            scores, _, decided = self.get_preds(dl=loader, with_decoded=True)
            words = loader.words_of(torch.zeros(1, dtype=torch.long), decided[:1])
            found = (words[0], decided[0], scores[0])
        return (item, *found) if with_input else found

    def save(self, file: str | Path, with_opt: bool = True, **kwargs: Any) -> Path:
        """As fastai's; their scores and what their validation chose lie beside the weights, in a
        file that ends in .scores.json.

        Raises SettingError or TrainingError where only a share could be written.
        """
        check_saves_whole(self, with_opt)
        written: Path = super().save(file, with_opt=with_opt, **kwargs)
        if is_first() and isinstance(written, Path):
            about = {"chosen": self.task_scores.chosen, "scores": self.history.scores}
            _beside(written).write_text(json.dumps(about), encoding="utf-8")
        return written

    def load(self, file: str | Path, device: Any = None, **kwargs: Any) -> TextLearner:
        """As fastai's, with what `save` wrote beside the weights, where that is there."""
        super().load(file, device=device, **kwargs)
        about: dict[str, Any] = {"chosen": {}, "scores": {}}
        path = join_path_file(file, self.path / self.model_dir, ext=".pth")
        if isinstance(path, Path) and _beside(path).exists():
            about = json.loads(_beside(path).read_text(encoding="utf-8"))
        self.task_scores.choose(about["chosen"])
        self.history.scores = about["scores"]
        return self

    def to_fp16(self, **kwargs: Any) -> TextLearner:
        """Compute in fp16 from now on; raises SettingError where the device cannot."""
        return self._to("fp16")

    def to_bf16(self) -> TextLearner:
        """Compute in bf16 from now on; raises SettingError where the device cannot."""
        return self._to("bf16")

    def to_fp32(self) -> TextLearner:
        """Compute in float32 from now on."""
        return self._to("fp32")

    def _to(self, precision: Precision) -> TextLearner:
        self.remove_cb(ChosenPrecision)
        device = next(self.model.parameters()).device
        self.model.autocast_dtype = autocast_dtype(precision, device)
        self.add_cb(ChosenPrecision(precision))
        return self


def _one_rate(lr: Any) -> Any:
    """The number that a slice without a start holds; a number as it is."""
    rate = lr.stop if isinstance(lr, slice) and lr.start is None else lr
    if not isinstance(rate, Real):
        raise SettingError(
            f"fine_tune takes one learning rate, and was given {lr!r}",
            remedy="Give a number; fine_tune(phases=[Phase(3, lr=...)]) takes a rate a group.",
        )
    return rate
