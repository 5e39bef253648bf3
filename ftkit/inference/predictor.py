"""A saved model -> typed predictions, batched by length. Imports torch and transformers lazily
enough to serve without fastai, pandas, matplotlib or wandb.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ftkit.errors import DataError, SettingError, check_least, quoted
from ftkit.features import (
    ColumnRows,
    Features,
    Padding,
    input_columns,
    list_rows,
    named_labels,
    prepare_rows,
)
from ftkit.inference.bundle import read_bundle
from ftkit.model.device import Precision, autocast_dtype, default_device
from ftkit.model.module import TextModel
from ftkit.task import Prediction, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SLICE = 4096  # rows tokenised and sorted by length at once


def load_model(
    folder: str | Path,
    *,
    device: str | torch.device | None = None,
    precision: Precision = "fp32",
) -> Predictor:
    """Open a model that `ftkit.save` or `ftkit train` wrote.

    `device` is the first GPU, else the CPU, where it is None. Answers in fp32 agree with
    transformers' pipelines; bf16 is faster where the device computes in it.

    Raises CheckpointError for a folder that is no bundle, SettingError for a precision that
    the device does not have.
    """
    where = default_device() if device is None else torch.device(device)
    hf_model, tokenizer, task, limit = read_bundle(folder)
    model = TextModel(hf_model, task).to(where).eval()
    model.autocast_dtype = autocast_dtype(precision, where)
    return Predictor(model, tokenizer, task, limit)


@dataclass(frozen=True)
class Evaluation:
    """How a model did on labelled rows; printed, it is a table."""

    scores: dict[str, float]
    """The task's scores, fractions between 0 and 1."""
    per_label: dict[str, dict[str, float]]
    """Precision, recall, f1 and support of each label."""
    rows: int
    truncated: int
    """Rows of which the model saw a part only."""

    def __str__(self) -> str:
        """Scores over all rows, then those of each label."""
        lines = ["  ".join(f"{name} {value:.4f}" for name, value in self.scores.items())]
        if self.per_label:
            width = max(5, *(len(label) for label in self.per_label))
            lines.append(f"{'label':<{width}}  precision  recall      f1  support")
            lines += [
                f"{label:<{width}}  {each['precision']:9.3f}  {each['recall']:6.3f}  "
                f"{each['f1']:6.3f}  {each['support']:7,}"
                for label, each in self.per_label.items()
            ]
        return "\n".join(lines)


class Predictor:
    """A model ready to answer."""

    def __init__(
        self, model: TextModel, tokenizer: PreTrainedTokenizerBase, task: Task, limit: int
    ) -> None:
        """`limit` is the longest sequence in tokens that the model sees at once."""
        self.model, self.tokenizer, self.task, self.limit = model, tokenizer, task, limit

    def predict(
        self, rows: Iterable[Any], *, top_k: int | None = None, batch_size: int = 32
    ) -> list[Any]:
        """Predictions, in the order of the rows: the task's own frozen dataclass for each.

        A row is a text, a tuple of texts, or a dict with the task's columns. A DataFrame is its
        rows. `top_k` asks for so many answers, the likeliest first; `batch_size` counts windows.

        Raises DataError, with the number of the row, for one that is none of these.
        """
        check_least(1, top_k=top_k, batch_size=batch_size)
        if self.task.packs:
            raise SettingError(
                f"a model for {self.task.name} reads blocks of text and answers no rows",
                remedy="Fine-tune from its folder, or open it with transformers.",
            )
        predictions: list[Prediction] = []
        listed = list_rows(rows)
        for start in range(0, len(listed), _SLICE):
            columns = input_columns(listed[start : start + _SLICE], self.task, start)
            features = prepare_rows(columns, self.task, self.tokenizer, self.limit)
            found: dict[int, Prediction] = {}
            for numbers, outputs, _ in self.run(features, batch_size):
                rows_here = ColumnRows(columns, numbers)
                decoded = self.task.decode(outputs, rows_here, self.tokenizer, top_k)
                found.update(zip(numbers, decoded, strict=True))
            predictions += [found[i] for i in range(len(features))]
        return predictions

    def evaluate(self, rows: Any, *, batch_size: int = 32) -> Evaluation:
        """Score the model on labelled rows: a `datasets.Dataset`, or a dict of columns.

        Raises DataError for a label that is missing or that the model does not know.
        """
        names = rows if isinstance(rows, Mapping) else rows.column_names
        wanted = [column for column in self.task.columns() if not column.is_input]
        has_target = not wanted or any(column.name in names for column in wanted)
        for column in self.task.columns():
            is_needed = column.is_required or (column in wanted and not has_target)
            if is_needed and column.name not in names:
                raise DataError(
                    f"there is no such column among {quoted(list(names))}",
                    remedy="Rename the column that holds it.",
                    column=column.name,
                )
        metrics, truncated = self.task.metrics(self.tokenizer), 0
        n_rows = len(next(iter(rows.values()))) if isinstance(rows, Mapping) else len(rows)
        for start in range(0, n_rows, _SLICE):
            part = _column_slice(rows, start, start + _SLICE)
            try:
                features = prepare_rows(part, self.task, self.tokenizer, self.limit)
            except DataError as error:
                raise error.located(row=error.row and error.row + start) from None
            for numbers, outputs, targets in self.run(features, batch_size):
                metrics.add(outputs, targets, ColumnRows(part, numbers))
            truncated += features.count_cut()
        return Evaluation(metrics.compute(), metrics.per_label(), n_rows, truncated)

    def run(
        self, features: Features, batch_size: int
    ) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """Numbers of the rows, outputs and targets, batch by batch of rows of like length.

        For what answers with something else than the task's own predictions.
        """
        padding, device = Padding.of(self.tokenizer), next(self.model.parameters()).device
        for rows in _batches(features, batch_size):
            inputs, targets = self.task.collate(features.fill(rows, padding))
            with torch.inference_mode():
                outputs = self.model.answer(
                    {name: each.to(device) for name, each in inputs.items()}
                )
            yield rows.tolist(), outputs.cpu(), targets


def _batches(features: Features, batch_size: int) -> Iterator[np.ndarray]:
    """Rows of like length, of about `batch_size` windows together, the longest first."""
    order = np.argsort(-features.lengths, kind="stable")
    number = (features.windows[order].cumsum() - 1) // batch_size
    yield from np.split(order, np.flatnonzero(np.diff(number)) + 1) if len(order) else ()


def _column_slice(rows: Any, start: int, end: int) -> Mapping[str, Sequence[Any]]:
    if isinstance(rows, Mapping):
        return {name: values[start:end] for name, values in rows.items()}
    return named_labels(rows[start:end], rows.features)
