"""The metrics that Blurr loads by name, computed with what ftkit has.

`datasets.load_metric` downloaded a script of code for each. These give the same keys in the same
units: percentages where the scripts gave them. Imports `errors` and `scores` only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ftkit.errors import SettingError, quoted
from ftkit.scores.answers import score_answer


@dataclass(frozen=True)
class NamedMetric:
    """A metric as `load_metric` gave it."""

    name: str
    compute: Callable[..., dict[str, Any]]
    """Called with `predictions` and `references`; its scores by name."""


@dataclass(frozen=True)
class Score:
    """Precision, recall and F-measure, each a mean over texts."""

    precision: float
    recall: float
    fmeasure: float


@dataclass(frozen=True)
class Spread:
    """What stands in for the quantiles of a bootstrap: the mean alone."""

    mid: Score


def load_metric(name: str, *arguments: Any, **options: Any) -> NamedMetric:
    """The metric of that name; raises SettingError for one that is not among `METRICS`."""
    if name not in METRICS:
        raise SettingError(
            f'the metric "{name}" needs code or data that is downloaded',
            remedy=f"Give it a compute_func of your own, or use {quoted(sorted(METRICS))}.",
        )
    return NamedMetric(name, METRICS[name])


def squad(
    predictions: Sequence[Mapping[str, Any]], references: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """SQuAD's `exact_match` and `f1`, in per cent; a question without a gold answer wants ""."""
    found = {str(each["id"]): each["prediction_text"] for each in predictions}
    scores = [
        score_answer(found.get(str(each["id"]), ""), list(each["answers"]["text"]))
        for each in references
    ]
    exact, f1 = np.mean(scores, axis=0) * 100
    return {"exact_match": float(exact), "f1": float(f1)}


def rouge(
    predictions: Sequence[str],
    references: Sequence[str],
    rouge_types: Sequence[str] = ("rouge1", "rouge2", "rougeL", "rougeLsum"),
    use_stemmer: bool = False,
) -> dict[str, Spread]:
    """ROUGE of each type, means over texts; lines count as sentences for rougeLsum."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(rouge_types), use_stemmer=use_stemmer)
    pairs = list(zip(references, predictions, strict=True))
    rows = [scorer.score(wanted, text) for wanted, text in pairs]
    return {
        name: Spread(Score(*map(float, np.mean([row[name] for row in rows], axis=0))))
        for name in rouge_types
    }


def sacrebleu(
    predictions: Sequence[str], references: Sequence[Sequence[str]], **options: Any
) -> dict[str, Any]:
    """Corpus BLEU of sacrebleu as `score`, in per cent; a list of references for each text."""
    from sacrebleu import corpus_bleu

    streams = [list(stream) for stream in zip(*references, strict=True)]
    found = corpus_bleu(list(predictions), streams, **options)
    return {"score": found.score, "precisions": found.precisions, "bp": found.bp}


def bleu(
    predictions: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> dict[str, float]:
    """Corpus BLEU of lists of tokens as `bleu`, a fraction, without smoothing."""
    texts = [" ".join(tokens) for tokens in predictions]
    wanted = [[" ".join(tokens) for tokens in each] for each in references]
    found = sacrebleu(texts, wanted, tokenize="none", smooth_method="none", force=True)
    return {"bleu": found["score"] / 100}


METRICS: dict[str, Callable[..., dict[str, Any]]] = {
    "bleu": bleu,
    "rouge": rouge,
    "sacrebleu": sacrebleu,
    "squad": squad,
}
