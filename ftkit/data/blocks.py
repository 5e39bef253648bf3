"""DataBlocks: fastai's getters and splitters over the rows of a task.

    items --getters--> rows under the task's names --> TextRows --> TextLoader

A block's transforms leave what the getters give as it is. `BlockLoader`, the blocks' `dl_type`,
reads a whole split through the getters, and tokenises it in bulk: what comes of it is what
`text_loaders` makes of the same rows. Goes through the fastai door; knows no checkpoint:
`learner/blocks.py` adds the block that opens one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd
from datasets import DatasetDict

from ftkit._fastai import (
    Categorize,
    Datasets,
    EncodedMultiCategorize,
    L,
    MultiCategorize,
    Pipeline,
    RegressionSetup,
    Transform,
    TransformBlock,
)
from ftkit.data.files import SPLITS
from ftkit.data.loaders import Row, TextLoader, TextRows, check_options, text_rows
from ftkit.data.sources import read_rows
from ftkit.errors import DataError, FtkitWarning, SettingError, quoted
from ftkit.task import Inputs, Task
from ftkit.tasks import get_task

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

Fit: TypeAlias = "Callable[[Task, DatasetDict], tuple[Task, PreTrainedTokenizerBase, int]]"
"""Fits a task to data and a checkpoint; gives the checkpoint's tokenizer and length in tokens."""

_BLOCKS = (
    "Give blocks=(HFTextBlock(checkpoint), ...) with one of CategoryBlock, MultiCategoryBlock, "
    "RegressionBlock, TokenTagsBlock, AnswerBlock, SummaryBlock, or with none for language "
    "modelling."
)


class HFText(Transform):
    """Marks where the getters of what the model reads end; changes nothing."""

    def __init__(self, task: str | Task | None, fit: Fit) -> None:
        """`task` None is what the block of the target is for."""
        self.task, self.fit = task, fit


class Target(Transform):
    """Marks where the getters of what is to be learned end; changes nothing."""

    def __init__(self, *tasks: str) -> None:
        """`tasks` are the names of those that learn it; the first is the default."""
        self.tasks = tasks


class TokenTagsBlock(TransformBlock):
    """The tags of words (`get_x` gives a list of words), or the entities in a text.

    `DataBlock(blocks=(HFTextBlock("minilm"), TokenTagsBlock), get_x=ColReader("tokens"),
    get_y=ColReader("tags"))`, for `ner_learner`. Tags are what the task `NER` reads; entities are
    dicts with start, end (in characters) and label.
    """

    def __init__(self) -> None:
        super().__init__(type_tfms=Target("ner"))


class AnswerBlock(TransformBlock):
    """The answer to a question (`get_x` gives question and context), a span of the context.

    `DataBlock(blocks=(HFTextBlock("minilm"), AnswerBlock), get_x=ColReader(["question",
    "context"]), get_y=ColReader("answers"))`, for `qa_learner`. `get_y` gives answers in SQuAD's
    shape; an answer and its start in characters; or an answer that occurs once, "" for none.
    """

    def __init__(self) -> None:
        super().__init__(type_tfms=Target("qa"))


class SummaryBlock(TransformBlock):
    """A text to write: the summary of the text that is read, or its translation.

    `DataBlock(blocks=(HFTextBlock("t5-small"), SummaryBlock), get_x=ColReader("document"),
    get_y=ColReader("summary"))`, for `summarization_learner`; with
    `HFTextBlock("t5-small", task=Translation(...))` for `translation_learner`.
    """

    def __init__(self) -> None:
        super().__init__(type_tfms=Target("summarization", "translation"))


# What fastai's blocks learn; subclasses of Categorize stand before it.
_KINDS = {
    EncodedMultiCategorize: "multi",
    MultiCategorize: "multi",
    Categorize: "single",
    RegressionSetup: "regression",
}


@dataclass(frozen=True)
class Getters:
    """How a DataBlock reads an item: its getters, and what its blocks make of what they give."""

    given: Task
    """The task with the options that the user gave to the text's block."""
    item_type: type
    """What the DataBlock's items are, such as Series for the rows of a DataFrame."""
    of_text: tuple[Any, ...]
    of_target: tuple[Any, ...]
    target: tuple[Any, ...]
    """The transforms of the target's block; empty where there is none."""
    split_idx: int

    @classmethod
    def of(cls, split: Datasets) -> Getters:
        """The getters of a split; raises SettingError for blocks that make no task."""
        if split.n_inp != 1 or len(split.tls) > 2:
            raise SettingError(
                f"the DataBlock has {len(split.tls)} blocks, {split.n_inp} of them inputs",
                remedy="Give one block for the text and one for the target; get_x may give "
                "several texts in a tuple.",
            )
        of_text, (text, *_) = _cut(split.tls[0], HFText)
        of_target, target = _cut(split.tls[1], Target, *_KINDS) if split.tls[1:] else ((), ())
        mark = target[0] if target else Target("language_modeling")
        names = getattr(mark, "tasks", ("classification",))
        task = get_task(text.task or names[0])
        if task.name not in names:
            raise SettingError(
                f'HFTextBlock has the task "{task.name}", and the block of the target is for '
                f"{quoted(names)}",
                remedy="Leave the task out, or give the block that belongs to it.",
            )
        kind = type(next(_each(split.items), None))
        return cls(task, kind, of_text, of_target, target, split.split_idx)

    @property
    def task(self) -> Task:
        """The task with the kind and the names of the labels that the target's block has.

        Raises SettingError where the task has others.
        """
        mark = self.target[0] if self.target else None
        kind = next((kind for tfm, kind in _KINDS.items() if isinstance(mark, tfm)), None)
        if mark is None or kind is None:
            return self.given
        if getattr(mark, "add_na", False):
            raise SettingError(
                "the label block has add_na=True, and a row without a label teaches nothing",
                remedy="Leave it out, and drop such rows.",
            )
        found = {"kind": kind, "labels": tuple(map(str, getattr(mark, "vocab", ())))}
        for name, value in found.items():
            if getattr(self.given, name) not in (value, "auto", ()):
                raise SettingError(
                    f"the task has {name} {getattr(self.given, name)!r}, and the label block has "
                    f"{value!r}",
                    remedy=f"Leave {name} out of the task.",
                )
        return replace(self.given, **found)  # type: ignore[type-var]

    def __call__(self, items: Any, with_labels: bool) -> list[dict[str, Any]]:
        """Rows under the task's names of items such as the DataBlock's. What `get_x` would give
        stands for itself: a text, a tuple of texts, a list of words; and so does a Row.

        Raises DataError, with the number of the item, where a getter fails.
        """
        rows = []
        for number, item in enumerate(_each(items), start=1):
            try:
                rows.append(item if isinstance(item, Row) else self._row(item, with_labels))
            except DataError as error:
                raise DataError(error.problem, remedy=error.remedy, row=number) from None
            except Exception as error:
                raise DataError(
                    f"a getter fails with {type(error).__name__}: {error}",
                    remedy="Mend get_x or get_y, or the item.",
                    row=number,
                ) from error
        return rows

    def _row(self, item: Any, with_labels: bool) -> dict[str, Any]:
        if isinstance(item, (str, list, tuple, L, np.ndarray)) and not isinstance(
            item, self.item_type
        ):
            return self._inputs(item)
        row = self._inputs(self._get(self.of_text, item))
        if not (with_labels and self.target):
            return row
        value, mark = self._get(self.of_target, item), self.target[0]
        if isinstance(mark, EncodedMultiCategorize):
            value = [name for name, flag in zip(mark.vocab, value, strict=True) if flag]
        return row | self._targets(value, row)

    def _get(self, getters: Sequence[Any], item: Any) -> Any:
        for getter in getters:
            item = getter(item, split_idx=self.split_idx)
        return item

    def _inputs(self, value: Any) -> dict[str, Any]:
        """The columns that the model reads: words, a text, or several."""
        value = _plain(value)
        columns = [column for column in self.given.columns() if column.is_input]
        words = [column.name for column in columns if column.kind == "tokens"]
        if words and isinstance(value, (list, tuple)):
            return {words[0]: list(value)}
        texts = [column.name for column in columns if column.kind == "text"]
        values = value if isinstance(value, (list, tuple)) else (value,)
        if len(values) > len(texts):
            raise DataError(
                f"get_x gives {len(values)} values where {len(texts)} at most can be read",
                remedy=f"Give {quoted(texts)}.",
            )
        return dict(zip(texts, values, strict=False))

    def _targets(self, value: Any, row: Mapping[str, Any]) -> dict[str, Any]:
        """The columns to learn."""
        value = _plain(value)
        if self.given.name == "ner":
            return {"tags" if "tokens" in row else "entities": value}
        if self.given.name == "qa":
            if isinstance(value, (list, tuple)) and len(value) == 2:
                return dict(zip(("answer", "answer_start"), value, strict=True))
            return {"answers" if isinstance(value, Mapping) else "answer": value}
        name = next(column.name for column in self.given.columns() if not column.is_input)
        return {name: value}

    def undo(self, sample: Sequence[Any]) -> dict[str, Any]:
        """The row of a sample of the Datasets, whose target the block has encoded."""
        row = self._inputs(sample[0])
        if self.target:
            row |= self._targets(Pipeline(list(self.target)).decode(sample[1]), row)
        return row


class BlockLoader(TextLoader):
    """A TextLoader of what a DataBlock's getters give: the `dl_type` of its text block."""

    def __init__(self, dataset: Datasets | TextRows, bs: int = 32, **options: Any) -> None:
        """`dataset` as fastai gives it is the train split; `options` are those of TextLoader."""
        check_options(options)
        if isinstance(dataset, Datasets):
            dataset = _tokenised(dataset)
        super().__init__(dataset, bs, **options)

    def new(self, dataset: Any = None, cls: Any = None, **options: Any) -> BlockLoader:
        """A loader like this one, with some arguments changed, or of another split."""
        if isinstance(dataset, Datasets):
            check_options(options)
            dataset = _tokenised(dataset, self.dataset)
        elif dataset is not None and not isinstance(dataset, TextRows):
            raise SettingError(
                "the DataLoaders of a DataBlock make no loader of new items before a model reads "
                "them",
                remedy="Build the Learner, and use learn.dls.test_dl(items).",
            )
        loader: BlockLoader = super().new(dataset, cls, **options)
        return loader

    def create_batch(self, samples: Sequence[Any]) -> tuple[Inputs, Tensor]:
        """The batch of some samples of the Datasets, for `DataBlock.summary`."""
        getters: Getters = self.dataset.read
        rows = [getters.undo(sample) for sample in samples]
        few = replace(self.dataset, read=None).few(rows, with_labels=bool(getters.target))
        return self.new(few)._fill(np.arange(len(few)))


def _tokenised(split: Datasets, train: TextRows | None = None) -> TextRows:
    """The rows of a split, read through the getters; `train` None makes it the train split."""
    name, getters = SPLITS[min(split.split_idx, 2)], Getters.of(split)
    with _item_numbers(split):
        read = {name: getters(split.items, with_labels=True)}
        rows = read_rows(read, getters.task, split=name)
        if train is not None:
            getters.task.with_labels(DatasetDict({"train": train.items.rows, name: rows}))
            return text_rows(name, rows, train.task, train.tokenizer, train.limit, getters)
        _, (text, *_) = _cut(split.tls[0], HFText)
        with warnings.catch_warnings():
            # Said with the next split, of both.
            warnings.simplefilter("ignore", FtkitWarning)
            task, tokenizer, limit = text.fit(getters.task, DatasetDict({name: rows}))
        return text_rows(name, rows, task, tokenizer, limit, getters)


@contextmanager
def _item_numbers(split: Datasets) -> Iterator[None]:
    """Errors name the user's item, counted from 1, in place of its row in a split."""
    try:
        yield
    except DataError as error:
        if error.row is None:
            raise
        numbers = split.splits[0 if error.split == "train" else split.split_idx]
        raise DataError(
            error.problem,
            remedy=error.remedy,
            row=int(numbers[error.row - 1]) + 1,
            column=error.column,
        ) from error.__cause__


def _cut(part: Any, *marks: type) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The transforms of one block's data before a mark, and those from it on."""
    tfms = list(part.tfms.fs)
    place = next((i for i, tfm in enumerate(tfms) if isinstance(tfm, marks)), None)
    if place is None:
        names = [tfm.name.split(" --")[0] for tfm in tfms if tfm.name != "noop"]
        found = quoted(names) if names else "nothing"
        raise SettingError(
            f"a block of the DataBlock does {found}, which ftkit cannot read", remedy=_BLOCKS
        )
    return tuple(tfms[:place]), tuple(tfms[place:])


def _each(items: Any) -> Iterator[Any]:
    """The items one by one; those of a DataFrame are its rows."""
    if hasattr(items, "iloc"):
        return (items.iloc[i] for i in range(len(items)))
    return iter(items)


def _plain(value: Any) -> Any:
    """What a getter gives, in Python's own types; NaN is None."""
    if isinstance(value, (L, tuple)):
        return tuple(map(_plain, value))
    if isinstance(value, np.ndarray):
        return value.tolist()
    return None if pd.api.types.is_scalar(value) and pd.isna(value) else value
