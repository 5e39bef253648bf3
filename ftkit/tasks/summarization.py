"""Summarization: a long text in, a short one out, written token by token.

What it shares with its sibling `translation` stands in `targets.texts`, its scores in
`scores.texts`; the registry in `tasks/__init__.py` imports it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ftkit.arrays import ArrayLike
from ftkit.errors import check_least
from ftkit.scores.texts import SUMMARY_SCORES, SummaryMetrics, describe_rouge
from ftkit.targets.texts import (
    WritingTask,
    arrow_column,
    check_references,
    check_targets,
    decode_ids,
    describe_cut,
    encode_targets,
    encode_texts,
    generation_settings,
    prefixes_of,
    set_languages,
    show_texts,
    target_limit,
    warn_of_rows,
)
from ftkit.task import Column, Head, Rows

if TYPE_CHECKING:
    import numpy as np
    from datasets import DatasetDict
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


@dataclass(frozen=True)
class SummaryPrediction:
    """What the model wrote about one text."""

    summary: str

    def to_dict(self) -> dict[str, Any]:
        """The dict of transformers' former summarization pipeline."""
        return {"summary_text": self.summary}


@dataclass(frozen=True, kw_only=True)
class Summarization(WritingTask):
    """Options of summarization, beside those of all writing. Raises SettingError for a value that
    cannot work.
    """

    name: ClassVar[str] = "summarization"
    pipeline: ClassVar[str] = "summarization"
    example: ClassVar[str] = (
        "I ordered a desk on Monday and a lamp came instead. I have written twice and nobody "
        "answers. Please send the desk, or my money back."
    )
    generates: ClassVar[bool] = True
    packs: ClassVar[bool] = False

    no_repeat_ngram_size: int = 3
    """Tokens in a row that a summary never says twice (Paulus et al. 2017); 0 forbids nothing."""
    language: str | None = None
    """Language code of texts and summaries for tokenizers that mark it, such as mBART's "en_XX"."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(0, "tokens", no_repeat_ngram_size=self.no_repeat_ngram_size)

    @property
    def settings(self) -> tuple[str, ...]:
        """How texts are read, and summaries written."""
        return ("max_length", "max_target_length", "num_beams", "no_repeat_ngram_size")

    # Schema

    def columns(self) -> tuple[Column, ...]:
        """A text, its summary, and perhaps several summaries that count as right in scoring."""
        return (
            Column("text", "text", aliases=("document", "dialogue", "article")),
            Column("summary", "target", aliases=("highlights",)),
            Column("references", "target", is_required=False),
        )

    # Labels

    def with_labels(self, data: DatasetDict) -> Self:
        """The task itself, once the summaries are looked over.

        Raises DataError for one that is missing; warns with a count for those that are empty,
        longer than their text, or unreadable to ROUGE.
        """
        import pyarrow.compute as pc

        check_targets(data, "summary")
        for split, rows in data.items():
            texts, summaries = arrow_column(rows, "text"), arrow_column(rows, "summary")
            is_longer = pc.greater(pc.utf8_length(summaries), pc.utf8_length(texts))
            warn_of_rows(str(split), "summary", is_longer, "summaries are longer than their text")
            has_letters = pc.match_substring_regex(summaries, "[A-Za-z0-9]")
            has_text = pc.match_substring_regex(summaries, r"\S")
            is_unreadable = pc.and_not(has_text, has_letters)
            warn_of_rows(
                str(split),
                "summary",
                is_unreadable,
                "summaries have none of the letters a to z, the only ones that ROUGE reads",
            )
        return self

    # Head

    def fit_to(
        self, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase | None = None
    ) -> Self:
        """The task with what a checkpoint says: its prefix, its language, its decoder's length.

        Sets the tokenizer's languages. Raises SettingError for one that it does not know.
        """
        start = {} if tokenizer is None else set_languages(tokenizer, self.language, self.language)
        prefix = prefixes_of(config).get("summarization", "")
        return replace(
            self,
            prefix=prefix if self.prefix is None else self.prefix,
            max_target_length=target_limit(config, self.max_target_length),
            start=start,
        )

    def head(self) -> Head:
        """An encoder-decoder, and how it writes."""
        settings = generation_settings(
            self.num_beams,
            self.max_target_length,
            self.start,
            no_repeat_ngram_size=self.no_repeat_ngram_size,
        )
        return Head("AutoModelForSeq2SeqLM", {}, (), generation=settings)

    # Prepare

    def prepare(
        self, rows: Mapping[str, Sequence[Any]], tokenizer: PreTrainedTokenizerBase, limit: int
    ) -> dict[str, list[Any]]:
        """Token ids of a slice of rows: `input_ids[row][0][token]`, the head of the text.

        `n_cut` says how many of its tokens are left out; `target`, where rows have summaries, is
        an array of label ids a row, and `target_cut` counts those left out.
        """
        features = encode_texts(rows["text"], "text", self.prefix or "", tokenizer, limit)
        if "summary" in rows:
            features |= encode_targets(
                rows["summary"], "summary", tokenizer, self.max_target_length
            )
        check_references(rows.get("references", ()))
        return features

    def lost(self, rows: Mapping[str, np.ndarray], limit: int) -> str | None:
        """How many texts and summaries lose their end; None where none does."""
        return describe_cut(rows, limit, self.max_target_length, "texts", "summaries")

    def limits(self, limit: int) -> tuple[str, ...]:
        """What the model reads and writes, and what its scores are."""
        return (
            f"It reads the first {limit} tokens of a text and writes {self.max_target_length} at "
            "most.",
            "It may say what the text does not; no score here finds that out.",
            f"Its ROUGE scores are {describe_rouge()}; they read the letters a to z and digits.",
        )

    # Metrics

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of the scores, the main one first."""
        return SUMMARY_SCORES

    def metrics(
        self, tokenizer: PreTrainedTokenizerBase, *, choose: bool = False
    ) -> SummaryMetrics:
        """ROUGE, length, novelty, copying and silence."""
        return SummaryMetrics(partial(decode_ids, tokenizer=tokenizer))

    # Decode

    def decode(
        self,
        outputs: ArrayLike,
        rows: Rows,
        tokenizer: PreTrainedTokenizerBase,
        top_k: int | None = None,
    ) -> Sequence[SummaryPrediction]:
        """The texts of generated ids (rows, tokens)."""
        return [SummaryPrediction(text) for text in decode_ids(outputs, tokenizer)]

    # Show

    def show(
        self,
        rows: Rows,
        tokenizer: PreTrainedTokenizerBase,
        decided: ArrayLike | None = None,
    ) -> list[dict[str, str]]:
        """Each text, its summary, and the summary that was written."""
        return show_texts(rows, ("text", "summary"), tokenizer, decided)
