"""Text classification: one label of several, several labels at once, or a number (regression).

Everything that is classification stands here, in the order of the protocol: schema, labels,
head, prepare, collate, loss, metrics, decode, show. Reads labels through `targets.labels` and
scores through `scores.labels`; the registry in `tasks/__init__.py` imports it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from ftkit.arrays import ArrayLike, as_array, namespace, sigmoid, softmax
from ftkit.errors import DataError, SettingError, check_least, quoted, unfit_value
from ftkit.features import check_texts, model_arrays
from ftkit.marks import MISSED, WRONG, listed_names
from ftkit.scores.labels import ClassMetrics, LabelsMetrics, ValueMetrics
from ftkit.spans import kept_positions, window_bounds
from ftkit.targets.labels import Kind, check_numbers, count_labels, first_row, kind_of
from ftkit.task import Batch, Column, Head, Reduction, Rows

if TYPE_CHECKING:
    from datasets import DatasetDict
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

LongTexts = Literal["head", "tail", "head+tail", "windows"]

# What a row's label must be, and what to call it.
_LABEL_TYPES: dict[str, tuple[Any, str]] = {
    "single": (object, "a label"),
    "multi": ((list, tuple, np.ndarray), "a list of labels"),
    "regression": (Real, "a number"),
}


@dataclass(frozen=True)
class LabelPrediction:
    """One label of several."""

    label: str
    score: float
    """Probability of `label`."""
    scores: dict[str, float]
    """Probability of each label, the likeliest first."""

    def to_dict(self) -> dict[str, Any]:
        """A plain dict, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class LabelsPrediction:
    """Any number of labels at once."""

    labels: tuple[str, ...]
    """Labels whose score reaches the threshold, the likeliest first."""
    scores: dict[str, float]
    """Probability of each label, independent of the others, the likeliest first."""

    def to_dict(self) -> dict[str, Any]:
        """A plain dict, ready for JSON."""
        return {"labels": list(self.labels), "scores": self.scores}


@dataclass(frozen=True)
class ValuePrediction:
    """A number, in the unit of the training labels."""

    value: float

    def to_dict(self) -> dict[str, Any]:
        """A plain dict, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Classification:
    """Options of text classification. Raises SettingError for a value that cannot work."""

    name: ClassVar[str] = "classification"
    pipeline: ClassVar[str] = "text-classification"
    example: ClassVar[str] = "A text"
    generates: ClassVar[bool] = False
    packs: ClassVar[bool] = False

    kind: Kind = "auto"
    """"auto" reads it off the labels: lists are multi-label, floats are regression."""
    labels: tuple[str, ...] = ()
    """Names in the order of the head's outputs; filled in from the data."""
    max_length: int | None = None
    """Longest sequence in tokens, special tokens counted; None is the checkpoint's own limit."""
    long_texts: LongTexts = "head"
    """What of a longer text the model sees; "windows" sees all of it and averages the logits."""
    stride: int = 32
    """Tokens that neighbouring windows share; at most half a window."""
    class_weights: Literal["balanced"] | Mapping[str, float] | tuple[float, ...] | None = None
    """Weight of each label in the loss, by name; "balanced" makes rare labels count as much."""
    label_smoothing: float = 0.0
    """Share of the target spread over all labels (Szegedy et al. 2016)."""
    label_share: tuple[float, ...] = ()
    """Share of the training rows that has each label, or their mean number; filled in from the
    data. A new head starts from it instead of having to learn it first."""
    threshold: float | None = None
    """Multi-label: score from which a label counts; None until chosen on validation rows."""

    def __post_init__(self) -> None:
        kinds, cuts = ("auto", "single", "multi", "regression"), ("head", "tail", "head+tail")
        _check_choice("kind", self.kind, kinds)
        _check_choice("long_texts", self.long_texts, (*cuts, "windows"))
        object.__setattr__(self, "labels", tuple(map(str, self.labels)))
        object.__setattr__(self, "label_share", tuple(self.label_share))
        if isinstance(self.class_weights, list):
            object.__setattr__(self, "class_weights", tuple(self.class_weights))
        if isinstance(self.class_weights, Mapping):
            weights = {str(name): weight for name, weight in self.class_weights.items()}
            object.__setattr__(self, "class_weights", weights)
        check_least(8, "tokens", max_length=self.max_length)
        if not 0 <= self.label_smoothing < 1:
            raise SettingError(
                f"label_smoothing is {self.label_smoothing}", remedy="Give 0 or more, below 1."
            )
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise SettingError(f"threshold is {self.threshold}", remedy="Give one between 0 and 1.")
        check_least(0, "tokens", stride=self.stride)
        if self.kind == "regression" and (self.class_weights or self.label_smoothing):
            raise SettingError(
                "class_weights and label_smoothing have no meaning for regression",
                remedy="Leave them out, or make the labels classes.",
            )

    @property
    def settings(self) -> tuple[str, ...]:
        """How long texts are read; the threshold, where several labels may hold."""
        threshold = ("threshold",) if self.kind == "multi" else ()
        return ("max_length", "long_texts", "stride", *threshold)

    # Schema

    def columns(self) -> tuple[Column, ...]:
        """A text, perhaps a second text beside it, and a label."""
        return (
            Column("text", "text"),
            Column("text_pair", "text", is_required=False),
            Column("label", "label", aliases=("labels",)),
        )

    # Labels

    def with_labels(self, data: DatasetDict) -> Self:
        """The task with the kind, the label names and the class weights that the data gives.

        Raises DataError for labels that are missing, of mixed types, all the same in train, or
        met outside train only.
        """
        kind = self.kind if self.kind != "auto" else kind_of(data["train"])
        if kind == "regression":
            for split, rows in data.items():
                check_numbers(split, rows)
            mean = float(np.mean(data["train"]["label"][:]))
            return replace(self, kind=kind, labels=("value",), label_share=(mean,))
        counts = {split: count_labels(split, rows, kind) for split, rows in data.items()}
        train = counts["train"]
        present = [name for name, count in train.items() if count]
        if len(present) < (2 if kind == "single" else 1):
            met = f'only the label "{present[0]}"' if present else "no label"
            raise DataError(
                f"all {len(data['train']):,} rows have {met}",
                remedy="Add rows of at least one more label.",
                split="train",
                column="label",
            )
        for split, found in counts.items():
            for name, count in found.items():
                if count and not train.get(name):
                    raise DataError(
                        f'the label "{name}" occurs here and never in train',
                        remedy="Put rows of it into train, mend its spelling, or drop these rows.",
                        split=split,
                        row=first_row(data[split], name),
                        column="label",
                    )
        labels = self.labels or tuple(train)
        unknown = [name for name in present if name not in labels]
        if unknown:
            raise SettingError(
                f"the task has no label {quoted(unknown)}; it has {quoted(labels)}",
                remedy="Leave `labels` out, or name all of them.",
            )
        ordered = np.array([train.get(name, 0) for name in labels])
        weights = _resolve_weights(self.class_weights, labels, ordered, len(data["train"]), kind)
        share = tuple((ordered / len(data["train"])).tolist())
        return replace(self, kind=kind, labels=labels, label_share=share, class_weights=weights)

    # Head

    def fit_to(
        self, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase | None = None
    ) -> Self:
        """Any checkpoint serves as it is."""
        return self

    def head(self) -> Head:
        """A sequence classification head with an output a label, or one for regression."""
        problem = {
            "single": "single_label_classification",
            "multi": "multi_label_classification",
            "regression": "regression",
        }
        if self.kind == "auto":
            raise SettingError(
                "the task does not know its labels yet", remedy="Call with_labels(data) first."
            )
        config = {
            "num_labels": len(self.labels),
            "id2label": dict(enumerate(self.labels)),
            "label2id": {name: i for i, name in enumerate(self.labels)},
            "problem_type": problem[self.kind],
        }
        names = () if self.kind == "regression" else self.labels
        return Head("AutoModelForSequenceClassification", config, names, self._first_outputs())

    def _first_outputs(self) -> tuple[float, ...]:
        """Logits that answer with the shares of the labels, as in Lin et al. 2017, section 4.1.

        Weighted classes are meant to count as if their shares were others, and start from 0.
        """
        if self.kind == "regression" or not self.label_share:
            return self.label_share
        if self.class_weights is not None:
            return ()
        share = np.clip(self.label_share, 1e-3, 1 - 1e-3)
        logits = np.log(share) if self.kind == "single" else np.log(share / (1 - share))
        return tuple(logits.tolist())

    # Prepare

    def prepare(
        self, rows: Mapping[str, Sequence[Any]], tokenizer: PreTrainedTokenizerBase, limit: int
    ) -> dict[str, list[Any]]:
        """Token ids of a slice of rows: `input_ids[row][window][token]`.

        A row whose second text is None has none, whatever others have. `n_cut` says how many
        tokens of a row no window has; `target`, where rows have labels, is a class number, a 0/1
        vector (labels,) or a number.
        """
        texts = list(rows["text"])
        pairs = list(rows.get("text_pair", [None] * len(texts)))
        check_texts(texts, "text")
        check_texts(["" if pair is None else pair for pair in pairs], "text_pair")
        features: dict[str, list[Any]] = {"n_cut": [0] * len(texts)}
        # In one call a tokenizer takes pairs, or texts alone.
        for is_pair in sorted({pair is not None for pair in pairs}):
            places = [i for i, pair in enumerate(pairs) if (pair is not None) == is_pair]
            seconds = [pairs[i] for i in places] if is_pair else None
            part = self._encode([texts[i] for i in places], seconds, tokenizer, limit)
            for name, values in part.items():
                kept = features.setdefault(name, [None] * len(texts))
                for i, value in zip(places, values, strict=True):
                    kept[i] = value
        if "label" in rows:
            features["target"] = [self._target(i, each) for i, each in enumerate(rows["label"])]
        return features

    def _encode(
        self,
        texts: list[str],
        seconds: list[str] | None,
        tokenizer: PreTrainedTokenizerBase,
        limit: int,
    ) -> dict[str, list[Any]]:
        """Windows of texts alone, or of texts that each have a second one."""
        encoded = tokenizer(
            texts,
            seconds,
            truncation=False,
            padding=False,
            return_attention_mask=False,
            verbose=False,
        )
        names = [name for name in ("input_ids", "token_type_ids") if name in encoded]
        features: dict[str, list[Any]] = {name: [[ids] for ids in encoded[name]] for name in names}
        features["n_cut"] = [0] * len(texts)
        for i, whole in enumerate(encoded["input_ids"]):
            if len(whole) > limit:
                windows = self._windows(encoded.sequence_ids(i), limit)
                features["n_cut"][i] = len(whole) - len(set().union(*windows))
                for name in names:
                    ids = encoded[name][i]
                    features[name][i] = [[ids[p] for p in window] for window in windows]
        return features

    def _windows(self, sequence_ids: Sequence[int | None], limit: int) -> list[list[int]]:
        """Positions that each window keeps of a sequence longer than `limit`.

        Special tokens stand in every window. Of a pair, the second text keeps its head, and at
        most half of the room where the first needs the rest.
        """
        first = [p for p, sequence in enumerate(sequence_ids) if sequence == 0]
        second = [p for p, sequence in enumerate(sequence_ids) if sequence == 1]
        room = limit - (len(sequence_ids) - len(first) - len(second))
        second = second[: max(room // 2, room - len(first))]
        fixed = set(second) | {p for p, s in enumerate(sequence_ids) if s is None}
        room -= len(second)
        if self.long_texts == "windows":
            bounds = window_bounds(len(first), max(1, room), min(self.stride, room // 2))
            kept = [first[start:end] for start, end in bounds]
        else:
            kept = [[first[k] for k in kept_positions(len(first), room, self.long_texts)]]
        return [sorted(fixed.union(window)) for window in kept]

    def _target(self, row: int, label: Any) -> int | float | list[int]:
        types, what = _LABEL_TYPES[self.kind]
        is_odd = isinstance(label, float) and not np.isfinite(label)
        if label is None or is_odd or not isinstance(label, types):
            raise unfit_value(label, what, row + 1, "label")
        if self.kind == "regression":
            return float(label)
        names = [str(each) for each in label] if self.kind == "multi" else [str(label)]
        unknown = [name for name in names if name not in self.labels]
        if unknown:
            raise DataError(
                f"the label {quoted(unknown)} is none that the model knows",
                remedy=f"Its labels are {quoted(self.labels)}.",
                row=row + 1,
                column="label",
            )
        if self.kind == "single":
            return self.labels.index(names[0])
        return [int(name in names) for name in self.labels]

    def lost(self, rows: Mapping[str, np.ndarray], limit: int) -> str | None:
        """How many rows the model sees a part of."""
        if not (cut := int((rows["n_cut"] > 0).sum())):
            return None
        seen = f'their {self.long_texts}. Give long_texts="windows" to have it see all of them'
        if self.long_texts == "windows":
            seen = "the head of their second text"
        total = len(rows["n_cut"])
        return (
            f"{cut:,} of {total:,} rows are longer than {limit} tokens; the model sees only {seen}"
        )

    def limits(self, limit: int) -> tuple[str, ...]:
        """What becomes of long texts, and of texts that are like none it has seen."""
        seen = f"are cut to their {self.long_texts}"
        if self.long_texts == "windows":
            seen = "are read in windows whose logits are averaged"
        return (
            f"Texts longer than {limit} tokens {seen}.",
            "It answers with one of its labels whatever it is asked; texts unlike its training "
            "data get labels that mean little.",
        )

    # Collate

    def collate(
        self, columns: Mapping[str, np.ndarray], rng: np.random.Generator | None = None
    ) -> Batch:
        """Inputs of shape (windows, tokens) and targets (rows,) or (rows, labels)."""
        inputs = model_arrays(columns)
        dtype = np.int64 if self.kind == "single" else np.float32
        target = columns.get("target")
        if target is None:
            shape = (len(columns["row"]), *[len(self.labels)] * (self.kind == "multi"))
            return inputs, np.zeros(shape, dtype=dtype)
        return inputs, target.astype(dtype)

    # Outputs and loss

    def merge(self, logits: Any, inputs: Any) -> Any:
        """Logits (rows, labels): the mean over the windows of a row."""
        if "windows" not in inputs:
            return logits
        xp, windows = namespace(logits), inputs["windows"]
        is_window = (windows >= 0)[..., None]
        total = xp.where(is_window, logits[windows.clip(0)], 0).sum(1)
        # In place, so that what numpy divides by an integer stays what it is.
        total /= is_window.sum(1)
        return total

    def loss(self, outputs: Tensor, targets: Tensor, reduction: Reduction = "mean") -> Tensor:
        """Cross-entropy, binary cross-entropy or squared error.

        The mean is over rows even where classes have weights, so that a batch's loss does not
        depend on which classes it happens to hold.
        """
        import torch.nn.functional as F

        if self.kind == "regression":
            losses = F.mse_loss(outputs[:, 0], targets, reduction="none")
        elif self.kind == "single":
            losses = F.cross_entropy(
                outputs,
                targets,
                weight=self._weight_tensor(outputs),
                label_smoothing=self.label_smoothing,
                reduction="none",
            )
        else:
            smooth = targets * (1 - self.label_smoothing) + self.label_smoothing / 2
            losses = F.binary_cross_entropy_with_logits(
                outputs, smooth, pos_weight=self._weight_tensor(outputs), reduction="none"
            ).mean(1)
        return losses.mean() if reduction == "mean" else losses

    def n_counted(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """How many rows there are: ()."""
        import torch

        return torch.tensor(len(targets), device=outputs.device)

    def _weight_tensor(self, outputs: Tensor) -> Tensor | None:
        import torch

        weights = self.class_weights
        return torch.tensor(weights, device=outputs.device) if isinstance(weights, tuple) else None

    # Metrics

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of the scores, the main one first."""
        return {
            "single": ("accuracy", "macro_f1", "mcc"),
            "multi": ("micro_f1", "macro_f1"),
            "regression": ("mae", "spearman"),
        }[self.kind]

    def metrics(
        self, tokenizer: PreTrainedTokenizerBase, *, choose: bool = False
    ) -> ClassMetrics | LabelsMetrics | ValueMetrics:
        """Accuracy, macro F1 and MCC; micro and macro F1; or MAE and Spearman's correlation."""
        if self.kind == "regression":
            return ValueMetrics()
        if self.kind == "single":
            return ClassMetrics(self.labels)
        return LabelsMetrics(self.labels, self.threshold if choose else self._threshold)

    # Decode

    def scores(self, outputs: ArrayLike) -> np.ndarray:
        """Probabilities (rows, labels), or the numbers (rows,)."""
        outputs = as_array(outputs)
        if self.kind == "regression":
            return outputs[:, 0]
        return softmax(outputs) if self.kind == "single" else sigmoid(outputs)

    def decide(self, scores: ArrayLike) -> np.ndarray:
        """Class numbers (rows,), 0/1 (rows, labels), or the numbers (rows,)."""
        scores = as_array(scores)
        if self.kind == "single":
            best: np.ndarray = scores.argmax(1)
            return best
        if self.kind == "regression":
            return scores
        return (scores >= self._threshold).astype(np.float32)

    @property
    def _threshold(self) -> float:
        return 0.5 if self.threshold is None else self.threshold

    def decode(
        self,
        outputs: ArrayLike,
        rows: Rows,
        tokenizer: PreTrainedTokenizerBase,
        top_k: int | None = None,
    ) -> Sequence[LabelPrediction | LabelsPrediction | ValuePrediction]:
        """Predictions from logits (rows, labels); `top_k` limits `scores` to the likeliest."""
        scores = self.scores(outputs)
        if self.kind == "regression":
            return [ValuePrediction(value) for value in scores.tolist()]
        order = np.argsort(-scores, axis=1, kind="stable")
        ordered = np.take_along_axis(scores, order, 1)
        ranked = [
            {self.labels[place]: value for place, value in zip(places, values, strict=True)}
            for places, values in zip(order.tolist(), ordered.tolist(), strict=True)
        ]
        if self.kind == "single":
            return [
                LabelPrediction(*next(iter(row.items())), dict(list(row.items())[:top_k]))
                for row in ranked
            ]
        return [
            LabelsPrediction(
                tuple(name for name, value in row.items() if value >= self._threshold),
                dict(list(row.items())[:top_k]),
            )
            for row in ranked
        ]

    # Show

    def show(
        self, rows: Rows, tokenizer: PreTrainedTokenizerBase, decided: ArrayLike | None = None
    ) -> list[dict[str, str]]:
        """The texts and the label of each row, and the label decided, as text for a table."""
        texts = [name for name in ("text", "text_pair") if rows and name in rows[0]]
        # A number is seldom met to the digit.
        is_class = self.kind != "regression"
        table: list[dict[str, str]] = []
        for i, row in enumerate(rows):
            wanted = _names(row["label"]) if "label" in row else None
            found = None if decided is None else self._names(as_array(decided)[i])
            shown = {name: "" if row[name] is None else str(row[name]) for name in texts}
            if wanted is not None:
                shown["label"] = listed_names(wanted, found if is_class else None, MISSED)
            if found is not None:
                shown["predicted"] = listed_names(found, wanted if is_class else None, WRONG)
            table.append(shown)
        return table

    def _names(self, target: np.ndarray) -> list[str]:
        """The name, the names or the number that a target stands for."""
        if self.kind == "regression":
            return _names(float(target))
        if self.kind == "single":
            return [self.labels[int(target)]]
        return [self.labels[place] for place in target.nonzero()[0].tolist()]


def _resolve_weights(
    weights: Any, labels: tuple[str, ...], counts: np.ndarray, n_rows: int, kind: Kind
) -> tuple[float, ...] | None:
    """Class weights in the order of the labels.

    "balanced" is rows / (labels * count) for one label of several, as in scikit-learn, and
    absent / present for each label of several at once (torch's `pos_weight`).
    """
    if weights is None:
        return None
    if isinstance(weights, str):
        _check_choice("class_weights", weights, ("balanced",))
        seen = np.maximum(counts, 1)
        if kind == "single":
            return tuple((n_rows / (len(labels) * seen)).tolist())
        # At least one row counts as absent: a weight of 0 would leave a label unlearned.
        return tuple((np.maximum(n_rows - counts, 1) / seen).tolist())
    if isinstance(weights, Mapping):
        unknown = sorted(set(weights) - set(labels))
        if unknown:
            raise SettingError(
                f"class_weights names {quoted(unknown)}, which the data does not have",
                remedy=f"Its labels are {quoted(labels)}.",
            )
        weights = [weights.get(name, 1.0) for name in labels]
    if len(weights) != len(labels):
        raise SettingError(
            f"class_weights has {len(weights)} numbers for {len(labels)} labels",
            remedy=f"Give one for each of {quoted(labels)}.",
        )
    wrong = [weight for weight in weights if not 0 <= weight < np.inf]
    if wrong:
        raise SettingError(f"class_weights has {wrong[0]}", remedy="Give numbers of 0 or more.")
    return tuple(float(weight) for weight in weights)


def _check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    if value not in choices:
        raise SettingError(f"{name} is {value!r}", remedy=f"Use one of {quoted(choices)}.")


def _names(value: Any) -> list[str]:
    """A label, or each of several, as text."""
    if isinstance(value, (list, tuple)):
        return [str(each) for each in value]
    return [f"{value:.4g}" if isinstance(value, float) else str(value)]
