"""Scores of generated texts: ROUGE and what a summary is made of; chrF and BLEU of translations.

They implement the `Metrics` protocol and hold a few numbers a row, or its texts, never token
ids or logits. Imports numpy and, to compute, rouge-score or sacrebleu; tasks choose among them.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ftkit.scores.resample import resample
from ftkit.task import Draw, Rows

if TYPE_CHECKING:
    from ftkit.arrays import ArrayLike

Decode: TypeAlias = "Callable[[ArrayLike], list[str]]"
"""Texts of generated token ids (rows, tokens)."""

ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")
USE_STEMMER = True
# Ends of sentences: a stop with what closes behind it, or a line. Abbreviations end one too; a
# splitter that knows them, such as nltk's, needs models of a language that ftkit does not ship.
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+|\s*\n\s*")
_WORD = re.compile(r"\w+")


def split_sentences(text: str) -> list[str]:
    """Sentences of a text, by its stops and lines."""
    return [each for each in _SENTENCE_END.split(text.strip()) if each]


def split_words(text: str) -> list[str]:
    """Lower-cased runs of letters and digits."""
    return _WORD.findall(text.lower())


@cache
def describe_rouge() -> str:
    """Which implementation gives the ROUGE scores, its version, and whether it stems."""
    version = importlib.metadata.version("rouge-score")
    stemming = "with Porter stemming" if USE_STEMMER else "without stemming"
    return f"F-measures of rouge-score {version} {stemming}, the best of several references"


@cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(ROUGE, use_stemmer=USE_STEMMER)


def rouge_scores(text: str, references: Sequence[str]) -> list[float]:
    """F-measures of a text in the order of `ROUGE`, each against the reference that fits best.

    rouge-score reads the letters a to z and digits only. ROUGE-Lsum takes sentences by lines, so
    the texts are split with `split_sentences`.
    """
    lined = ["\n".join(split_sentences(each)) for each in (*references, text)]
    scores = _rouge_scorer().score_multi(lined[:-1], lined[-1])
    return [float(scores[name].fmeasure) for name in ROUGE]


@cache
def _chrf_scorer() -> Any:
    return _sacrebleu()[0]


def chrf_score(text: str, references: Sequence[str]) -> float:
    """ChrF of a text against its references, from 0 to 1; unlike ROUGE it reads every script."""
    return float(_chrf_scorer().sentence_score(text, references).score) / 100


def references_of(rows: Rows, column: str) -> Iterator[list[str]]:
    """The texts that count as right for each row: its "references", or the one it has."""
    for row in rows:
        references = row.get("references")
        # An array of them has no truth value of its own.
        yield [row[column]] if references is None else list(references)


SUMMARY_SCORES = (*ROUGE, "mean_length", "novel_bigrams", "copied_sentences", "empty")


@dataclass
class SummaryMetrics:
    """ROUGE, length, novelty, copying and silence of summaries; holds ten numbers a row."""

    decode: Decode
    rouge: list[list[float]] = field(default_factory=list)
    counts: list[list[int]] = field(default_factory=list)
    """Of each row: words; bigrams, and those that are novel; sentences, and those that are copied;
    whether it is empty."""

    def add(self, outputs: ArrayLike, targets: ArrayLike, rows: Rows) -> None:
        """Take in generated ids (rows, tokens) and the rows, with the texts that people wrote."""
        texts, references = self.decode(outputs), references_of(rows, "summary")
        for text, row, wanted in zip(texts, rows, references, strict=True):
            self.rouge.append(rouge_scores(text, wanted))
            words, document_words = split_words(text), split_words(row["text"])
            bigrams = set(pairwise(words))
            whole = f" {' '.join(document_words)} "
            sentences = [part for each in split_sentences(text) if (part := split_words(each))]
            novel = len(bigrams.difference(pairwise(document_words)))
            copied = sum(f" {' '.join(each)} " in whole for each in sentences)
            is_empty = not text.strip()
            self.counts.append([len(words), len(bigrams), novel, len(sentences), copied, is_empty])

    def compute(self) -> dict[str, float]:
        """ROUGE as the mean over rows; mean length in words; the share of different bigrams that
        are not in the document, of sentences that stand in it word for word, of empty summaries.
        """
        if not self.rouge:
            return dict.fromkeys(SUMMARY_SCORES, 0.0)
        found = self._scores(np.ones((1, len(self.rouge))))
        return {name: float(value[0]) for name, value in found.items()}

    def per_label(self) -> dict[str, dict[str, float]]:
        """A text has no labels."""
        return {}

    def chosen(self) -> dict[str, Any]:
        """Nothing is left to choose."""
        return {}

    def resampled(self, draw: Draw) -> dict[str, np.ndarray]:
        """The scores of resamples of the rows: (resamples,) each."""
        return resample(draw, len(self.rouge), self._scores)

    def _scores(self, times: np.ndarray) -> dict[str, np.ndarray]:
        """The scores (some,) of rows that are there so many times: (some, rows)."""
        rouge = times @ np.array(self.rouge) / len(self.rouge)
        words, bigrams, novel, sentences, copied, empty = (times @ np.array(self.counts)).T
        return dict(zip(ROUGE, rouge.T, strict=True)) | {
            "mean_length": words / len(self.rouge),
            "novel_bigrams": novel / np.maximum(1, bigrams),
            "copied_sentences": copied / np.maximum(1, sentences),
            "empty": empty / len(self.rouge),
        }


# As sacrebleu's signatures have them.
CHRF_SETTINGS = "case:mixed|eff:yes|nc:6|nw:0|space:no"
BLEU_SETTINGS = "case:mixed|eff:no|tok:13a|smooth:exp"
TRANSLATION_SCORES = ("chrf", "bleu", "mean_length", "copied_sources", "empty")


@dataclass
class TranslationMetrics:
    """chrF, BLEU, length, copying and silence of translations; holds the texts of a row."""

    decode: Decode
    texts: list[str] = field(default_factory=list)
    references: list[list[str]] = field(default_factory=list)
    copied: list[bool] = field(default_factory=list)

    def add(self, outputs: ArrayLike, targets: ArrayLike, rows: Rows) -> None:
        """Take in generated ids (rows, tokens) and the rows, with the texts that people wrote."""
        texts = self.decode(outputs)
        for text, row in zip(texts, rows, strict=True):
            self.copied.append(bool(text) and split_words(text) == split_words(row["source"]))
        self.texts += texts
        self.references += references_of(rows, "target")

    def compute(self) -> dict[str, float]:
        """Both of all rows together, as fractions; mean length in words; the share of
        sources that came back as they were, and of empty translations.
        """
        if not self.texts:
            return dict.fromkeys(TRANSLATION_SCORES, 0.0)
        chrf, bleu = _sacrebleu()
        return {
            "chrf": float(chrf.corpus_score(self.texts, self._streams()).score) / 100,
            "bleu": float(bleu.corpus_score(self.texts, self._streams()).score) / 100,
            "mean_length": sum(len(split_words(text)) for text in self.texts) / len(self.texts),
            "copied_sources": sum(self.copied) / len(self.texts),
            "empty": sum(not text.strip() for text in self.texts) / len(self.texts),
        }

    def _streams(self) -> list[list[str | None]]:
        """The first references of all rows, then the second ones, and so on, as sacrebleu does."""
        most = max(map(len, self.references))
        return [
            [each[i] if i < len(each) else None for each in self.references] for i in range(most)
        ]

    def per_label(self) -> dict[str, dict[str, float]]:
        """A text has no labels."""
        return {}

    def chosen(self) -> dict[str, Any]:
        """Nothing is left to choose."""
        return {}

    def resampled(self, draw: Draw) -> dict[str, np.ndarray]:
        """The scores of resamples of the rows: (resamples,) each."""
        if not self.texts:
            return {}
        metrics, streams = _sacrebleu(), self._streams()
        # Counts of each row, whose sums give a corpus its score: what sacrebleu's own bootstrap,
        # which keeps no more than half a width, is made of.
        counts = [np.array(m._extract_corpus_statistics(self.texts, streams)) for m in metrics]
        per_row = [
            [len(split_words(text)) for text in self.texts],
            self.copied,
            [not text.strip() for text in self.texts],
        ]

        def scores(times: np.ndarray) -> dict[str, np.ndarray]:
            corpus = [
                [
                    metric._aggregate_and_compute([row]).score / 100
                    for row in sums.astype(int).tolist()
                ]
                for metric, sums in zip(metrics, (times @ each for each in counts), strict=True)
            ]
            means = times @ np.array(per_row).T / len(self.texts)
            columns = [*map(np.array, corpus), *means.T]
            return dict(zip(TRANSLATION_SCORES, columns, strict=True))

        return resample(draw, len(self.texts), scores)


@cache
def describe_translation_scores() -> str:
    """Which implementation gives chrF and BLEU, with the signatures of their settings."""
    version = importlib.metadata.version("sacrebleu")
    return f"chrF2 {CHRF_SETTINGS} and BLEU {BLEU_SETTINGS} of sacrebleu {version}, over 100"


def _sacrebleu() -> tuple[Any, Any]:
    """Its chrF and BLEU without settings of our own."""
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    return CHRF(), BLEU()
