"""Language modelling on raw text: masked tokens (BERT), or the next token (GPT).

Everything that is language modelling stands here, in the order of the protocol. Its rows are
blocks: the texts of a slice are joined and cut into blocks of one length, and nothing is dropped.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from ftkit.arrays import ArrayLike, as_array, namespace
from ftkit.errors import CheckpointError, DataError, SettingError, check_least, quoted
from ftkit.features import IGNORED
from ftkit.scores.resample import ratio, resample
from ftkit.targets.loss import count_targets, token_loss
from ftkit.task import Batch, Column, Draw, Head, Prediction, Reduction, Rows

if TYPE_CHECKING:
    from datasets import DatasetDict
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

LanguageModel = Literal["auto", "masked", "causal"]

_AUTO_CLASSES = {"masked": "AutoModelForMaskedLM", "causal": "AutoModelForCausalLM"}
# Devlin et al. 2018, section 3.1: of the tokens to predict, 80 % are shown as the mask, 10 % as
# a random token and 10 % as they are.
_SHOWN_AS_MASK, _SHOWN_AS_RANDOM = 0.8, 0.1


@dataclass(frozen=True)
class LanguageModeling:
    """Options of language modelling. Raises SettingError for a value that cannot work.

    Logits have a number for each token of the vocabulary: with 30,000 of them, 32 blocks of 128
    tokens take half a gigabyte, masked a sixth of that. Make `block` or the batch smaller where
    memory is short.
    """

    name: ClassVar[str] = "language_modeling"
    example: ClassVar[str] = "A text"
    generates: ClassVar[bool] = False
    packs: ClassVar[bool] = True

    kind: LanguageModel = "auto"
    """"auto" reads it off the checkpoint."""
    block: int | None = None
    """Tokens of a block, special tokens counted; None is the checkpoint's own limit."""
    mask_share: float = 0.15
    """Masked only: share of the tokens (or words) of a block that are to be predicted."""
    whole_words: bool = False
    """Masked only: mask all tokens of a word together."""

    def __post_init__(self) -> None:
        if self.kind not in ("auto", *_AUTO_CLASSES):
            raise SettingError(
                f"kind is {self.kind!r}", remedy=f"Use one of {quoted(['auto', *_AUTO_CLASSES])}."
            )
        check_least(8, "tokens", block=self.block)
        if not 0 < self.mask_share < 1:
            raise SettingError(
                f"mask_share is {self.mask_share}", remedy="Give one between 0 and 1, such as 0.15."
            )
        if self.kind == "causal" and self.whole_words:
            raise SettingError(
                "whole_words has no meaning for a causal model", remedy="Leave it out."
            )

    @property
    def pipeline(self) -> str:
        """Masked models fill masks, causal ones go on with a text."""
        return "text-generation" if self.kind == "causal" else "fill-mask"

    @property
    def settings(self) -> tuple[str, ...]:
        """None: it answers no rows."""
        return ()

    # Schema and labels

    def columns(self) -> tuple[Column, ...]:
        """A text; what is to be learned stands in it."""
        return (Column("text", "text"),)

    def with_labels(self, data: DatasetDict) -> Self:
        """Text has no labels."""
        return self

    # Head

    def fit_to(
        self, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase | None = None
    ) -> Self:
        """The task with the kind that the checkpoint is of.

        That is the kind of the head it was saved with. One saved without is masked where its
        architecture has such a head (BERT has both), and else causal.

        Raises CheckpointError for a causal model that would see the tokens it is to predict.
        """
        masked, causal = (_head_class(auto, config) for auto in _AUTO_CLASSES.values())
        kind = self.kind
        if kind == "auto":
            saved = config.architectures or []
            is_causal = masked is None or (causal in saved and masked not in saved)
            kind = "causal" if is_causal else "masked"
        is_decoder_alone = causal in (config.architectures or [])
        if kind == "causal" and config.is_encoder_decoder and not is_decoder_alone:
            raise CheckpointError(
                f"this {config.model_type} is an encoder-decoder, which has no head for language "
                "modelling",
                remedy="Use an encoder such as BERT or a decoder such as GPT-2, or train it for "
                "summarization or translation.",
            )
        fitted = replace(self, kind=kind)
        if kind == "causal" and _sees_ahead(config, has_masked_head=masked is not None):
            raise CheckpointError(
                f"this {config.model_type} reads its text both ways, so that it would see the "
                "tokens it is to predict",
                remedy='Use kind="masked" with it, or a decoder such as GPT-2.'
                if masked
                else "Use a decoder such as GPT-2, or an encoder such as BERT.",
            )
        return fitted

    def head(self) -> Head:
        """The head that predicts masked tokens, or the one that predicts the next token."""
        if self.kind == "auto":
            raise SettingError(
                "the task does not know its checkpoint yet", remedy="Call fit_to(config) first."
            )
        return Head(_AUTO_CLASSES[self.kind], {}, ())

    # Prepare

    def prepare(
        self, rows: Mapping[str, Sequence[Any]], tokenizer: PreTrainedTokenizerBase, limit: int
    ) -> dict[str, list[Any]]:
        """Blocks of a slice of rows: `input_ids[block][0][token]`; only the last may be short.

        Masked: texts are joined with the separator, and every block stands between the special
        tokens that the tokenizer puts around a text. "word" has a value a token: which word of
        the block it belongs to, from 1 (its own place where words are not masked whole), or 0
        where it is special and never masked. "mask_id" and "vocabulary" are the same in each row:
        the mask token and the number of tokens to draw random ones from.

        Causal: each text stands between the special tokens that the tokenizer puts around it, and
        ends with the end-of-text token.
        """
        if self.block is not None and self.block > limit:
            raise SettingError(
                f"block is {self.block} tokens, and the checkpoint takes {limit}",
                remedy=f"Give {limit} or less, or leave it out.",
            )
        size = self.block or limit
        ids, starts = self._stream(rows["text"], tokenizer)
        if self.kind == "causal":
            blocks = [ids[i : i + size].tolist() for i in range(0, max(1, len(ids)), size)]
            return {"input_ids": [[block] for block in blocks], "n_cut": [0] * len(blocks)}
        if tokenizer.mask_token_id is None:
            raise CheckpointError(
                "the checkpoint's tokenizer has no mask token",
                remedy='Use kind="causal", or a checkpoint that was trained with masked tokens.',
            )
        before, after = _around(tokenizer)
        is_special = np.isin(ids, tokenizer.all_special_ids)
        # What follows a special token is a word of its own, whatever the tokenizer calls it.
        starts[1:] |= is_special[:-1]
        room = size - len(before) - len(after)
        blocks, words = [], []
        for i in range(0, max(1, len(ids)), room):
            first = starts[i : i + room].copy()
            first[:1] = True
            word = (first & ~is_special[i : i + room]).cumsum() * ~is_special[i : i + room]
            blocks.append([*before, *ids[i : i + room].tolist(), *after])
            words.append([*[0] * len(before), *word.tolist(), *[0] * len(after)])
        return {
            "input_ids": [[block] for block in blocks],
            "word": [[word] for word in words],
            "mask_id": [tokenizer.mask_token_id] * len(blocks),
            "vocabulary": [len(tokenizer)] * len(blocks),
            "n_cut": [0] * len(blocks),
        }

    def _stream(
        self, texts: Sequence[Any], tokenizer: PreTrainedTokenizerBase
    ) -> tuple[np.ndarray, np.ndarray]:
        """Token ids of all texts end to end, and whether each token starts a word: (tokens,)."""
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise DataError(
                    f"found {repr(text)[:60]} where a text should be",
                    remedy="Fill it in, or drop the row.",
                    row=i + 1,
                    column="text",
                )
        encoded = tokenizer(
            list(texts),
            add_special_tokens=False,
            truncation=False,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        before, after = self._joints(tokenizer)
        ids: list[int] = []
        starts: list[bool] = []
        for i, own in enumerate(encoded["input_ids"]):
            if not own:
                continue
            joined = [*(before if ids or self.kind == "causal" else ()), *own, *after]
            is_start = [True] * len(joined)
            if self.whole_words:
                words = encoded.word_ids(i)
                place = len(joined) - len(own) - len(after)
                is_start[place + 1 : place + len(own)] = [
                    word is None or word != last
                    for word, last in zip(words[1:], words[:-1], strict=True)
                ]
            ids += joined
            starts += is_start
        return np.array(ids, dtype=np.int64), np.array(starts, dtype=bool)

    def _joints(self, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
        """Special tokens before and after each text of the stream; masked: between them only."""
        eos, sep = tokenizer.eos_token_id, tokenizer.sep_token_id
        if self.kind == "masked":
            between = eos if sep is None else sep
            return ([] if between is None else [between]), []
        before, after = _around(tokenizer)
        end = sep if eos is None else eos
        return before, after or ([] if end is None else [end])

    def lost(self, rows: Mapping[str, np.ndarray], limit: int) -> str | None:
        """Nothing: texts of any length are cut into blocks, and all blocks are read."""
        return None

    def limits(self, limit: int) -> tuple[str, ...]:
        """What the model saw at once, what its perplexity means, and what it lacks."""
        size = self.block or limit
        blocks = f"It was trained on blocks of {size} tokens, in which several texts may stand."
        if self.kind == "causal":
            return (blocks, "Its perplexity compares only with that of models of its vocabulary.")
        whole = "words" if self.whole_words else "tokens"
        return (
            blocks,
            f"Its perplexity is that of masked tokens ({self.mask_share:.0%} of the {whole}), and "
            "compares only with that of models of its vocabulary, masked alike.",
            "It has no pooler: a checkpoint's own, as BERT has one, is left out, and a classifier "
            "that starts from it draws a new one.",
        )

    # Collate

    def collate(
        self, columns: Mapping[str, np.ndarray], rng: np.random.Generator | None = None
    ) -> Batch:
        """Inputs (blocks, tokens), and targets, which are IGNORED where nothing is asked for.

        Masked: "places" (blocks, most masked) says which tokens are to be predicted, and the
        targets, of the same shape, what stood there; without `rng` the same block is always
        masked alike. Causal: the targets (blocks, tokens) are the tokens that come next.
        """
        ids, is_token = columns["input_ids"], columns["attention_mask"].astype(bool)
        inputs = {name: columns[name] for name in ("attention_mask", "row")}
        if self.kind == "causal":
            targets = np.full_like(ids, IGNORED)
            has_next = is_token[:, :-1] & is_token[:, 1:]
            targets[:, :-1] = np.where(has_next, ids[:, 1:], IGNORED)
            if not is_token[:, 0].all():
                # Padded on the left: the first token stands at position 0 all the same.
                inputs["position_ids"] = _positions(is_token)
        else:
            ids, is_target = self._mask(columns, is_token, rng)
            places = np.argsort(~is_target, 1, kind="stable")[:, : max(1, is_target.sum(1).max())]
            asked = np.take_along_axis(columns["input_ids"], places, 1)
            targets = np.where(np.take_along_axis(is_target, places, 1), asked, IGNORED)
            inputs["places"] = places
        inputs["input_ids"] = ids
        return inputs, targets

    def _mask(
        self,
        columns: Mapping[str, np.ndarray],
        is_token: np.ndarray,
        rng: np.random.Generator | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Token ids with some of them masked, and which are to be predicted: (blocks, tokens)."""
        ids, word = columns["input_ids"], columns["word"]
        draws = _draws(ids, is_token, rng)
        n_words = word.max(1, keepdims=True)
        n_masked = np.maximum(1, np.round(self.mask_share * n_words))
        # The words of a block in the order of the numbers drawn for them; the first are masked.
        place = np.arange(word.shape[1])
        order = np.where(place < n_words, draws[..., 0], np.inf)
        is_masked_word = order.argsort(1).argsort(1) < n_masked
        is_target = (word > 0) & np.take_along_axis(is_masked_word, np.maximum(word - 1, 0), 1)
        position = _positions(is_token)
        how = np.take_along_axis(draws[..., 1], position, 1)
        chance = np.take_along_axis(draws[..., 2], position, 1)
        random_ids = (chance * columns["vocabulary"][:, None]).astype(ids.dtype)
        is_random = is_target & (how >= _SHOWN_AS_MASK) & (how < _SHOWN_AS_MASK + _SHOWN_AS_RANDOM)
        masked = np.where(is_random, random_ids, ids)
        masked = np.where(is_target & (how < _SHOWN_AS_MASK), columns["mask_id"][:, None], masked)
        return masked, is_target

    # Outputs and loss

    def merge(self, logits: Any, inputs: Any) -> Any:
        """Logits of the places asked for: (blocks, most masked, vocabulary); causal: of all."""
        places = inputs.get("places")
        if places is None or logits.shape[1] != inputs["input_ids"].shape[1]:
            return logits
        block = namespace(logits).arange(len(places))[:, None]
        return logits[block, places]

    def loss(self, outputs: Tensor, targets: Tensor, reduction: Reduction = "mean") -> Tensor:
        """Cross-entropy: the mean over the targets of the batch, or of each block."""
        return token_loss(outputs, targets, reduction)

    def n_counted(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """How many tokens have a target: ()."""
        return count_targets(targets)

    # Metrics

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of the scores, the main one first."""
        return ("perplexity", "loss")

    def metrics(self, tokenizer: PreTrainedTokenizerBase, *, choose: bool = False) -> Perplexity:
        """Perplexity and the loss that it comes from, both over targets, not over batches."""
        return Perplexity()

    # Decode

    def scores(self, outputs: ArrayLike) -> np.ndarray:
        """The likeliest token in each place that is asked for, of the shape of the targets."""
        # First the likeliest, then the way from the device: logits are large.
        return as_array(outputs.argmax(-1))

    def decide(self, scores: ArrayLike) -> np.ndarray:
        """The same token ids."""
        return as_array(scores)

    def decode(
        self,
        outputs: ArrayLike,
        rows: Rows,
        tokenizer: PreTrainedTokenizerBase,
        top_k: int | None = None,
    ) -> Sequence[Prediction]:
        """Raises SettingError: blocks of text are no rows to answer."""
        raise SettingError(
            "a language model answers no rows",
            remedy="Open its folder with transformers, or fine-tune from it.",
        )

    # Show

    def show(
        self, rows: Rows, tokenizer: PreTrainedTokenizerBase, decided: ArrayLike | None = None
    ) -> list[dict[str, str]]:
        """The text of each block, and what is decided for its masked (or all) tokens."""
        table = [{"text": str(row["text"])} for row in rows]
        if decided is not None:
            for shown_row, ids in zip(table, as_array(decided), strict=True):
                # Targets have places where no token is asked for.
                shown_row["predicted"] = str(tokenizer.decode(ids[ids != IGNORED]))
        return table


class Perplexity:
    """Perplexity of the targets of all batches; holds two numbers a block."""

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0
        self.by_block: list[tuple[float, int]] = []
        """The loss and the number of the targets of each block."""

    def add(self, outputs: ArrayLike, targets: ArrayLike, rows: Rows) -> None:
        """Take in logits (blocks, places, vocabulary) and targets (blocks, places)."""
        import torch
        import torch.nn.functional as F

        outputs, targets = torch.as_tensor(outputs), torch.as_tensor(targets)
        # A block at a time, so that no second copy of all logits is made.
        for logits, wanted in zip(outputs, targets, strict=True):
            places = torch.nonzero(wanted != IGNORED)[:, 0]
            chosen = logits[places].float()
            loss = F.cross_entropy(chosen, wanted[places], reduction="sum").item()
            self.total += loss
            self.count += len(places)
            self.by_block.append((loss, len(places)))

    def compute(self) -> dict[str, float]:
        """Perplexity, and the mean loss of a target in nats; no numbers where nothing was asked."""
        loss = self.total / self.count if self.count else math.nan
        with np.errstate(over="ignore"):
            return {"perplexity": float(np.exp(loss)), "loss": loss}

    def per_label(self) -> dict[str, dict[str, float]]:
        """Text has no labels."""
        return {}

    def chosen(self) -> dict[str, Any]:
        """Nothing is left to choose."""
        return {}

    def resampled(self, draw: Draw) -> dict[str, np.ndarray]:
        """The scores of resamples of the blocks, which are its rows: (resamples,) each."""

        def scores(counts: np.ndarray) -> dict[str, np.ndarray]:
            loss = ratio(*(counts @ np.array(self.by_block)).T)
            with np.errstate(over="ignore"):
                return {"perplexity": np.exp(loss), "loss": loss}

        return resample(draw, len(self.by_block), scores)


def _head_class(auto_class: str, config: PretrainedConfig) -> str | None:
    """Name of the checkpoint's model class with that head; None where it has none."""
    import transformers

    mapping: Any = getattr(transformers, auto_class)._model_mapping
    return str(mapping[type(config)].__name__) if type(config) in mapping else None


def _sees_ahead(config: PretrainedConfig, *, has_masked_head: bool) -> bool:
    """Whether a causal head of the checkpoint would stand on layers that look both ways."""
    if config.model_type == "xlnet":
        return True  # it hides what comes next by permutations, which are not made here
    is_decoder = getattr(config, "is_decoder", False) or config.is_encoder_decoder
    return has_masked_head and not is_decoder


def _around(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before and after a text."""
    encoded = tokenizer(["a"], return_attention_mask=False, verbose=False)
    ids, sequence = encoded["input_ids"][0], encoded.sequence_ids(0)
    own = [place for place, number in enumerate(sequence) if number is not None]
    return ids[: own[0]], ids[own[-1] + 1 :]


def _positions(is_token: np.ndarray) -> np.ndarray:
    """The place of each token in its block, padding not counted: (blocks, tokens)."""
    positions: np.ndarray = np.maximum(is_token.cumsum(1) - 1, 0)
    return positions


def _draws(ids: np.ndarray, is_token: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
    """Three numbers from 0 to 1 for each token, its padding not counted: (blocks, tokens, 3).

    Without `rng` they are made from the block's own tokens, so that they depend neither on the
    rest of the batch nor on its padding.
    """
    if rng is not None:
        return rng.random((*ids.shape, 3))
    draws = np.zeros((*ids.shape, 3))
    for i, (block, mask) in enumerate(zip(ids, is_token, strict=True)):
        content = block[mask].astype(np.int64)
        own = np.random.default_rng(zlib.crc32(content.tobytes()))
        draws[i, : len(content)] = own.random((len(content), 3))
    return draws
