"""The Task protocol: the nine questions that every task answers, and the types they speak in.

Names no task. Imports numpy and torch; `tasks/*` implement it, everything above calls it.

    rows --prepare--> Features --collate--> Batch --model--> logits --loss, metrics, decode, show-->

A row is one example of the user's; a window is one sequence that the model sees. A row has one
window, or several where it is longer than the model. A batch holds whole rows: all windows of a
row stand together in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from datasets import DatasetDict
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

Inputs: TypeAlias = "dict[str, Tensor]"
"""What the model is called with; key "row", shape (rows,), says which rows they are."""

Batch: TypeAlias = "tuple[Inputs, Tensor]"
"""Inputs and targets; the targets' first dimension is the rows."""

Reduction: TypeAlias = Literal["mean", "none"]


@dataclass(frozen=True)
class Column:
    """A column that a task reads, under the name that ftkit gives it."""

    name: str
    kind: Literal["text", "label"]
    is_required: bool = True
    aliases: tuple[str, ...] = ()
    """Other names under which it is found without a column map."""


@dataclass(frozen=True)
class Head:
    """The Hugging Face class that a task needs, and what its config must say."""

    auto_class: str
    """Name of an Auto class of transformers, such as AutoModelForSequenceClassification."""
    config: Mapping[str, Any]
    """Settings of the config, such as num_labels, id2label, problem_type."""
    labels: tuple[str, ...]
    """The label names, in the order of the head's outputs; empty where a head has none."""
    bias: tuple[float, ...] = ()
    """What a new head's outputs start from; empty leaves it to the model."""


class Prediction(Protocol):
    """A frozen dataclass of a task's own; offsets count characters of the text given."""

    def to_dict(self) -> dict[str, Any]: ...


class Metrics(Protocol):
    """Scores of a pass over rows, gathered batch by batch without holding all logits."""

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """Take in a batch: outputs (rows, ...) and targets (rows, ...)."""
        ...

    def compute(self) -> dict[str, float]:
        """The scores so far, the task's main score first; fractions between 0 and 1."""
        ...

    def per_label(self) -> dict[str, dict[str, float]]:
        """Precision, recall, f1 and support of each label; empty where labels have none."""
        ...

    def chosen(self) -> dict[str, Any]:
        """Options of the task that these rows decide, such as a threshold."""
        ...


class Task(Protocol):
    """A frozen dataclass of a task's options, which answers the nine questions."""

    name: ClassVar[str]
    """The task's name in the registry, on the command line and in task.json."""

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of the scores, in the order of `Metrics.compute`."""
        ...

    def columns(self) -> tuple[Column, ...]:
        """Which columns the rows must have."""
        ...

    def with_labels(self, data: DatasetDict) -> Self:
        """The task, knowing the labels that the data has."""
        ...

    def head(self) -> Head:
        """Which Hugging Face head it trains."""
        ...

    def prepare(
        self,
        rows: Mapping[str, Sequence[Any]],
        tokenizer: PreTrainedTokenizerBase,
        limit: int,
    ) -> dict[str, list[Any]]:
        """Token features of a slice of rows; `limit` is the model's length in tokens."""
        ...

    def collate(self, columns: Mapping[str, np.ndarray]) -> Batch:
        """Tensors of a batch, from padded arrays of its windows and arrays of its rows."""
        ...

    def loss(self, outputs: Tensor, targets: Tensor, reduction: Reduction = "mean") -> Tensor:
        """The training loss: a scalar, or one number a row where reduction is "none"."""
        ...

    def metrics(self, *, choose: bool = False) -> Metrics:
        """An empty set of scores; `choose` lets the rows decide options such as a threshold."""
        ...

    def scores(self, outputs: Tensor) -> Tensor:
        """What `decode` reads: probabilities, or numbers, from outputs (rows, ...)."""
        ...

    def decide(self, scores: Tensor) -> Tensor:
        """The decision in each row's scores, of the shape of the targets."""
        ...

    def decode(self, outputs: Tensor, top_k: int | None = None) -> Sequence[Prediction]:
        """Typed predictions from outputs (rows, ...)."""
        ...

    def show(
        self, rows: Sequence[Mapping[str, Any]], decided: Tensor | None = None
    ) -> list[dict[str, str]]:
        """Rows, and what was decided for them, as text for a table: a dict a row."""
        ...
