"""The Task protocol: the questions that every task answers, and the types they speak in.

Names no task. `tasks/*` implement it, everything above calls it. They import torch for their
losses alone: a model that was exported answers where there is none.

    rows --prepare--> Features --collate--> Batch --model--> logits --merge--> outputs
    outputs --loss, metrics, decode, show-->

A row is one example of the user's; a window is one sequence that the model sees. A row has one
window, or several where it is longer than the model. A batch holds whole rows: all windows of a
row stand together in it, and `merge` makes outputs of the rows from logits of the windows, so
that nothing after the model knows of windows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from datasets import DatasetDict
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from ftkit.arrays import ArrayLike

Inputs: TypeAlias = "dict[str, Tensor]"
"""What the model is called with; key "row", shape (rows,), says which rows they are."""

Arrays: TypeAlias = "dict[str, np.ndarray]"
"""The same before they are tensors."""

Batch: TypeAlias = "tuple[Arrays, np.ndarray]"
"""Inputs and targets; the targets' first dimension is the rows."""

Rows: TypeAlias = "Sequence[Mapping[str, Any]]"
"""Rows of the user's, each read only when asked for, under the task's names of the columns."""

Reduction: TypeAlias = Literal["mean", "none"]

_LOWER_IS_BETTER = (
    *("loss", "perplexity", "mae", "rmse", "mse", "error"),
    *("empty", "copied_sources"),
)
_NEITHER_IS_BETTER = ("mean_length", "novel_bigrams", "copied_sentences")


def falls(score: str) -> bool:
    """Whether a score of that name is the better the lower it is."""
    return any(part in _LOWER_IS_BETTER for part in (score, *score.split("_")))


def is_ranked(score: str) -> bool:
    """Whether a score of that name can be better at all; a length is not, it is what it is."""
    return score not in _NEITHER_IS_BETTER


@dataclass(frozen=True)
class Column:
    """A column that a task reads, under the name that ftkit gives it."""

    name: str
    kind: Literal["text", "tokens", "label", "target"]
    """A text, or a list of words, which the model reads; a class (names or numbers), by which
    splits are stratified, or anything else that the model is to learn."""
    is_required: bool = True
    aliases: tuple[str, ...] = ()
    """Other names under which it is found without a column map."""

    @property
    def is_input(self) -> bool:
        """Whether the model reads it, so that answering needs it too."""
        return self.kind in ("text", "tokens")


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
    generation: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the model's generation_config, such as num_beams; for tasks that generate."""


class Prediction(Protocol):
    """A frozen dataclass of a task's own; offsets count characters of the text given."""

    def to_dict(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Draw:
    """How rows are drawn again."""

    resamples: int
    order: np.ndarray | None = None
    """Numbers of the rows (rows,) in the order in which the metrics took them in."""
    seed: int = 0


class Metrics(Protocol):
    """Scores of a pass over rows, gathered batch by batch without holding all logits."""

    def add(self, outputs: ArrayLike, targets: ArrayLike, rows: Rows) -> None:
        """Take in a batch: outputs (rows, ...), targets (rows, ...) and the rows themselves."""
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

    def resampled(self, draw: Draw) -> dict[str, np.ndarray]:
        """The scores of resamples of the rows, as many rows as there are, drawn by
        `scores.resample`: (resamples,) each. What the rows decide is decided once, by all.
        """
        ...


class Task(Protocol):
    """A frozen dataclass of a task's options, which answers the questions."""

    name: ClassVar[str]
    """The task's name in the registry, on the command line and in task.json."""
    generates: ClassVar[bool]
    """Whether it answers with generated token ids instead of the outputs of one pass. Such a
    task may have the options `validate_rows`, how many validation rows are generated for after
    an epoch, and `validate_every`, after every how many epochs."""

    packs: ClassVar[bool]
    """Whether `prepare` makes blocks of the texts of several rows, which are then its rows."""

    @property
    def pipeline(self) -> str:
        """Transformers' name of the task, for the model card."""
        ...

    @property
    def settings(self) -> tuple[str, ...]:
        """Its options that may be others for one call of a trained model."""
        ...

    @property
    def example(self) -> Any:
        """A row to predict, for the model card."""
        ...

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of the scores, in the order of `Metrics.compute`."""
        ...

    def columns(self) -> tuple[Column, ...]:
        """Which columns the rows must have."""
        ...

    def with_labels(self, data: DatasetDict) -> Self:
        """The task, knowing the labels that the data has; raises DataError for bad ones."""
        ...

    def fit_to(
        self, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase | None = None
    ) -> Self:
        """The task with what the checkpoint decides, such as the prefix of its texts."""
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
        """Token features of a slice of rows; `limit` is the model's length in tokens.

        Each column has a value a row: a list of windows, each a list with an int a token; a
        numpy array, which may have another length in each row; or a number or a list of numbers
        of the same length in each row. "n_cut" counts the tokens of the row in no window.
        """
        ...

    def lost(self, rows: Mapping[str, np.ndarray], limit: int) -> str | None:
        """What the model does not see of prepared rows, and how to mend it; None where all.

        `rows` are the arrays of `Features.rows`; the sentence goes on after "of train, ".
        """
        ...

    def limits(self, limit: int) -> tuple[str, ...]:
        """What a user of the model must know, as sentences for its card."""
        ...

    def collate(
        self, columns: Mapping[str, np.ndarray], rng: np.random.Generator | None = None
    ) -> Batch:
        """Arrays of a batch, from what `Features.fill` gives; `rng` is given in training only."""
        ...

    def merge(self, logits: Any, inputs: Any) -> Any:
        """Outputs (rows, ...) from the model's logits (windows, ...), all tensors or all arrays."""
        ...

    def loss(self, outputs: Tensor, targets: Tensor, reduction: Reduction = "mean") -> Tensor:
        """The training loss: a scalar, or one number a row where reduction is "none"."""
        ...

    def n_counted(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """How many losses `loss` takes the mean of: rows, windows, or the tokens that count; ().

        By it batches are weighed that make one step together.
        """
        ...

    def metrics(self, tokenizer: PreTrainedTokenizerBase, *, choose: bool = False) -> Metrics:
        """An empty set of scores; `choose` lets the rows decide options such as a threshold."""
        ...

    def scores(self, outputs: ArrayLike) -> np.ndarray:
        """What `decide` reads: probabilities, or numbers, from outputs (rows, ...)."""
        ...

    def decide(self, scores: ArrayLike) -> np.ndarray:
        """The decision in each row's scores, of the shape of the targets."""
        ...

    def decode(
        self,
        outputs: ArrayLike,
        rows: Rows,
        tokenizer: PreTrainedTokenizerBase,
        top_k: int | None = None,
    ) -> Sequence[Prediction]:
        """Typed predictions for the rows from their outputs (rows, ...)."""
        ...

    def show(
        self,
        rows: Rows,
        tokenizer: PreTrainedTokenizerBase,
        decided: ArrayLike | None = None,
    ) -> list[dict[str, str]]:
        """Rows, and what was decided for them, as text for a table: a dict a row.

        A cell of which parts matter, such as entities, is a `marks.MarkedText`.
        """
        ...
