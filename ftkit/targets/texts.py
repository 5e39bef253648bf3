"""What tasks that write a text share: options, ids of texts and targets, settings, checks.

Pure functions over texts, token ids and tensors. Imports `errors`, `features` and `task`;
`tasks/summarization.py` and `tasks/translation.py` call it.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ftkit.arrays import ArrayLike, as_array
from ftkit.errors import (
    DataError,
    FtkitWarning,
    SettingError,
    check_least,
    describe_rows,
    quoted,
    unfit_value,
)
from ftkit.features import IGNORED, check_texts
from ftkit.targets.loss import count_targets, token_loss
from ftkit.task import Batch, Reduction, Rows

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class WritingTask:
    """What every task that writes has. Raises SettingError for an option that cannot work."""

    prefix: str | None = None
    """Put before every text, such as T5's "summarize: "; None is what the checkpoint names."""
    max_length: int | None = None
    """Longest text in tokens, special tokens counted; None is the checkpoint's own limit."""
    max_target_length: int = 128
    """Longest text to learn and to write, in tokens, special tokens counted."""
    label_smoothing: float = 0.0
    """Share of the target spread over the whole vocabulary (Szegedy et al. 2016)."""
    num_beams: int = 4
    """Beginnings that generation keeps in mind; 1 takes the likeliest token each time."""
    validate_rows: int | None = 200
    """Validation rows that a text is written for during training; None is all of them."""
    validate_every: int = 1
    """Epochs from one such validation to the next."""
    start: Mapping[str, int] = field(default_factory=dict)
    """Settings of generation by which the language is chosen; filled in from the tokenizer."""

    def __post_init__(self) -> None:
        check_least(8, "tokens", max_length=self.max_length)
        check_least(4, "tokens", max_target_length=self.max_target_length)
        check_least(1, num_beams=self.num_beams)
        check_least(1, validate_rows=self.validate_rows, validate_every=self.validate_every)
        if not 0 <= self.label_smoothing < 1:
            raise SettingError(
                f"label_smoothing is {self.label_smoothing}", remedy="Give 0 or more, below 1."
            )

    # Collate

    def collate(
        self, columns: Mapping[str, np.ndarray], rng: np.random.Generator | None = None
    ) -> Batch:
        """Inputs (rows, tokens), and label ids (rows, label tokens) padded with -100."""
        return collate_texts(columns)

    def merge(self, logits: Any, inputs: Any) -> Any:
        """Logits (rows, label tokens, vocabulary) as they are: a row is one window."""
        return logits

    # Loss

    def loss(self, outputs: Tensor, targets: Tensor, reduction: Reduction = "mean") -> Tensor:
        """Cross-entropy of every label id from those before it, the mean over them."""
        return token_loss(outputs, targets, reduction, label_smoothing=self.label_smoothing)

    def n_counted(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """How many tokens have a target: ()."""
        return count_targets(targets)

    # Decode

    def scores(self, outputs: ArrayLike) -> np.ndarray:
        """The generated ids (rows, tokens) as they are."""
        return as_array(outputs)

    def decide(self, scores: ArrayLike) -> np.ndarray:
        """The generated ids (rows, tokens) as they are; of logits (rows, tokens, vocabulary), as
        `get_preds` gathers them, the likeliest token behind each token of the target.
        """
        array = as_array(scores)
        return array.argmax(-1) if array.ndim == 3 else array


# Whole columns


def check_targets(data: DatasetDict, column: str) -> None:
    """Checks the texts to learn, and "references" where rows have them.

    Raises DataError, with split and row, for one that is null or no text, and for references
    that are no list of texts; warns with a count for empty ones.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    for split, rows in data.items():
        texts = arrow_column(rows, column)
        if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
            if not pa.types.is_null(texts.type):
                raise DataError(
                    f"found {texts.type} values where texts belong",
                    remedy="Make them strings, or name the column that holds the texts.",
                    split=str(split),
                    column=column,
                )
            texts = texts.cast(pa.string())
        if texts.null_count:
            raise DataError(
                f"the text is missing (null) here and in {texts.null_count:,} row(s) in all",
                remedy="Fill it in, or drop these rows.",
                split=str(split),
                row=pc.index(pc.is_null(texts), True).as_py() + 1,
                column=column,
            )
        blank = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(texts)), 0)
        warn_of_rows(str(split), column, blank, "texts are empty, which teaches the model silence")
        if "references" in rows.column_names and not _are_texts(arrow_column(rows, "references")):
            try:
                check_references(rows["references"])
            except DataError as error:
                raise error.located(split=str(split)) from None


def _are_texts(lists: Any) -> bool:
    """Whether all of an Arrow array are lists of one text or more."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_list(lists.type) or not pa.types.is_string(lists.type.value_type):
        return False
    least = pc.min(pc.fill_null(pc.list_value_length(lists), 0)).as_py()
    return bool(least) and not pc.list_flatten(lists).null_count


def check_references(rows: Iterable[Any]) -> None:
    """Raises DataError, with the row from 1, for references that are no list of texts."""
    for number, references in enumerate(rows, start=1):
        is_list = isinstance(references, (list, tuple, np.ndarray)) and len(references) > 0
        if not is_list or not all(isinstance(text, str) for text in references):
            remedy = "Give a list of one text or more."
            raise unfit_value(references, "a list of texts", number, "references", remedy)


def arrow_column(rows: Dataset, name: str) -> Any:
    """A column of a split as one Arrow array."""
    import pyarrow as pa

    column = rows.select_columns(name).with_format("arrow")[:][name]
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def warn_of_rows(split: str, column: str, is_odd: Any, what: str) -> None:
    """Warn once of the rows for which an Arrow array of booleans is true."""
    rows = (np.flatnonzero(is_odd.to_numpy(zero_copy_only=False)) + 1).tolist()
    if rows:
        told = describe_rows(split, column, rows, len(is_odd), what)
        warnings.warn(told, FtkitWarning, stacklevel=4)


# Token ids


def encode_texts(
    texts: Sequence[Any], column: str, prefix: str, tokenizer: PreTrainedTokenizerBase, limit: int
) -> dict[str, list[Any]]:
    """One window a row, `input_ids[row][0][token]`: the head of its text behind the prefix.

    `n_cut` says how many of its tokens are left out. Raises DataError, with the row of the slice,
    for what is no text.
    """
    check_texts(texts, column)
    encoded = tokenizer([prefix + text for text in texts], **_PLAIN)
    ids, cut = _cut(encoded, limit)
    return {"input_ids": [[each] for each in ids], "n_cut": cut}


def encode_targets(
    texts: Sequence[Any], column: str, tokenizer: PreTrainedTokenizerBase, most: int
) -> dict[str, list[Any]]:
    """`target`, a ragged array of label ids a row; `target_cut` counts the ids left out.

    Raises DataError, with the row of the slice, for what is no text.
    """
    check_texts(texts, column)
    ids, cut = _cut(tokenizer(text_target=list(texts), **_PLAIN), most)
    return {"target": [np.array(each, dtype=np.int64) for each in ids], "target_cut": cut}


_PLAIN: dict[str, Any] = {
    "truncation": False,
    "padding": False,
    "return_attention_mask": False,
    "return_token_type_ids": False,
    "verbose": False,
}


def _cut(encoded: Any, limit: int) -> tuple[list[list[int]], list[int]]:
    """Ids no longer than `limit`, the special tokens kept, and how many of each row went."""
    kept: list[list[int]] = []
    for i, ids in enumerate(encoded["input_ids"]):
        if len(ids) > limit:
            is_special = [sequence is None for sequence in encoded.sequence_ids(i)]
            room = limit - sum(is_special)
            first_out = [p for p, special in enumerate(is_special) if not special][room]
            ids = [each for p, each in enumerate(ids) if p < first_out or is_special[p]]
        kept.append(ids)
    whole = encoded["input_ids"]
    return kept, [len(ids) - len(part) for ids, part in zip(whole, kept, strict=True)]


def collate_texts(columns: Mapping[str, np.ndarray]) -> Batch:
    """Inputs (rows, tokens) and the label ids (rows, label tokens), padded with -100.

    The labels stand among the inputs too, because a decoder reads them shifted by one.
    """
    inputs = {name: columns[name] for name in ("input_ids", "attention_mask", "row")}
    # Longformer's decoder (LED) wants a token that sees, and is seen from, everywhere.
    inputs["global_attention_mask"] = np.zeros_like(inputs["input_ids"])
    inputs["global_attention_mask"][:, 0] = 1
    if "target" not in columns:
        return inputs, np.full((len(columns["row"]), 1), IGNORED)
    inputs["labels"] = columns["target"].astype(np.int64)
    return inputs, inputs["labels"]


def decode_ids(ids: ArrayLike, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Texts of token ids (rows, tokens), where what pads may be -100."""
    ids, padding = as_array(ids), tokenizer.pad_token_id
    padded = np.where(ids < 0, 0 if padding is None else padding, ids)
    texts: list[str] = tokenizer.batch_decode(padded.tolist(), skip_special_tokens=True)
    return [text.strip() for text in texts]


# Settings


def generation_settings(
    num_beams: int, max_target_length: int, start: Mapping[str, int], **others: Any
) -> dict[str, Any]:
    """Settings of a generation_config, those of the checkpoint's old task set back.

    BART for news, say, ships a least length that would make every line of a summary a paragraph.
    """
    return {
        "num_beams": num_beams,
        "max_new_tokens": max_target_length,
        "max_length": None,
        "min_length": 0,
        "min_new_tokens": None,
        "length_penalty": 1.0,
        # Stopping at the first finished beams would take "deli" while "delivery" is being written.
        "early_stopping": False,
        "no_repeat_ngram_size": 0,
        "do_sample": False,
        **others,
        **start,
    }


def prefixes_of(config: Any) -> dict[str, str]:
    """The prefix that a checkpoint's config names for each of its tasks, such as T5's."""
    tasks = getattr(config, "task_specific_params", None) or {}
    return {name: settings["prefix"] for name, settings in tasks.items() if "prefix" in settings}


def target_limit(config: Any, wanted: int) -> int:
    """Longest target in tokens: `wanted`, or less where a decoder takes no more."""
    decoder = getattr(config, "decoder", config)
    positions: int | None = getattr(decoder, "max_decoder_position_embeddings", None)
    if positions is None:
        positions = getattr(decoder, "max_position_embeddings", None)
    if positions is None or positions < 1:
        return wanted
    if decoder.model_type in _POSITIONS_BEHIND_PADDING:
        positions -= decoder.pad_token_id + 1
    return min(wanted, positions)


# RoBERTa and its kin count their positions from behind the padding index.
_POSITIONS_BEHIND_PADDING = (
    "camembert",
    "data2vec-text",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
)


def set_languages(
    tokenizer: PreTrainedTokenizerBase, source: str | None, target: str | None
) -> dict[str, int]:
    """Make a tokenizer that marks languages mark texts and targets with these.

    Gives the setting of generation that makes a model write in the target language: a decoder
    trained on "language text end" is forced to write the language first; one trained on "text
    end language" reads the language, wrapped around, as its first token.

    Raises SettingError where it wants to be told one, and for a code that it does not know.
    """
    if not (hasattr(tokenizer, "src_lang") and hasattr(tokenizer, "tgt_lang")):
        return {}
    known = tokenizer.get_added_vocab()
    codes = [name for name in known if not name.startswith("<")]
    for code in (source, target):
        if code not in codes:
            found = "no language was given" if code is None else f'it has no language "{code}"'
            close = difflib.get_close_matches(str(code), codes, n=3, cutoff=0.3) or codes
            raise SettingError(
                f"the checkpoint marks texts with their language, and {found}",
                remedy=f"Use one such as {quoted(close)}.",
            )
    tokenizer.tgt_lang, tokenizer.src_lang = target, source
    language = known[str(target)]
    (ids,) = tokenizer(text_target=[""], **_PLAIN)["input_ids"]
    return {"forced_bos_token_id" if ids[0] == language else "decoder_start_token_id": language}


# What is shown, and what is lost


def show_texts(
    rows: Rows,
    names: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    written: ArrayLike | None = None,
) -> list[dict[str, str]]:
    """The texts in those columns that the rows have, and what was written: ids (rows, tokens)."""
    shown = [name for name in names if rows and name in rows[0]]
    table = [{name: str(row[name]) for name in shown} for row in rows]
    if written is not None:
        for shown_row, text in zip(table, decode_ids(written, tokenizer), strict=True):
            shown_row["predicted"] = text
    return table


def describe_cut(
    rows: Mapping[str, np.ndarray], limit: int, most: int, what: str, target: str
) -> str | None:
    """A sentence on the texts and targets that were cut; None where none was."""
    parts = []
    n_cut = int((rows["n_cut"] > 0).sum())
    if n_cut:
        parts.append(
            f"{n_cut:,} of {len(rows['n_cut']):,} {what} are longer than {limit} tokens and lose "
            "their end; take a checkpoint that reads more, or split them"
        )
    n_target = int((rows["target_cut"] > 0).sum()) if "target_cut" in rows else 0
    if n_target:
        parts.append(
            f"{n_target:,} of {len(rows['n_cut']):,} {target} are longer than {most} tokens and "
            "lose their end; raise max_target_length"
        )
    return ". Also, ".join(parts) or None
