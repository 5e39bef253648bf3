"""From data and a checkpoint's name to a fastai Learner."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ftkit._fastai import ProgressCallback, noop
from ftkit.data.loaders import TextLoaders, text_loaders
from ftkit.data.sources import load_data
from ftkit.data.tables import print_table
from ftkit.errors import SettingError, check_least
from ftkit.learner.callbacks import History, ProgressLines, SeedEachFit, shows_bars
from ftkit.learner.distributed import DataParallel, first_goes_first, is_first, join
from ftkit.learner.metrics import CountedLoss, TaskScores, task_metrics
from ftkit.learner.optimizer import GroupedAdamW, Rates
from ftkit.learner.phases import Phase, fit_phases
from ftkit.learner.precision import ChosenPrecision
from ftkit.learner.resume import ResumableLearner
from ftkit.learner.tracking import Tracker
from ftkit.model.adapters import LoRA, add_lora
from ftkit.model.checkpoint import open_checkpoint
from ftkit.model.device import Precision, autocast_dtype, default_device
from ftkit.model.groups import describe_groups, layer_groups
from ftkit.model.module import TextModel
from ftkit.model.reinit import reinitialize_layers
from ftkit.task import Reduction, Task
from ftkit.tasks import (
    NER,
    Classification,
    LanguageModeling,
    QuestionAnswering,
    Summarization,
    Translation,
    get_task,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class TaskLoss:
    """A task's loss as fastai wants it: with `reduction`, `activation` and `decodes`."""

    def __init__(self, scores: TaskScores) -> None:
        """`scores` know the task, and what validation rows chose for it."""
        self.scores = scores
        self.reduction: Reduction = "mean"

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch."""
        return self.scores.task.loss(outputs, targets, self.reduction)

    def activation(self, outputs: Tensor) -> Tensor:
        """Scores from outputs, for `get_preds`."""
        return self.scores.task.scores(outputs)

    def decodes(self, scores: Tensor) -> Tensor:
        """Decisions from scores, for `get_preds(with_decoded=True)`."""
        return self.scores.trained_task.decide(scores)


class TextLearner(ResumableLearner):
    """A fastai Learner that shows its batches, and whose precision verbs also work on a CPU."""

    dls: TextLoaders
    checkpoint: str
    """The name of the checkpoint that it started from."""
    task_scores: TaskScores
    """The scores of the last validation, and what it chose."""

    def show_batch(self, **kwargs: Any) -> None:
        """Print rows of a training batch, as `learn.dls.show_batch` does."""
        self.dls.show_batch(**kwargs)

    def show_results(
        self, ds_idx: int = 1, dl: Any = None, max_n: int = 9, shuffle: bool = True, **kwargs: Any
    ) -> None:
        """Print rows of the validation set, or of `dl`, with what the model answers."""
        loader = self.dls[ds_idx] if dl is None else dl
        batch = loader.new(bs=max_n, max_tokens=None, shuffle=shuffle).one_batch()
        self.model.eval()
        with torch.inference_mode():
            outputs = self.model.answer(batch[0])
        task = self.task_scores.trained_task
        loader.show_results(batch, task.decide(task.scores(outputs)).cpu(), max_n, **kwargs)

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

        Gradual unfreezing (Howard and Ruder 2018) is `fine_tune(phases=[Phase(1, groups=1),
        Phase(1, groups=2), Phase(3)])`; named options go to `fit_one_cycle` in each phase.

        Raises SettingError for neither or both of `epochs` and `phases`, and as `fit_phases`.
        """
        if (epochs is None) == (phases is None):
            raise SettingError(
                "fine_tune wants epochs or phases", remedy="Give one of them: fine_tune(3)."
            )
        if phases is None:
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


def finetune_learner(
    data: Any,
    checkpoint: str | Path,
    *,
    task: str | Task,
    bs: int = 32,
    max_tokens: int | None = None,
    precision: Precision = "auto",
    seed: int = 42,
    new_head: bool = False,
    body_groups: int | None = 3,
    reinit_layers: int = 0,
    tracker: Tracker | None = None,
    lora: LoRA | int | None = None,
    gradient_checkpointing: bool = False,
    compile: bool | str = False,
    **learner_options: Any,
) -> TextLearner:
    """A Learner that fine-tunes a checkpoint for a task.

    `data` is what `load_data` gives, or what it takes. `max_tokens` bounds the padded tokens of
    a batch in place of `bs` rows; under torchrun both are for each process. `new_head` starts a
    new head on a checkpoint that was fine-tuned for other labels.
    `body_groups` is how many groups the layers make between the embeddings and the head (None:
    one a layer). `reinit_layers` draws so many of the top layers anew; they learn as the head does.
    `lora`, or its rank, trains small matrices beside the checkpoint's own, which stay as they are,
    and the head. `tracker` logs every fit.

    `gradient_checkpointing` computes each layer's activations again in the backward pass instead
    of keeping them: less memory, slower steps, the same gradients (Chen et al. 2016). `compile`
    has torch.compile make the model's code, which takes minutes before the first step; a string
    names a backend of it.

    `learner_options` go to fastai's Learner: `wd`, `cbs`, `metrics`, `path`, ...

    The same data, settings, seed and machine give the same weights, bit for bit.

    Raises DataError, CheckpointError or SettingError where these cannot work together.
    """
    check_least(1, bs=bs, max_tokens=max_tokens, body_groups=body_groups)
    task, shard = get_task(task), join()
    rows = load_data(data, task, seed=seed)
    device = default_device()
    autocast_dtype(precision, device)
    lora = LoRA(lora) if isinstance(lora, int) else lora
    if lora is not None and reinit_layers:
        raise SettingError(
            "lora leaves the layers as they are, and reinit_layers draws some anew",
            remedy="Give one of the two.",
        )
    opened = open_checkpoint(checkpoint, task, rows, new_head=new_head, seed=seed)
    with first_goes_first():
        dls = text_loaders(
            rows,
            opened.task,
            opened.tokenizer,
            opened.limit,
            bs=bs,
            max_tokens=max_tokens,
            seed=seed,
            shard=shard,
            device=device,
        )
    drawn = opened.new | reinitialize_layers(opened.model, reinit_layers, seed)
    if lora is not None:
        add_lora(opened.model, lora, opened.task.head(), opened.new, seed=seed)
    if gradient_checkpointing:
        _checkpoint_gradients(opened.model)
    model = TextModel(opened.model, opened.task).to(device)
    if compile:
        _compile(opened.model, compile if isinstance(compile, str) else "inductor")
    trainable = frozenset(name for name, p in model.named_parameters() if p.requires_grad)
    new = frozenset(f"hf_model.{name}" for name in drawn)
    scores = TaskScores(opened.task, opened.tokenizer)
    options: dict[str, Any] = {
        # fastai reads slice(lr) as lr for the head and a tenth of it for everything below. LoRA's
        # matrices are new too, and learn at the head's rate.
        "lr": slice(default_lr(model)) if lora is None else default_lr(model),
        "wd": 0.01,
        "metrics": task_metrics(scores),
        **learner_options,
    }
    learn = TextLearner(
        dls,
        model,
        loss_func=TaskLoss(scores),
        opt_func=GroupedAdamW,
        splitter=partial(layer_groups, only=trainable, new=new, body_groups=body_groups),
        # fastai would leave the norms of frozen layers trainable.
        train_bn=False,
        **options,
    )
    learn.checkpoint, learn.task_scores = opened.name, scores
    learn.recorder.loss = CountedLoss()
    learn.add_cbs([SeedEachFit(seed), ChosenPrecision(precision), History()])
    if is_first():
        learn.add_cbs(tracker)
    if shard[1] > 1:
        learn.add_cb(DataParallel(seed))
    if not is_first():
        learn.remove_cb(ProgressCallback)
        learn.logger = noop
    elif not shows_bars():
        learn.remove_cb(ProgressCallback)
        learn.add_cb(ProgressLines())
    return learn


def classification_learner(
    data: Any, checkpoint: str | Path, *, task: Classification | None = None, **options: Any
) -> TextLearner:
    """A Learner for text classification; `options` are those of `finetune_learner`.

    `task` holds what belongs to classification: long texts, class weights, label smoothing.
    """
    return finetune_learner(data, checkpoint, task=task or Classification(), **options)


def ner_learner(
    data: Any, checkpoint: str | Path, *, task: NER | None = None, **options: Any
) -> TextLearner:
    """A Learner for named-entity recognition; `options` are those of `finetune_learner`.

    `task` holds what belongs to it: windows, which sub-tokens carry a tag, how tags are decoded.
    """
    return finetune_learner(data, checkpoint, task=task or NER(), **options)


def qa_learner(
    data: Any, checkpoint: str | Path, *, task: QuestionAnswering | None = None, **options: Any
) -> TextLearner:
    """A Learner for extractive question answering; `options` are those of `finetune_learner`.

    `task` holds what belongs to it: windows, the longest answer, mending of offsets.
    """
    return finetune_learner(data, checkpoint, task=task or QuestionAnswering(), **options)


def summarization_learner(
    data: Any, checkpoint: str | Path, *, task: Summarization | None = None, **options: Any
) -> TextLearner:
    """A Learner for summarization; `options` are those of `finetune_learner`.

    An encoder checkpoint becomes both halves of an encoder-decoder. `task` holds what belongs to
    it: prefix, lengths, beams, how much of validation is generated for.
    """
    return finetune_learner(data, checkpoint, task=task or Summarization(), **options)


def translation_learner(
    data: Any, checkpoint: str | Path, *, task: Translation | None = None, **options: Any
) -> TextLearner:
    """A Learner for translation; `options` are those of `finetune_learner`."""
    return finetune_learner(data, checkpoint, task=task or Translation(), **options)


def language_model_learner(
    data: Any, checkpoint: str | Path, *, task: LanguageModeling | None = None, **options: Any
) -> TextLearner:
    """A Learner that goes on pretraining, on masked or on next words; `options` are those of
    `finetune_learner`. What it saves is a checkpoint for the other verbs.
    """
    return finetune_learner(data, checkpoint, task=task or LanguageModeling(), **options)


def _checkpoint_gradients(model: PreTrainedModel) -> None:
    """Raises SettingError for an architecture that cannot."""
    enable: Any = getattr(model, "activation_checkpointing_enable", None)
    try:
        # transformers 6 knows the first name only, and older ones the second.
        (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})
    except ValueError:
        raise SettingError(
            f"{type(model).__name__} cannot compute its activations again",
            remedy="Leave out gradient_checkpointing, and give a smaller bs or max_tokens.",
        ) from None
    # It also lets gradients run down to the embeddings, which would undo what freeze() saves.
    model.disable_input_require_grads()  # type: ignore[no-untyped-call]


def _compile(model: PreTrainedModel, backend: str) -> None:
    """Raises SettingError for a backend that torch does not know."""
    known = torch.compiler.list_backends(exclude_tags=())
    if backend not in known:
        raise SettingError(
            f'torch.compile has no backend "{backend}"', remedy=f"Use one of {', '.join(known)}."
        )
    # In place, so that saved names stay plain; dynamic, for every batch has another length.
    model.compile(backend=backend, dynamic=True)


def default_lr(model: TextModel) -> float:
    """Learning rate of a new head to start with: 5e-4 at a width of 768, more for narrower models.

    Adam's best rate goes with 1 / width (Yang et al. 2022, "Tensor Programs V").
    """
    width = getattr(model.hf_model.config.get_text_config(), "hidden_size", 768)
    return 5e-4 * 768 / width
