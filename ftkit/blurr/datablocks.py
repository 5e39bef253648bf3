"""A Blurr DataBlock under ftkit: its rows, as its getters and blocks give them, and its model.

    dls --rows--> DatasetDict --text_loaders--> TextLoaders + hf_model --> TextLearner

Blurr's own batches are not used: they are tokenised anew in every epoch, each item by itself, and
hold what its transforms make of them. Goes through the fastai door.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import datasets
from blurr.text.data.all import (
    BatchTokenizeTransform,
    LMBatchTokenizeTransform,
    OnlyFirstTokenLabelingStrategy,
    QABatchTokenizeTransform,
    Seq2SeqBatchTokenizeTransform,
    TokenClassBatchTokenizeTransform,
    first_blurr_tfm,
)

from ftkit._fastai import (
    DataLoaders,
    Datasets,
    EncodedMultiCategorize,
    MultiCategorize,
    RegressionSetup,
)
from ftkit.blurr.answers import context_side
from ftkit.data.loaders import text_loaders
from ftkit.errors import FtkitWarning, SettingError, quoted
from ftkit.learner.build import assemble_learner
from ftkit.learner.distributed import join
from ftkit.learner.learner import TextLearner
from ftkit.model.checkpoint import adopt_model
from ftkit.model.device import Precision, autocast_dtype, default_device
from ftkit.spans import trim_span
from ftkit.targets.tags import tags_of_types
from ftkit.task import Task
from ftkit.tasks import (
    NER,
    Classification,
    LanguageModeling,
    QuestionAnswering,
    Summarization,
    Translation,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ftkit.learner.tracking import Tracker

Row: TypeAlias = "dict[str, Any]"
Read: TypeAlias = "tuple[Task, Callable[..., Row]]"
"""A task, and what makes a row of it from an item's input and targets."""


def learner(
    dls: DataLoaders,
    hf_model: PreTrainedModel,
    *,
    precision: Precision = "auto",
    tracker: Tracker | None = None,
    seed: int = 42,
    **learner_options: Any,
) -> TextLearner:
    """Ftkit's Learner for the DataLoaders of a Blurr DataBlock, and the model they were made for.

    It has ftkit's optimizer, layer groups, precision, exact resume (`cbs=Checkpoints(...)`) and
    tracking; `ftkit.save` writes its model with the names of the labels. The splits, their rows
    and labels, the batch size and the longest sequence are those of `dls`. The model goes on from
    its weights. `learner_options` go to fastai's Learner.

    Raises SettingError for DataLoaders without a Blurr DataBlock, DataError for rows that cannot
    be used, and CheckpointError where the model's head is for something else.
    """
    splits = dict(zip(("train", "validation"), dls.loaders, strict=False))
    is_block = len(splits) == 2 and isinstance(dls.train.dataset, Datasets)
    transform = first_blurr_tfm(dls) if is_block else None
    if not isinstance(transform, BatchTokenizeTransform):
        raise SettingError(
            "these DataLoaders were not made by a DataBlock with Blurr's TextBlock and a splitter",
            remedy="Give such ones, or give the rows themselves to a verb such as "
            "ftkit.classification_learner(rows, checkpoint).",
        )
    if join()[1] > 1:
        raise SettingError(
            "the DataLoaders of a DataBlock are not shared out to several processes",
            remedy="Give the rows themselves to ftkit's verbs, or train in one process.",
        )
    device = default_device()
    autocast_dtype(precision, device)
    task, read = _reader(dls.train_ds, transform)
    rows = datasets.DatasetDict(
        {
            split: datasets.Dataset.from_list([read(*item) for item in _items(loader.dataset)])
            for split, loader in splits.items()
        }
    )
    # A Blearner leaves it frozen but for the head; ftkit's Learners begin with all of it.
    hf_model.requires_grad_(True)
    opened = adopt_model(hf_model, transform.hf_tokenizer, task, rows)
    ours = text_loaders(
        rows,
        opened.task,
        opened.tokenizer,
        opened.limit,
        bs=dls.train.bs,
        seed=seed,
        device=device,
    )
    return assemble_learner(
        ours,
        opened,
        device=device,
        precision=precision,
        seed=seed,
        tracker=tracker,
        **{"path": dls.path, **learner_options},
    )


def _items(split: Datasets) -> Iterator[list[Any]]:
    """What the getters and the blocks make of each item: the input, and its targets."""
    return ([part[i] for part in split.tls] for i in range(len(split)))


def _reader(split: Datasets, transform: BatchTokenizeTransform) -> Read:
    """How the rows of a DataBlock are read, by its tokenising transform."""
    readers: Mapping[type, Callable[[Datasets, Any], Read]] = {
        QABatchTokenizeTransform: _questions,
        TokenClassBatchTokenizeTransform: _tags,
        LMBatchTokenizeTransform: _texts,
        Seq2SeqBatchTokenizeTransform: _writing,
        # The others' base, and so the last.
        BatchTokenizeTransform: _classes,
    }
    return next(read for kind, read in readers.items() if isinstance(transform, kind))(
        split, transform
    )


def _text(value: Any) -> Any:
    """The text, or texts, of an input: Blurr takes them in a dict too, beside an id."""
    return value["text"] if isinstance(value, Mapping) else value


def _classes(split: Datasets, transform: Any) -> Read:
    marks = list(split.tls[1].tfms.fs)
    if any(isinstance(mark, RegressionSetup) for mark in marks):
        task = Classification(kind="regression", max_length=transform.max_length)
        return task, lambda value, target: {**_inputs(value), "label": float(target)}
    names = [str(name) for name in transform.kwargs.get("labels") or split.tls[1].vocab]
    multi = any(isinstance(mark, (MultiCategorize, EncodedMultiCategorize)) for mark in marks)
    task = Classification(
        kind="multi" if multi else "single", labels=tuple(names), max_length=transform.max_length
    )

    def read(value: Any, target: Any) -> Row:
        label: Any = (
            [name for name, flag in zip(names, target.tolist(), strict=True) if flag]
            if multi
            else names[int(target)]
        )
        return {**_inputs(value), "label": label}

    return task, read


def _inputs(value: Any) -> Row:
    texts = _text(value)
    return {"text": texts} if isinstance(texts, str) else dict(zip(_PAIR, texts, strict=True))


_PAIR = ("text", "text_pair")


def _tags(split: Datasets, transform: Any) -> Read:
    names = [str(name) for name in split.tls[1].vocab]
    wanted = tags_of_types({name[2:] for name in names} - {""})
    if sorted(names) != sorted(wanted):
        raise SettingError(
            f"the tags of the DataBlock lack {quoted(sorted(set(wanted) - set(names)))}, or have "
            f"others than BIO: {quoted(names)}",
            remedy=f"Give TokenCategoryBlock(vocab=[...]) O, and B- and I- of each type, and the "
            f"model num_labels={len(wanted)}.",
        )
    only_first = isinstance(transform.labeling_strategy, OnlyFirstTokenLabelingStrategy)
    task = NER(
        labels=tuple(names),
        sub_tokens="first" if only_first else "all",
        max_length=transform.max_length,
    )
    return task, lambda value, target: {
        "tokens": list(_text(value)),
        "tags": [names[each] for each in target.tolist()],
    }


def _questions(split: Datasets, transform: Any) -> Read:
    names = [value.get("id") for value, *_ in _items(split) if isinstance(value, Mapping)]
    if len(set(names)) < len(names):
        warnings.warn(
            f"of {len(names):,} rows {len(names) - len(set(names)):,} are further chunks of a "
            "question's context, and are scored as questions of their own; ftkit.qa_learner takes "
            "whole contexts",
            FtkitWarning,
            stacklevel=5,
        )
    return QuestionAnswering(max_length=transform.max_length), partial(_question, transform)


def _question(transform: Any, value: Any, first: Any, last: Any) -> Row:
    """The row of a pair of texts and of the tokens that its answer starts and ends with."""
    tokenizer = transform.hf_tokenizer
    texts = _text(value)
    question, context = texts if context_side(tokenizer) else reversed(texts)
    answers: dict[str, list[Any]] = {"text": [], "answer_start": []}
    if int(last):
        spans = tokenizer(*texts, return_offsets_mapping=True)["offset_mapping"]
        start, end = trim_span(context, spans[int(first)][0], spans[int(last)][1])
        answers = {"text": [context[start:end]], "answer_start": [start]}
    return {"question": question, "context": context, "answers": answers}


def _texts(split: Datasets, transform: Any) -> Read:
    kind = transform.lm_strategy.get_lm_type().name.lower()
    task = LanguageModeling(kind=kind, block=transform.max_length)
    return task, lambda value, *_: {"text": value}


def _writing(split: Datasets, transform: Any) -> Read:
    """Translations where the texts ask for them, else summaries: Blurr keeps no word of it."""
    texts = [value for value, *_ in _items(split)]
    found = _PREFIX.match(texts[0])
    prefix = found[0] if found and all(text.startswith(found[0]) for text in texts) else ""
    given = {
        "max_target_length": transform.max_target_length,
        "num_beams": transform.text_gen_kwargs.get("num_beams"),
    }
    options = {name: value for name, value in given.items() if value is not None}
    if prefix.startswith("translate "):
        task: Task = Translation(prefix=prefix, max_length=transform.max_length, **options)
        text, written = "source", "target"
    else:
        repeated = transform.text_gen_kwargs.get("no_repeat_ngram_size") or 0
        task = Summarization(
            prefix=prefix,
            max_length=transform.max_length,
            no_repeat_ngram_size=repeated,
            **options,
        )
        text, written = "text", "summary"
    return task, lambda value, target: {text: value.removeprefix(prefix), written: target}


# What Blurr puts before the texts of a T5: ftkit puts it there itself, in answering too.
_PREFIX = re.compile("(summarize|translate [^:]+): ")
