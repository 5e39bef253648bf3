"""Translation: a text in one language in, the same in another out, written token by token.

What it shares with its sibling `summarization` stands in `targets.texts`, its scores in
`scores.texts`; the registry in `tasks/__init__.py` imports it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ftkit.arrays import ArrayLike
from ftkit.errors import SettingError, quoted
from ftkit.scores.texts import TRANSLATION_SCORES, TranslationMetrics, describe_translation_scores
from ftkit.targets.texts import (
    WritingTask,
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
)
from ftkit.task import Column, Head, Rows

if TYPE_CHECKING:
    import numpy as np
    from datasets import DatasetDict
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


@dataclass(frozen=True)
class TranslationPrediction:
    """What the model made of one text."""

    translation: str

    def to_dict(self) -> dict[str, Any]:
        """The dict of transformers' former translation pipeline."""
        return {"translation_text": self.translation}


@dataclass(frozen=True)
class Translation(WritingTask):
    """Options of translation, beside those of all writing. Raises SettingError for a value that
    cannot work.
    """

    name: ClassVar[str] = "translation"
    pipeline: ClassVar[str] = "translation"
    example: ClassVar[str] = "The parcel arrived on Tuesday."
    generates: ClassVar[bool] = True
    packs: ClassVar[bool] = False

    source_language: str | None = None
    """Language of the sources as the checkpoint writes it: "en" for T5, "en_XX" for mBART."""
    target_language: str | None = None
    """Language of the translations, written likewise."""

    @property
    def settings(self) -> tuple[str, ...]:
        """How texts are read, and translations written."""
        return ("max_length", "max_target_length", "num_beams")

    # Schema

    def columns(self) -> tuple[Column, ...]:
        """A text, its translation, and perhaps several that count as right in scoring."""
        return (
            Column("source", "text", aliases=("text", "src")),
            Column("target", "target", aliases=("translation", "tgt")),
            Column("references", "target", is_required=False),
        )

    # Labels

    def with_labels(self, data: DatasetDict) -> Self:
        """The task itself, once the translations are looked over.

        Raises DataError for one that is missing; warns with a count for those that are empty.
        """
        check_targets(data, "target")
        return self

    # Head

    def fit_to(
        self, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase | None = None
    ) -> Self:
        """The task with what a checkpoint says: its prefix, its languages, its decoder's length.

        Sets the tokenizer's languages.

        Raises SettingError for languages that the checkpoint does not know, and where it wants to
        be told them and was not.
        """
        start = (
            {}
            if tokenizer is None
            else set_languages(tokenizer, self.source_language, self.target_language)
        )
        return replace(
            self,
            prefix=self._prefix(config) if self.prefix is None else self.prefix,
            max_target_length=target_limit(config, self.max_target_length),
            start=start,
        )

    def _prefix(self, config: PretrainedConfig) -> str:
        known = {
            name: prefix
            for name, prefix in prefixes_of(config).items()
            if name.startswith("translation_")
        }
        wanted = f"translation_{self.source_language}_to_{self.target_language}"
        if known and wanted not in known:
            raise SettingError(
                f"the checkpoint has a prefix for {quoted(list(known))} and none for "
                f'"{self.source_language}" to "{self.target_language}"',
                remedy='Give source_language and target_language, or a prefix of your own ("" for '
                "none).",
            )
        return known.get(wanted, "")

    def head(self) -> Head:
        """An encoder-decoder, and how it writes."""
        settings = generation_settings(self.num_beams, self.max_target_length, self.start)
        return Head("AutoModelForSeq2SeqLM", {}, (), generation=settings)

    # Prepare

    def prepare(
        self, rows: Mapping[str, Sequence[Any]], tokenizer: PreTrainedTokenizerBase, limit: int
    ) -> dict[str, list[Any]]:
        """Token ids of a slice of rows: `input_ids[row][0][token]`, the head of the source.

        `n_cut` says how many of its tokens are left out; `target`, where rows have translations, is
        an array of label ids a row, and `target_cut` counts those left out.
        """
        features = encode_texts(rows["source"], "source", self.prefix or "", tokenizer, limit)
        if "target" in rows:
            features |= encode_targets(rows["target"], "target", tokenizer, self.max_target_length)
        check_references(rows.get("references", ()))
        return features

    def lost(self, rows: Mapping[str, np.ndarray], limit: int) -> str | None:
        """How many sources and translations lose their end; None where none does."""
        return describe_cut(rows, limit, self.max_target_length, "sources", "translations")

    def limits(self, limit: int) -> tuple[str, ...]:
        """What the model reads and writes, and what its scores are."""
        return (
            f"It reads the first {limit} tokens of a source and writes {self.max_target_length} "
            "at most.",
            f"Its scores are {describe_translation_scores()}.",
        )

    # Metrics

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of the scores, the main one first."""
        return TRANSLATION_SCORES

    def metrics(
        self, tokenizer: PreTrainedTokenizerBase, *, choose: bool = False
    ) -> TranslationMetrics:
        """chrF, BLEU, length, copying and silence."""
        return TranslationMetrics(partial(decode_ids, tokenizer=tokenizer))

    # Decode

    def decode(
        self,
        outputs: ArrayLike,
        rows: Rows,
        tokenizer: PreTrainedTokenizerBase,
        top_k: int | None = None,
    ) -> Sequence[TranslationPrediction]:
        """The texts of generated ids (rows, tokens)."""
        return [TranslationPrediction(text) for text in decode_ids(outputs, tokenizer)]

    # Show

    def show(
        self,
        rows: Rows,
        tokenizer: PreTrainedTokenizerBase,
        decided: ArrayLike | None = None,
    ) -> list[dict[str, str]]:
        """Each source, its translation, and the translation that was written."""
        return show_texts(rows, ("source", "target"), tokenizer, decided)
