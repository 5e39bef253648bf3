"""The fast loader: tokenised once, batches of like length, inside fastai's own DataLoaders.

A batch holds whole rows, all windows of a row together. Goes through the fastai door.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ftkit._fastai import (
    CategoryMap,
    DataLoaders,
    L,
    Pipeline,
    TfmdDL,
    ToTensor,
    plot_top_losses,
    to_detach,
)
from ftkit.data.tables import print_table
from ftkit.data.tokenize import task_limit, tokenize
from ftkit.errors import DataError, FtkitWarning, SettingError, quoted
from ftkit.features import Features, Padding, input_columns, named_labels, prepare_rows
from ftkit.task import Inputs, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Rows are sorted by length inside pools of so many batches, as in transformers'
# LengthGroupedSampler: large enough for little padding, small enough to stay random.
_POOL = 50


class Row(dict[str, Any]):
    """A row as the user gave it, with its number in the split, from 0."""

    number: int


class RowList(Sequence[Row]):
    """The rows of a split, read when asked for."""

    def __init__(self, rows: datasets.Dataset) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, (int, np.integer)):
            numbers = range(len(self))[index] if isinstance(index, slice) else index
            return L([self[int(number)] for number in numbers])
        number = range(len(self))[index]
        columns = named_labels(self.rows[number : number + 1], self.rows.features)
        row = Row({name: values[0] for name, values in columns.items()})
        row.number = number
        return row

    def fingerprint(self, columns: Sequence[str]) -> str:
        """A hash of these columns' content, 32 hex digits, whatever file or format it is from."""
        digest = hashlib.blake2b(digest_size=16)
        rows = self.rows.select_columns([name for name in columns if name in self.rows.features])
        for part in rows.iter(1000):
            lists = named_labels(part, rows.features)
            for values in zip(*lists.values(), strict=True):
                row = dict(zip(lists, values, strict=True))
                line = json.dumps(row, sort_keys=True, default=str)
                digest.update(f"{line}\n".encode())
        return digest.hexdigest()

    @property
    def iloc(self) -> RowList:
        """What fastai's Interpretation asks items for, as it would a DataFrame."""
        return self


@dataclass
class TextRows:
    """What a loader reads: rows, their features, and the task that says what they mean."""

    items: RowList
    features: Features
    task: Task
    tokenizer: PreTrainedTokenizerBase
    limit: int
    """Longest sequence in tokens."""
    numbers: np.ndarray | None = None
    """Numbers that the rows go by in a batch; None counts them from 0."""
    read: Callable[[Any, bool], Sequence[Any]] | None = None
    """Makes rows under the task's names of a user's items, with their labels or without; None
    where the items are such rows already."""
    split_idx: int | None = None
    """0 for train, 1 for others: which of fastai's transforms of batches apply."""

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> Row:
        if not self.task.packs:
            row: Row = self.items[index]
            return row
        ids = self.features.fill(np.array([index]), Padding.of(self.tokenizer))["input_ids"]
        row = Row(text=self.tokenizer.decode(ids[0]))
        row.number = index
        return row

    @cached_property
    def fingerprint(self) -> str:
        """A hash of what the task reads of the rows."""
        return self.items.fingerprint([column.name for column in self.task.columns()])

    @property
    def vocab(self) -> Any:
        """The labels, as fastai's Interpretation wants them."""
        return CategoryMap(list(self.task.head().labels), sort=False)

    @property
    def c(self) -> int:
        """How many outputs the head has, as fastai's `get_c` asks; 0 where the task names none."""
        return int(self.task.head().config.get("num_labels", 0))

    def new_empty(self) -> TextRows:
        """The same without rows, for `learn.export`."""
        none = np.zeros(1, dtype=np.int64)
        features = Features({}, {}, none, none)
        return replace(self, items=RowList(datasets.Dataset.from_dict({})), features=features)

    def few(self, items: Any, with_labels: bool) -> TextRows:
        """Rows at hand: texts, pairs of texts, dicts, a DataFrame or rows of one, or rows of
        `items` themselves; what `read` takes, where there is one.
        """
        if self.read is not None:
            items = self.read(items, with_labels)
        elif isinstance(items, datasets.Dataset):
            lists = named_labels(items.with_format(None)[:], items.features)
            items = [
                dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)
            ]
        elif hasattr(items, "to_dict") and hasattr(items, "columns"):
            items = items.to_dict("records")
        items = [item.to_dict() if hasattr(item, "to_dict") else item for item in items]
        if not items:
            raise DataError("there are no rows", remedy="Give one or more.")
        inputs = input_columns(items, self.task)
        rows = [dict(item) if isinstance(item, Mapping) else {} for item in items]
        for i, row in enumerate(rows):
            row.update({name: values[i] for name, values in inputs.items()})
        labels = [column.name for column in self.task.columns() if not column.is_input]
        found = [name for name in labels if with_labels and any(name in row for row in rows)]
        if with_labels and labels and not found:
            raise DataError(
                "the rows have no labels to read",
                remedy=f"Give dicts with {quoted(labels)}, or leave with_labels out.",
            )
        columns = {**inputs, **{name: [row.get(name) for row in rows] for name in found}}
        features = prepare_rows(columns, self.task, self.tokenizer, self.limit)
        numbers = None
        if all(isinstance(row, Row) for row in items):
            numbers = np.array([row.number for row in items])
        try:
            listed = datasets.Dataset.from_list(rows)
        except pa.ArrowException:  # a column that the task does not read holds what it likes
            listed = datasets.Dataset.from_dict(columns)
        return replace(self, items=RowList(listed), features=features, numbers=numbers)


class TextLoader(TfmdDL):
    """Batches of like length over tokenised rows; shuffled by seed and epoch.

    One process fills a batch faster than workers could send it, so there are no workers.
    """

    # Fixed here because fastai guesses them from a batch.
    n_inp = _n_inp = 1
    _types = (dict, Tensor)

    def __init__(
        self,
        dataset: TextRows,
        bs: int = 32,
        *,
        shuffle: bool = False,
        drop_last: bool = False,
        device: Any = None,
        max_tokens: int | None = None,
        seed: int = 42,
        shard: tuple[int, int] = (0, 1),
        **kwargs: Any,
    ) -> None:
        """`max_tokens`, where given, bounds the padded tokens of a batch in place of `bs`.

        `shard` (i, n) gives every n-th row of each batch, from the i-th on: the batches of all
        n together are those of one loader with n times the `bs` or `max_tokens`.

        Raises SettingError for options of fastai's loader that have no place in this one.
        """
        check_options(kwargs)
        self.shard, self.n_shards = shard[0], shard[1]
        self.is_stand_in = False
        """Whether the last batch had no row for this shard, and a row of another stands in."""
        bs, max_tokens = bs * self.n_shards, max_tokens and max_tokens * self.n_shards
        do_setup = kwargs.pop("do_setup", True)
        kwargs.update(num_workers=0, do_setup=False, indexed=True)
        super().__init__(
            dataset, bs=bs, shuffle=shuffle, drop_last=drop_last, device=device, **kwargs
        )
        self.max_tokens, self.seed = max_tokens, seed
        self.epoch = 0
        """Passes finished; each shuffles anew."""
        self._start: tuple[int, Mapping[str, Any] | None] = 0, None
        self._cuts: tuple[int, list[int]] | None = None
        self._padding = Padding.of(dataset.tokenizer)
        # What training draws: words to mask, windows of a row with more than a batch may hold.
        self._rng = self._new_rng() if shuffle else None
        has_windows = dataset.features.windows.max(initial=1) > 1
        # Padded tokens that a batch may have; rows with several windows always need a bound.
        self._budget = bs * dataset.limit if has_windows and max_tokens is None else max_tokens
        if do_setup:
            self.after_batch.setup(self)

    def new(self, dataset: TextRows | None = None, cls: Any = None, **kwargs: Any) -> TextLoader:
        """A loader like this one, with some arguments changed."""
        n = self.n_shards
        kept = {"bs": self.bs // n, "max_tokens": self.max_tokens and self.max_tokens // n}
        kept["seed"] = self.seed
        loader: TextLoader = super().new(dataset, cls, **{**kept, **kwargs})
        return loader

    # Order

    def __len__(self) -> int:
        return self._n_batches

    @property
    def _n_batches(self) -> int:
        if not hasattr(self, "_count"):
            self._count = len(self._batches(self.epoch))
        return self._count

    def get_idxs(self) -> list[int]:
        """Row numbers in the order of this epoch; consecutive ones make the batches."""
        (first, drawn), self._start = self._start, (0, None)
        batches = self._batches(self.epoch)[first:]
        if self._rng is not None:
            # Anew each time, so that looking at a batch changes nothing.
            self._rng = self._new_rng()
            if drawn is not None:
                self._rng.bit_generator.state = drawn
        self._cuts = (sum(map(len, batches)), [len(batch) for batch in batches])
        order: list[int] = np.concatenate(batches).tolist() if batches else []
        return order

    def _new_rng(self) -> np.random.Generator:
        of_shard = [self.shard] if self.shard else []
        return np.random.default_rng([self.seed, self.epoch, *of_shard])

    def start_at(
        self, epoch: int, batch: int = 0, random_state: Mapping[str, Any] | None = None
    ) -> None:
        """Begin the next pass at a batch of an epoch, drawing on from `random_state`.

        Raises ValueError or TypeError where that is the state of no generator of ours.
        """
        if random_state is not None:
            np.random.default_rng().bit_generator.state = random_state
        self.epoch, self._start = epoch, (batch, random_state)

    @property
    def first_batch(self) -> int:
        """The batch that the next pass begins at; 0 but where `start_at` says otherwise."""
        return self._start[0]

    @property
    def random_state(self) -> Mapping[str, Any] | None:
        """Where the generator of this pass stands, for `start_at`."""
        return None if self._rng is None else self._rng.bit_generator.state

    def sample(self) -> list[int]:
        """What `get_idxs` gave: without workers there is nothing to share out."""
        # fastai keeps it under this name.
        order: list[int] = self._DataLoader__idxs
        return order

    def after_iter(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Count the epoch, once it was seen whole: looking at a batch changes nothing."""
        if self.shuffle:
            self.epoch += 1
        return x

    def _batches(self, epoch: int) -> list[np.ndarray]:
        """Rows of each batch. How many there are never changes: schedules count on it."""
        features = self.dataset.features
        if not len(features):
            return []
        if not self.shuffle:
            order = np.argsort(-features.lengths, kind="stable")
            if self.dataset.numbers is not None:
                order = np.arange(len(features))
            batches = self._cut(order)
            return batches[:-1] if self.drop_last and self._is_odd(batches[-1]) else batches
        rng = np.random.default_rng([self.seed, epoch])
        if self._budget is None:
            pool = self.bs * max(1, min(_POOL, len(features) // (4 * self.bs)))
            order = rng.permutation(len(features))
            keys = -features.lengths[order] - (np.arange(len(order)) // pool) * 1e9
            batches = self._cut(order[np.argsort(keys, kind="stable")])
        else:
            # With a budget, how many batches there are depends on the order: cut it once.
            first = np.random.default_rng(self.seed).permutation(len(features))
            batches = self._cut(first[np.argsort(-features.lengths[first], kind="stable")])
        odd = [batches.pop()] if self._is_odd(batches[-1]) else []
        shuffled = [batches[i] for i in rng.permutation(len(batches))]
        return shuffled + ([] if self.drop_last else odd)

    def _is_odd(self, batch: np.ndarray) -> bool:
        """Whether a batch has fewer than `bs` rows; with a budget every batch may."""
        return self._budget is None and len(batch) < self.bs

    def _cut(self, order: np.ndarray) -> list[np.ndarray]:
        """Consecutive rows as batches: `bs` of them, or as many as the budget holds."""
        budget = self._budget
        if budget is None:
            return [order[i : i + self.bs] for i in range(0, len(order), self.bs)]
        features = self.dataset.features
        lengths, windows = features.lengths[order].tolist(), features.windows[order].tolist()
        most = len(order) if self.max_tokens is not None else self.bs
        batches, start, longest, n_windows = [], 0, 0, 0
        for i, (length, count) in enumerate(zip(lengths, windows, strict=True)):
            longest, n_windows = max(longest, length), n_windows + count
            if i > start and (longest * n_windows > budget or i - start == most):
                batches.append(order[start:i])
                start, longest, n_windows = i, length, count
        return [*batches, order[start:]]

    # Batches

    def create_batches(self, samps: Sequence[int]) -> Iterator[tuple[Inputs, Tensor]]:
        """Filled batches of the rows in `samps`, cut as `get_idxs` planned them."""
        order = np.array(samps, dtype=np.int64)
        if self._cuts is not None and self._cuts[0] == len(order):
            batches = np.split(order, np.cumsum(self._cuts[1])[:-1]) if len(order) else []
        else:
            batches = self._cut(order)
        return (self._fill(batch) for batch in batches)

    def _fill(self, rows: np.ndarray) -> tuple[Inputs, Tensor]:
        data = self.dataset
        most = None if self._budget is None else self._budget // self.n_shards // data.limit
        own = rows[self.shard :: self.n_shards]
        self.is_stand_in = not len(own)
        rows = rows[:1] if self.is_stand_in else own
        columns = data.features.fill(rows, self._padding, self._rng, most)
        if data.numbers is not None:
            columns["row"] = data.numbers[rows]
        inputs, targets = data.task.collate(columns, self._rng)
        tensors = {name: torch.from_numpy(values) for name, values in inputs.items()}
        return tensors, torch.from_numpy(targets)

    @property
    def padding_share(self) -> float:
        """Share of the tokens of an epoch that is padding."""
        features = self.dataset.features
        real = int(features.window_offsets[-1])
        padded = sum(
            int(features.lengths[batch].max() * features.windows[batch].sum())
            for batch in self._batches(self.epoch)
        )
        return 1 - real / padded if padded else 0.0

    # Showing

    def to_detach(self, batch: Any, cpu: bool = True, gather: bool = True) -> Any:
        """As fastai's; inputs become their row numbers, for batches differ in length."""
        if isinstance(batch, tuple) and batch and isinstance(batch[0], dict):
            batch = tuple(inputs["row"] for inputs in batch)
        # Where several processes train, each has what it needs of the others already.
        return to_detach(batch, cpu, gather=False)

    def rows_of(self, inputs: Inputs) -> LazyRows:
        """The rows of a batch, each read when asked for."""
        return LazyRows(self, inputs["row"])

    def _show(self, rows: list[Row], decided: Any = None) -> list[dict[str, str]]:
        data: TextRows = self.dataset
        if isinstance(decided, (list, L)):
            # Of batches that differ in shape; what is told of a row ends where the row does.
            decided = pad_sequence(list(decided), batch_first=True, padding_value=-100)
        return data.task.show(rows, data.tokenizer, decided)

    def _shown_rows(self, inputs: Any, max_n: int) -> list[Row]:
        numbers = inputs["row"] if isinstance(inputs, dict) else inputs
        if not len(self.dataset.items):
            return [Row() for _ in numbers[:max_n]]
        by_number = self.dataset.numbers
        places = [int(number) for number in numbers[:max_n]]
        if by_number is not None:
            places = [int(np.flatnonzero(by_number == place)[0]) for place in places]
        return [self.dataset[place] for place in places]

    def show_batch(
        self, b: Any = None, max_n: int = 9, ctxs: Any = None, show: bool = True, **kwargs: Any
    ) -> Any:
        """Print rows of a batch as a table, in a notebook or a terminal."""
        b = self.one_batch() if b is None else b
        if not show:
            return self._pre_show_batch(b, max_n)
        print_table(self._show(self._shown_rows(b[0], max_n)))
        return None

    def show_results(
        self, b: Any, out: Any, max_n: int = 9, ctxs: Any = None, show: bool = True, **kwargs: Any
    ) -> None:
        """Print rows of a batch with what was predicted for them."""
        decided = (_one(out) if isinstance(out, tuple) else out)[:max_n]
        print_table(self._show(self._shown_rows(b[0], max_n), decided))

    def decode_batch(self, b: Any, max_n: int = 9, full: bool = True) -> Any:
        """Rows and the names of their targets."""
        rows = self._shown_rows(b[0], max_n)
        return L(list(zip(rows, self._named(rows, _one(b[1:])[:max_n]), strict=True)))

    def words_of(self, inputs: Any, decided: Tensor) -> list[str]:
        """What was decided for the first rows of a batch, in words."""
        rows = self._shown_rows(inputs, len(decided))
        return [str(each) for each in self._named(rows, decided)]

    def _named(self, rows: list[Row], decided: Any) -> list[str]:
        """What was decided for the rows, as cells of a table."""
        return [each["predicted"] for each in self._show(rows, decided)]

    def _pre_show_batch(self, b: Any, max_n: int = 9) -> Any:
        return (
            ShownRows(self._shown_rows(b[0], max_n), self.dataset.task),
            b[1:],
            self.decode_batch(b, max_n),
        )


def _one(given: Sequence[Any]) -> Any:
    """What there is of a batch; rows that differ in shape fastai gives one by one."""
    return given[0] if len(given) == 1 else list(given)


class LazyRows(Sequence[Row]):
    """The rows of a batch, each read when asked for."""

    def __init__(self, loader: TextLoader, numbers: Tensor) -> None:
        self._loader, self._numbers = loader, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return LazyRows(self._loader, self._numbers[index])
        return self._loader._shown_rows(self._numbers[index : index + 1 or None], 1)[0]


class ShownRows(list[Row]):
    """Rows on their way to fastai's `plot_top_losses`, which looks at this type."""

    def __init__(self, rows: list[Row], task: Task) -> None:
        super().__init__(rows)
        self.task = task


def _plot_top_losses(
    x: ShownRows, y: Any, its: Any, outs: Any, preds: Any, losses: Any, **kwargs: Any
) -> None:
    """Print the rows with the largest losses: text, target, prediction, its score and loss.

    Raises SettingError for a task whose losses are not those of rows.
    """
    if x.task.packs:
        raise SettingError(
            f"{x.task.name} has a loss for each block of text, which is no row",
            remedy="learn.show_results() shows blocks, and what is said of them.",
        )
    table, labels = [], getattr(x.task, "labels", ())
    for (row, target), (predicted,), scores, loss in zip(its, outs, preds, losses, strict=True):
        texts = {name: value for name, value in row.items() if isinstance(value, str)}
        shown = {**dict(list(texts.items())[:1]), "target": target, "predicted": predicted}
        if scores.shape == (len(labels),):
            shown["score"] = f"{float(scores.max()):.3f}"
        table.append({**shown, "loss": f"{float(loss):.3f}"})
    print_table(table)


plot_top_losses.dispatch(_plot_top_losses)


class TextLoaders(DataLoaders):
    """fastai's DataLoaders over tokenised rows; `test_dl` takes texts, pairs, dicts or rows."""

    def test_dl(
        self, test_items: Any, rm_type_tfms: Any = None, with_labels: bool = False, **kwargs: Any
    ) -> TextLoader:
        """A loader over new rows; their labels are read where `with_labels` says so.

        Raises DataError, with the number of the row, for one that is no text, pair or dict.
        """
        if isinstance(test_items, (str, Mapping)):
            raise DataError("found one row, not a list of rows", remedy="Put it in a list.")
        kwargs = {name: value for name, value in kwargs.items() if name != "process"}
        rows = self.valid.dataset.few(test_items, with_labels)
        loader: TextLoader = self.valid.new(rows, **kwargs)
        return loader


def text_loaders(
    data: Mapping[str, datasets.Dataset],
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    limit: int,
    *,
    bs: int = 32,
    max_tokens: int | None = None,
    seed: int = 42,
    shard: tuple[int, int] = (0, 1),
    device: torch.device | None = None,
) -> TextLoaders:
    """DataLoaders over the train and validation splits of `data`, tokenised for `task`.

    `limit` is the model's length in tokens; longer rows are counted and said, by a warning.
    `shard` is as in `TextLoader`.
    """
    train_rows = text_rows("train", data["train"], task, tokenizer, limit)
    valid_rows = text_rows("validation", data["validation"], task, tokenizer, limit)
    loader: Callable[..., TextLoader] = TextLoader
    same: dict[str, Any] = {"max_tokens": max_tokens, "seed": seed, "shard": shard}
    train = loader(train_rows, bs, shuffle=True, **same)
    valid = loader(valid_rows, bs * 2, **same)
    return TextLoaders(train, valid, path=Path(), device=moved_to(device))


def text_rows(
    split: str,
    rows: datasets.Dataset,
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    limit: int,
    read: Callable[[Any, bool], Sequence[Any]] | None = None,
) -> TextRows:
    """The rows of a split, tokenised for `task`; `limit` is the model's length in tokens.

    A warning says what of them the model does not see.
    """
    limit = task_limit(task, limit)
    features = tokenize(rows, task, tokenizer, limit)
    if lost := task.lost(features.rows, limit):
        warnings.warn(f"of {split}, {lost}", FtkitWarning, stacklevel=3)
    split_idx = 0 if split == "train" else 1
    return TextRows(RowList(rows), features, task, tokenizer, limit, read=read, split_idx=split_idx)


def moved_to(device: torch.device | None) -> torch.device | None:
    """The device that batches are moved to; None where they are there already.

    fastai would look through every batch for tensors to move to the CPU.
    """
    return None if device is None or device.type == "cpu" else device


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse what a loader of fastai's takes and this one would not heed."""
    if options.get("num_workers"):
        raise SettingError(
            f"num_workers is {options['num_workers']}, and rows are tokenised before batches are "
            "made: one process fills them fastest",
            remedy="Leave it out.",
        )
    if options.get("n") is not None:
        raise SettingError(f"n is {options['n']}", remedy="Give as many rows as you want instead.")
    for name, given in (("after_item", "item_tfms"), ("before_batch", "before_batch")):
        own = Pipeline(options.get(name)).fs
        names = [each.name for each in own if each.name not in ("noop", ToTensor.__name__)]
        if names:
            raise SettingError(
                f"{given} has {quoted(names)}, and rows are tokenised in bulk, never one by one",
                remedy="Change the texts before, in get_x or in the data, or the batches after, "
                "in batch_tfms.",
            )
