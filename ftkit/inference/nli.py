"""Labels without training: a natural language inference (NLI) model judges a sentence for each.

Yin et al. 2019: "This text is about sport." is put to the model as a hypothesis about the text,
and the label whose sentence is entailed most is the answer. Stands beside `predictor`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ftkit.errors import CheckpointError, DataError, FtkitWarning, SettingError, check_least, quoted
from ftkit.features import input_columns, iterate_rows, prepare_rows
from ftkit.inference.predictor import Predictor, open_engine
from ftkit.task import Head, Prediction
from ftkit.tasks import Classification

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

    from ftkit.model.device import Precision

_PAIRS = 4096  # pairs tokenised and sorted by length at once


def zero_shot(
    checkpoint: str | Path,
    labels: Sequence[str],
    *,
    hypothesis: str = "This text is about {}.",
    several: bool = False,
    device: str | torch.device | None = None,
    precision: Precision = "fp32",
) -> ZeroShot:
    """A predictor of `labels` from any sequence classifier that was trained for NLI.

    `hypothesis` has {} where the label goes. The scores of a text sum to 1, or stand each for
    itself where `several` labels may hold. `device` and `precision` as in `load_model`.

    Raises SettingError for labels or a hypothesis that cannot work, or that take more than half of
    what the model reads, CheckpointError for a checkpoint that has no label for entailment.
    """
    _check_labels(labels, hypothesis, several)
    from ftkit.model.checkpoint import label_names, open_bundled, token_limit

    head = Head("AutoModelForSequenceClassification", {}, ())
    hf_model, tokenizer = open_bundled(Path(checkpoint), head)
    entailment, contradiction = _entailment(hf_model.config, str(checkpoint))
    judge = Classification(kind="single", labels=label_names(hf_model.config))
    engine = open_engine(hf_model, judge, device, precision)
    predictor = Predictor(engine, tokenizer, judge, token_limit(tokenizer, hf_model))
    _check_room(labels, hypothesis, predictor)
    answers = Classification(kind="multi" if several else "single", labels=tuple(labels))
    return ZeroShot(predictor, answers, hypothesis, entailment, contradiction)


class ZeroShot:
    """An NLI model ready to answer with labels that it was not trained for."""

    def __init__(
        self,
        predictor: Predictor,
        task: Classification,
        hypothesis: str,
        entailment: int,
        contradiction: int,
    ) -> None:
        """`predictor` judges pairs of text and hypothesis; `task` has the labels to answer with;
        `entailment` and `contradiction` are places in the outputs of the model.
        """
        self.task, self.hypothesis = task, hypothesis
        self._predictor = predictor
        self._entailment, self._contradiction = entailment, contradiction

    def predict(
        self, rows: Iterable[Any], *, top_k: int | None = None, batch_size: int = 32
    ) -> list[Any]:
        """A LabelPrediction (a LabelsPrediction where several may hold) for each text, in order.

        A row is a text, or a dict with "text"; a DataFrame is its rows. The model reads each text
        once for each label; `batch_size` counts these pairs, and `top_k` limits the scores to the
        likeliest.

        Raises DataError, with the number of the row, for one that is no text. Warns where texts
        are cut to what the model takes.
        """
        check_least(1, top_k=top_k, batch_size=batch_size)
        listed, n_cut = list(iterate_rows(rows)), 0
        predictions: list[Prediction] = []
        at_once = max(1, _PAIRS // len(self.task.labels))
        for start in range(0, len(listed), at_once):
            columns = input_columns(listed[start : start + at_once], self.task, start)
            if "text_pair" in columns:
                raise DataError("found a pair of texts", remedy="Give one text a row.")
            outputs, cut = self._judge(columns["text"], batch_size)
            predictions += self.task.decode(outputs, [], self._predictor.tokenizer, top_k)
            n_cut += cut
        if n_cut:
            warnings.warn(
                f"{n_cut:,} of {len(listed):,} texts are longer than the model takes "
                f"({self._predictor.limit} tokens with the hypothesis); it saw only their head",
                FtkitWarning,
                stacklevel=2,
            )
        return predictions

    def _judge(self, texts: Sequence[str], batch_size: int) -> tuple[np.ndarray, int]:
        """Outputs (texts, labels) as `task` takes them, and how many texts were cut."""
        labels, reader = self.task.labels, self._predictor
        pairs = {
            "text": [text for text in texts for _ in labels],
            "text_pair": [self.hypothesis.format(label) for label in labels] * len(texts),
        }
        features = prepare_rows(pairs, reader.task, reader.tokenizer, reader.limit)
        found = np.empty(
            (len(texts) * len(labels), len(reader.task.head().labels)), dtype=np.float32
        )
        for numbers, outputs, _ in reader.run(features, batch_size):
            found[numbers] = outputs
        logits = found.reshape(len(texts), len(labels), -1)
        outputs = logits[..., self._entailment]
        if self.task.kind == "multi":
            # The sigmoid of this is the softmax over the two.
            outputs = outputs - logits[..., self._contradiction]
        is_cut = (features.rows["n_cut"] > 0).reshape(len(texts), len(labels)).any(1)
        return outputs, int(is_cut.sum())


def _check_labels(labels: Sequence[str], hypothesis: str, several: bool) -> None:
    if isinstance(labels, str) or not all(isinstance(label, str) and label for label in labels):
        raise SettingError(
            f"labels are {labels!r}"[:120], remedy='Give a list of names, such as ["sport", "art"].'
        )
    if len(labels) < (1 if several else 2):
        raise SettingError(
            f"{len(labels)} label(s) leave nothing to choose from",
            remedy="Give two or more, or several=True to ask whether one holds.",
        )
    twice = sorted({label for label in labels if list(labels).count(label) > 1})
    if twice:
        raise SettingError(f"labels has {quoted(twice)} twice", remedy="Give each label once.")
    try:
        is_open = hypothesis.format("a") != hypothesis.format("b")
    except (LookupError, ValueError):
        is_open = False
    if not is_open:
        raise SettingError(
            f'the hypothesis "{hypothesis}" has no {{}} where the label goes',
            remedy='Give one such as "This text is about {}."',
        )


def _check_room(labels: Sequence[str], hypothesis: str, predictor: Predictor) -> None:
    tokenizer = predictor.tokenizer
    asked = [hypothesis.format(label) for label in labels]
    ids = tokenizer(asked, add_special_tokens=False, verbose=False)["input_ids"]
    most, label = max(zip(map(len, ids), labels, strict=True))
    room = predictor.limit - tokenizer.num_special_tokens_to_add(pair=True)
    if most > room // 2:
        # Its end, where the label may stand, would be cut for a long text.
        raise SettingError(
            f'the hypothesis with "{label}" has {most} tokens, and half of the {room} that the '
            "model takes are the text's",
            remedy="Give a shorter label or hypothesis.",
        )


def _entailment(config: PretrainedConfig, name: str) -> tuple[int, int]:
    """Places of entailment and of its contrary in the model's outputs.

    Raises CheckpointError where the labels name no entailment, or more than one contrary.
    """
    from ftkit.model.checkpoint import label_names

    names = label_names(config)
    entails = [i for i, label in enumerate(names) if label.lower().startswith("entail")]
    others = [i for i in range(len(names)) if i not in entails]
    contrary = [i for i in others if len(others) == 1 or names[i].lower().startswith("contra")]
    if len(entails) != 1 or len(contrary) != 1:
        raise CheckpointError(
            f'"{name}" is no NLI model: its labels are {quoted(names)}, and entailment and '
            "contradiction are not both among them",
            remedy="Take a checkpoint that was trained for NLI, or name its labels in id2label.",
        )
    return entails[0], contrary[0]
