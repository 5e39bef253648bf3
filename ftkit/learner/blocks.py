"""DataBlocks where data and model meet: the block that opens a checkpoint, and its DataLoaders
given to a verb. `build` calls it.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from datasets import DatasetDict

from ftkit._fastai import DataLoaders, TransformBlock
from ftkit.data.blocks import BlockLoader, HFText
from ftkit.data.files import SPLITS
from ftkit.data.loaders import TextLoaders, moved_to, text_rows
from ftkit.data.tokenize import task_limit
from ftkit.errors import SettingError
from ftkit.model.checkpoint import fit_without_weights
from ftkit.task import Task

if TYPE_CHECKING:
    from ftkit.model.checkpoint import Checkpoint


class HFTextBlock(TransformBlock):
    """What the model reads: a text, several in a tuple (pairs; question and context), or words.

    `DataBlock(blocks=(HFTextBlock("minilm"), CategoryBlock), get_x=ColReader("body"),
    get_y=ColReader("queue"), splitter=ColSplitter()).dataloaders(df, bs=32)` gives DataLoaders
    that `classification_learner(dls, "minilm")` takes, and that hold the batches of the direct
    path. The target may be fastai's CategoryBlock, MultiCategoryBlock or RegressionBlock, or
    TokenTagsBlock, AnswerBlock or SummaryBlock; without one it is language modelling.

    `dataloaders` takes what TextLoader does (`bs`, 32 by default, `max_tokens`, `seed`), and of
    fastai's `val_bs` (that of train by default; the direct path has twice as much), `shuffle`,
    `val_shuffle`, `drop_last`, `device` and `path`. `batch_tfms` are applied to batches.
    """

    def __init__(self, checkpoint: str | Path, task: str | Task | None = None) -> None:
        """`task` holds options, such as `NER(stride=32)`; None is what the target's block is for.

        Building the DataLoaders raises DataError for items that cannot be used, with their number,
        CheckpointError and SettingError.
        """
        super().__init__(
            type_tfms=HFText(task, partial(fit_without_weights, checkpoint)),
            dl_type=BlockLoader,
            # As in the direct path, where fastai has 64 and drops the last batch.
            dls_kwargs={"bs": 32, "drop_last": False},
        )


def block_rows(dls: DataLoaders, task: Task, **settings: int | None) -> tuple[DatasetDict, Task]:
    """The rows of a DataBlock's DataLoaders, and their task.

    Raises SettingError for DataLoaders of another make or task, and where `task` or the
    `settings` that are not None say something else than the DataLoaders.
    """
    train = dls.train
    if not isinstance(train, BlockLoader):
        raise SettingError(
            f"these {type(dls).__name__} were not made by a DataBlock with HFTextBlock",
            remedy="Give the rows themselves, or DataBlock(blocks=(HFTextBlock(checkpoint), ...)).",
        )
    getters = train.dataset.read
    if type(task) is not type(getters.given):
        raise SettingError(
            f'the DataLoaders are for the task "{getters.given.name}", not for "{task.name}"',
            remedy=f'Use the verb for it, or HFTextBlock(checkpoint, task="{task.name}").',
        )
    if task not in (type(task)(), getters.given):
        raise SettingError(
            "the task has options that the DataLoaders were not made with",
            remedy="Give it to HFTextBlock(checkpoint, task=...) alone.",
        )
    for name, value in settings.items():
        if value is not None and value != getattr(train, name):
            raise SettingError(
                f"{name} is {value}, and {getattr(train, name)} in the DataLoaders",
                remedy=f"Give it to dataloaders(..., {name}={value}) alone.",
            )
    splits = zip(SPLITS, dls.loaders, strict=False)
    return DatasetDict({name: each.dataset.items.rows for name, each in splits}), getters.task


def fit_loaders(dls: DataLoaders, opened: Checkpoint, device: torch.device) -> TextLoaders:
    """DataLoaders like these, for the opened checkpoint: its order of labels, its length.

    Raises SettingError where it has another tokenizer than they were made with.
    """
    ours, theirs = opened.tokenizer, dls.train.dataset.tokenizer
    if ours.backend_tokenizer.to_str() != theirs.backend_tokenizer.to_str():
        raise SettingError(
            f'"{opened.name}" has another tokenizer than the checkpoint of HFTextBlock',
            remedy="Give both the same checkpoint.",
        )
    loaders = []
    for split, loader in enumerate(dls.loaders):
        data = loader.dataset
        if (data.task, data.limit) != (opened.task, task_limit(opened.task, opened.limit)):
            name, rows = SPLITS[min(split, 2)], data.items.rows
            data = text_rows(name, rows, opened.task, ours, opened.limit, data.read)
        loaders.append(loader.new(data, device=moved_to(device)))
    return TextLoaders(*loaders, path=dls.path, device=moved_to(device))
