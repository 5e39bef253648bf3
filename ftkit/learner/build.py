"""From data and a checkpoint's name to a fastai Learner."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ftkit._fastai import DataLoaders, ProgressCallback, fastai_defaults, noop
from ftkit.data.loaders import TextLoaders, text_loaders
from ftkit.data.sources import load_data
from ftkit.errors import SettingError, check_least, quoted
from ftkit.learner.blocks import block_rows, fit_loaders
from ftkit.learner.callbacks import History, ProgressLines, SeedEachFit, StopAtNaN, shows_bars
from ftkit.learner.curves import Curves
from ftkit.learner.distributed import first_goes_first, is_first, join
from ftkit.learner.learner import TaskLoss, TextLearner
from ftkit.learner.metrics import CountedLoss, TaskScores, task_metrics
from ftkit.learner.optimizer import GroupedAdamW
from ftkit.learner.precision import ChosenPrecision
from ftkit.learner.sharding import asked_sharing, check_shareable, parallel_callbacks
from ftkit.learner.tracking import Tracker
from ftkit.model.adapters import LoRA, add_lora
from ftkit.model.checkpoint import Checkpoint, open_checkpoint
from ftkit.model.device import Precision, autocast_dtype, default_device
from ftkit.model.groups import layer_groups
from ftkit.model.module import TextModel, checkpoint_gradients, compile_in_place
from ftkit.model.reinit import reinitialize_layers
from ftkit.task import Task
from ftkit.tasks import (
    NER,
    Classification,
    LanguageModeling,
    QuestionAnswering,
    Summarization,
    Translation,
    get_task,
)


def finetune_learner(
    data: Any,
    checkpoint: str | Path,
    *,
    task: str | Task,
    bs: int | None = None,
    max_tokens: int | None = None,
    precision: Precision = "auto",
    seed: int | None = None,
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

    `data` is what `load_data` gives, or what it takes, or the DataLoaders of a DataBlock with
    `HFTextBlock`; these have `bs`, `max_tokens`, `seed` and the task's options of their own, which
    may be left out here and must not be others. `bs` is 32 rows and `seed` 42 by default;
    `max_tokens` bounds the padded tokens of a batch in place of `bs`. `new_head` starts a new head
    on a checkpoint that was fine-tuned for other labels. Under torchrun `bs` and `max_tokens` are
    for each process.

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
    task, shard, sharing = get_task(task), join(), asked_sharing()
    device, is_loaders = _training_device(), isinstance(data, DataLoaders)
    if is_loaders and shard[1] > 1:
        raise SettingError(
            "the DataLoaders of a DataBlock are not shared out to several processes",
            remedy="Give the rows themselves, or train in one process.",
        )
    if is_loaders:
        rows, task = block_rows(data, task, bs=bs, max_tokens=max_tokens, seed=seed)
        seed, device = data.train.seed, data.train.device or device
    else:
        seed = 42 if seed is None else seed
        rows = load_data(data, task, seed=seed)
    autocast_dtype(precision, device)
    lora = LoRA(lora) if isinstance(lora, int) else lora
    if lora is not None and reinit_layers:
        raise SettingError(
            "lora leaves the layers as they are, and reinit_layers draws some anew",
            remedy="Give one of the two.",
        )
    opened = open_checkpoint(checkpoint, task, rows, new_head=new_head, seed=seed)
    if is_loaders:
        dls = fit_loaders(data, opened, device)
    else:
        with first_goes_first():
            dls = text_loaders(
                rows,
                opened.task,
                opened.tokenizer,
                opened.limit,
                bs=bs or 32,
                max_tokens=max_tokens,
                seed=seed,
                shard=shard,
                device=device,
            )
    drawn = opened.new | reinitialize_layers(opened.model, reinit_layers, seed)
    if lora is not None:
        add_lora(opened.model, lora, opened.task.head(), opened.new, seed=seed)
    if sharing is not None:
        check_shareable(opened.model, sharing, compile)
    if gradient_checkpointing or (sharing is not None and sharing.recomputes):
        checkpoint_gradients(opened.model)
    if compile:
        compile_in_place(opened.model, compile)
    return assemble_learner(
        dls,
        replace(opened, new=drawn),
        device=device,
        precision=precision,
        seed=seed,
        body_groups=body_groups,
        tracker=tracker,
        has_lora=lora is not None,
        **learner_options,
    )


def assemble_learner(
    dls: TextLoaders,
    opened: Checkpoint,
    *,
    device: torch.device,
    precision: Precision = "auto",
    seed: int = 42,
    body_groups: int | None = 3,
    tracker: Tracker | None = None,
    has_lora: bool = False,
    **learner_options: Any,
) -> TextLearner:
    """The Learner of loaders and a model that fit each other; options as in `finetune_learner`."""
    model = TextModel(opened.model, opened.task).to(device)
    trainable = frozenset(name for name, p in model.named_parameters() if p.requires_grad)
    new = frozenset(f"hf_model.{name}" for name in opened.new)
    scores = TaskScores(opened.task, opened.tokenizer)
    options: dict[str, Any] = {
        # fastai reads slice(lr) as lr for the head and a tenth of it for everything below. LoRA's
        # matrices are new too, and learn at the head's rate.
        "lr": slice(default_lr(model)) if not has_lora else default_lr(model),
        "wd": 0.01,
        "metrics": task_metrics(scores),
        "opt_func": GroupedAdamW,
        **learner_options,
    }
    if fixed := [name for name in ("loss_func", "splitter", "train_bn") if name in options]:
        raise SettingError(
            f"{quoted(fixed)} cannot be given",
            remedy="The loss is the task's and the groups are layers; body_groups says how many, "
            "and a callback may change learn.loss_grad.",
        )
    learn = TextLearner(
        dls,
        model,
        loss_func=TaskLoss(scores),
        splitter=partial(layer_groups, only=trainable, new=new, body_groups=body_groups),
        # fastai would leave the norms of frozen layers trainable.
        train_bn=False,
        **options,
    )
    learn.checkpoint, learn.task_scores = opened.name, scores
    learn.recorder.loss = CountedLoss()
    learn.add_cbs([SeedEachFit(seed), ChosenPrecision(precision), History(), Curves(), StopAtNaN()])
    learn.add_cbs(tracker)
    if dls.train.n_shards > 1:
        learn.add_cbs(parallel_callbacks(seed))
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


def _training_device() -> torch.device:
    """The first GPU where there is one, unless fastai's `default_device(False)` forbids it."""
    return torch.device("cpu") if fastai_defaults.use_cuda is False else default_device()


def default_lr(model: TextModel) -> float:
    """Learning rate of a new head to start with: 5e-4 at a width of 768, more for narrower models.

    Adam's best rate goes with 1 / width (Yang et al. 2022, "Tensor Programs V").
    """
    width = getattr(model.hf_model.config.get_text_config(), "hidden_size", 768)
    return 5e-4 * 768 / width
