"""Named entities: spans of a text, or runs of its words, with a label each.

Everything that is NER stands here, in the order of the protocol. Words are spans of characters: of
the tokens given, a space between them, or of the user's own text. Looks targets over through
`targets.entities`, aligns through `spans`, mends tags through `targets.tags` and scores through
`scores.entities`; the registry in `tasks/__init__.py` imports it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from ftkit.arrays import ArrayLike, as_array, namespace, softmax
from ftkit.errors import DataError, FtkitWarning, SettingError, check_least, quoted, unfit_value
from ftkit.features import IGNORED, model_arrays, named_labels
from ftkit.marks import MISSED, WRONG, MarkedText, marked_spans
from ftkit.scores.entities import SpanMetrics
from ftkit.spans import (
    entities_of_tags,
    first_tokens,
    further_tokens,
    join_words,
    mark_entities,
    owned_bounds,
    split_words,
    tags_of_entities,
    window_bounds,
)
from ftkit.targets.entities import (
    Types,
    check_entities,
    check_tags,
    describe_mended,
    entities_of_words,
    types_of_entities,
    types_of_tags,
)
from ftkit.targets.loss import count_targets, token_loss
from ftkit.targets.tags import TagSet, tags_of_types
from ftkit.task import Batch, Column, Head, Reduction, Rows

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

# Logit of O for a word that no token stands for, such as a control character; others have 0.
_SURE = 20.0


@dataclass(frozen=True)
class Entity:
    """A part of a text with a label."""

    text: str
    """What stands between `start` and `end`."""
    label: str
    start: int
    """In characters of the text given; of tokens given, a space between them."""
    end: int
    """Behind the last character."""
    score: float
    """Probability of the label, the mean over the entity's words."""


@dataclass(frozen=True)
class EntitiesPrediction:
    """The entities of a text, in their order."""

    entities: tuple[Entity, ...]
    words: tuple[str, ...]
    """The words that were tagged: the tokens given, or the words of the text."""
    tags: tuple[str, ...]
    """The tag of each word in BIO."""

    def to_dict(self) -> dict[str, Any]:
        """A plain dict with the entities, ready for JSON."""
        return {"entities": [asdict(entity) for entity in self.entities]}


@dataclass(frozen=True)
class NER:
    """Options of NER. Raises SettingError for a value that cannot work."""

    name: ClassVar[str] = "ner"
    pipeline: ClassVar[str] = "token-classification"
    example: ClassVar[str] = "Ann Lee moved to Oslo."
    generates: ClassVar[bool] = False
    packs: ClassVar[bool] = False

    labels: tuple[str, ...] = ()
    """BIO tags in the order of the head's outputs; filled in from the data."""
    sub_tokens: Literal["first", "all"] = "first"
    """Which tokens of a word are trained; the first one always answers for it, as it does in
    transformers' pipeline with aggregation_strategy="first". "all" gives the others I- tags, for
    the strategy "simple", which reads every token; it scored lower on wnut17 (RESULTS.md)."""
    constrained: bool = False
    """Answer with the likeliest legal sequence of tags (Viterbi), not with the likeliest tag of
    each word, where an I- that goes on with nothing becomes a B-."""
    max_length: int | None = None
    """Longest sequence in tokens, special tokens counted; None is the checkpoint's own limit.
    Longer texts are read in windows."""
    stride: int = 64
    """Tokens that neighbouring windows share; at most half a window."""
    tag_share: tuple[float, ...] = ()
    """Share of the training words that has each tag; filled in from the data. A new head starts
    from it instead of having to learn first that most words are in no entity."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(self.labels))
        object.__setattr__(self, "tag_share", tuple(self.tag_share))
        if self.sub_tokens not in ("first", "all"):
            raise SettingError(
                f"sub_tokens is {self.sub_tokens!r}", remedy='Use one of "first", "all".'
            )
        check_least(8, "tokens", max_length=self.max_length)
        check_least(0, "tokens", stride=self.stride)
        if self.labels and sorted(self.labels) != sorted(tags_of_types(self._tags.types)):
            raise SettingError(
                f"the labels {quoted(self.labels)} are no set of BIO tags",
                remedy="Give O, and B- and I- of each type; or leave them out, with "
                "new_head=True for a checkpoint that has others.",
            )

    @cached_property
    def _tags(self) -> TagSet:
        return TagSet(self.labels)

    @property
    def settings(self) -> tuple[str, ...]:
        """How long texts are read, and tags decided."""
        return ("max_length", "stride", "constrained")

    # Schema

    def columns(self) -> tuple[Column, ...]:
        """Words and their tags, or a text and the entities in it."""
        return (
            Column("text", "text", is_required=False),
            Column("tokens", "tokens", is_required=False, aliases=("words",)),
            Column("tags", "label", is_required=False, aliases=("ner_tags", "labels")),
            Column("entities", "label", is_required=False, aliases=("spans",)),
        )

    # Labels

    def with_labels(self, data: DatasetDict) -> Self:
        """The task with the BIO tags of the types that the data has.

        Raises DataError for rows without tokens and tags, or text and entities; for tags and
        tokens of different length, tags of no known scheme, entities that overlap or are not in
        their text; for types met outside train only. Warns where tags or entities were mended.
        """
        train = _types("train", data["train"])
        found = {"train": train}
        for split, rows in data.items():
            if split != "train":
                found[split] = _types(split, rows, train.scheme)
        column = "tags" if _has_words(data["train"].column_names) else "entities"
        if not train.first_row:
            raise DataError(
                f"all {len(data['train']):,} rows have no entity",
                remedy="Add rows with entities.",
                split="train",
                column=column,
            )
        for split, types in found.items():
            for kind, row in types.first_row.items():
                if kind not in train.first_row:
                    raise DataError(
                        f'entities of the type "{kind}" occur here and never in train',
                        remedy="Put rows of it into train, mend its spelling, or drop these rows.",
                        split=split,
                        row=row,
                        column=column,
                    )
        labels = self.labels or tags_of_types(train.first_row)
        unknown = sorted(kind for kind in train.first_row if f"B-{kind}" not in labels)
        if unknown:
            raise SettingError(
                f"the task has no labels for the type {quoted(unknown)}; it has {quoted(labels)}",
                remedy="Leave `labels` out, or name all of them.",
            )
        for sentence in describe_mended(found):
            warnings.warn(sentence, FtkitWarning, stacklevel=2)
        counts = np.array([train.words[label] for label in labels])
        return replace(self, labels=labels, tag_share=tuple((counts / counts.sum()).tolist()))

    def fit_to(
        self, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase | None = None
    ) -> Self:
        """Any checkpoint serves as it is."""
        return self

    # Head

    def head(self) -> Head:
        """A token classification head with an output a tag."""
        if not self.labels:
            raise SettingError(
                "the task does not know its labels yet", remedy="Call with_labels(data) first."
            )
        config = {
            "num_labels": len(self.labels),
            "id2label": dict(enumerate(self.labels)),
            "label2id": {name: i for i, name in enumerate(self.labels)},
        }
        # Logits that answer with the shares of the tags, as in Lin et al. 2017, section 4.1.
        bias = tuple(np.log(np.clip(self.tag_share, 1e-3, 1)).tolist())
        return Head("AutoModelForTokenClassification", config, self.labels, bias)

    # Prepare

    def prepare(
        self, rows: Mapping[str, Sequence[Any]], tokenizer: PreTrainedTokenizerBase, limit: int
    ) -> dict[str, list[Any]]:
        """Token ids of a slice of rows: `input_ids[row][window][token]`.

        For each token, "word" is the number (from 1) of the first word that it answers for, 0 for
        none, "covers" how many words those are, and "further" the word that it goes on with.
        For each row, "words" counts its words and "unseen" those that no token stands for;
        "target", where rows have labels, has the number of a tag for each word.
        """
        count = len(rows["tokens" if _has_words(rows) else "text"])
        columns = {name: rows[name] for name in _COLUMNS if name in rows}
        listed = [{name: values[i] for name, values in columns.items()} for i in range(count)]
        read = [read_words(row, i + 1) for i, row in enumerate(listed)]
        encoded = tokenizer(
            [text for text, _ in read],
            truncation=False,
            padding=False,
            return_attention_mask=False,
            return_offsets_mapping=True,
            verbose=False,
        )
        names = [name for name in ("input_ids", "token_type_ids") if name in encoded]
        further = ["further"] if self.sub_tokens == "all" else []
        features: dict[str, list[Any]] = {name: [] for name in (*names, "word", "covers", *further)}
        features |= {name: [] for name in ("words", "unseen", "n_cut")}
        for i, (_, words) in enumerate(read):
            arrays = {name: encoded[name][i] for name in names}
            first = first_tokens(encoded["offset_mapping"][i], words)
            arrays |= self._alignment(encoded["offset_mapping"][i], words, first)
            windows = [list(range(len(arrays["input_ids"])))]
            if len(arrays["input_ids"]) > limit:
                windows, owners = self._windows(encoded.sequence_ids(i), limit)
            for name, values in arrays.items():
                features[name].append([[values[p] for p in window] for window in windows])
            if len(windows) > 1:
                for name in ("word", "covers", *further):
                    for window, owned, values in zip(
                        windows, owners, features[name][i], strict=True
                    ):
                        values[:] = [v * (p in owned) for v, p in zip(values, window, strict=True)]
            features["words"].append(len(words))
            features["unseen"].append(first.count(-1))
            features["n_cut"].append(0)
        if "tags" in columns or "entities" in columns:
            features["target"] = [
                self._target(row, i + 1, words)
                for i, (row, (_, words)) in enumerate(zip(listed, read, strict=True))
            ]
        return features

    def _alignment(
        self,
        tokens: Sequence[tuple[int, int]],
        words: Sequence[tuple[int, int]],
        first: Sequence[int],
    ) -> dict[str, list[int]]:
        """For each token the words that it answers for, and the word that it goes on with."""
        word, covers = [0] * len(tokens), [0] * len(tokens)
        for number, token in enumerate(first, start=1):
            if token >= 0:
                word[token] = word[token] or number
                covers[token] += 1
        if self.sub_tokens == "first":
            return {"word": word, "covers": covers}
        further = [0] * len(tokens)
        for token, number in further_tokens(tokens, words, first):
            further[token] = number + 1
        return {"word": word, "covers": covers, "further": further}

    def _windows(
        self, sequence_ids: Sequence[int | None], limit: int
    ) -> tuple[list[list[int]], list[range]]:
        """Positions of each window, special tokens in all, and those that it answers for."""
        inner = [p for p, sequence in enumerate(sequence_ids) if sequence is not None]
        fixed = {p for p, sequence in enumerate(sequence_ids) if sequence is None}
        room = limit - len(fixed)
        bounds = window_bounds(len(inner), room, min(self.stride, room // 2))
        windows = [sorted(fixed.union(inner[start:end])) for start, end in bounds]
        owners = [range(inner[s], inner[e - 1] + 1) for s, e in owned_bounds(bounds)]
        return windows, owners

    def _target(
        self, row: Mapping[str, Any], number: int, words: Sequence[tuple[int, int]]
    ) -> np.ndarray:
        """The numbers of the tags of a row's words."""
        entities = wanted_entities(row, number, words)
        for _, _, kind in entities:
            if kind not in self._tags.types:
                raise DataError(
                    f'the type "{kind}" is none that the model knows',
                    remedy=f"Its types are {quoted(self._tags.types)}.",
                    row=number,
                    column="tags" if _has_words(row) else "entities",
                )
        tags = tags_of_entities(entities, len(words))
        return np.array([self._tags.numbers[tag] for tag in tags], dtype=np.int32)

    def lost(self, rows: Mapping[str, np.ndarray], limit: int) -> str | None:
        """How many words the model has no token for; it sees all others, however long a text."""
        if not (unseen := int(rows["unseen"].sum())):
            return None
        return (
            f"{unseen:,} of {int(rows['words'].sum()):,} words leave no token (such as control "
            "characters); they are scored, and always tagged O"
        )

    def limits(self, limit: int) -> tuple[str, ...]:
        """What becomes of long texts, and what its entities are made of."""
        return (
            f"Texts longer than {limit} tokens are read in windows that share up to {self.stride} "
            "tokens; no part is left out.",
            "An entity is a run of whole words; entities within entities are not found.",
            "transformers' pipeline agrees best with aggregation_strategy="
            + ('"first".' if self.sub_tokens == "first" else '"simple".'),
        )

    # Collate

    def collate(
        self, columns: Mapping[str, np.ndarray], rng: np.random.Generator | None = None
    ) -> Batch:
        """Inputs of shape (windows, tokens) and targets (rows, words), -100 behind the words.

        "place" (rows, words) says which of the windows' tokens answers for a word, -1 for none;
        "shared" (rows, words), if there are such, where words go on with another's token. In
        training, words without a token of their own have no target, and the further tokens of
        words stand behind the words of their row.
        """
        inputs = model_arrays(columns)
        shape = len(columns["row"]), max(1, int(columns["words"].max()))
        row_of_window = np.repeat(np.arange(shape[0]), columns["windows"])

        window, token = columns["word"].nonzero()
        covers = columns["covers"][window, token]
        before = np.repeat(columns["word"][window, token] - 1, covers)
        word = before + _count_up(covers)
        place = np.full(shape, -1)
        flat = window * columns["word"].shape[1] + token
        place[np.repeat(row_of_window[window], covers), word] = np.repeat(flat, covers)

        target = columns.get("target", np.full(shape, IGNORED)).copy()
        if rng is not None:
            tags = target.copy()
            target[place < 0] = IGNORED
            # A token that answers for several words is trained on the first of them.
            target[:, 1:][_is_shared(place)] = IGNORED
            if "further" in columns:
                place, target = self._with_further(columns, row_of_window, tags, place, target)
        inputs["place"] = place
        if (is_shared := _is_shared(place)).any():
            inputs["shared"] = np.pad(is_shared, ((0, 0), (1, 0)))
        return inputs, target.astype(np.int64)

    def _with_further(
        self,
        columns: Mapping[str, np.ndarray],
        row_of_window: np.ndarray,
        tags: np.ndarray,
        place: np.ndarray,
        target: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Places and targets (rows, words and further tokens)."""
        window, token = columns["further"].nonzero()
        row = row_of_window[window]
        counts = np.bincount(row, minlength=len(place))
        column = place.shape[1] + _count_up(counts)
        width = ((0, 0), (0, int(counts.max())))
        place = np.pad(place, width, constant_values=-1)
        target = np.pad(target, width, constant_values=IGNORED)
        place[row, column] = window * columns["further"].shape[1] + token
        target[row, column] = self._tags.inside[tags[row, columns["further"][window, token] - 1]]
        return place, target

    # Outputs and loss

    def merge(self, logits: Any, inputs: Any) -> Any:
        """Logits (rows, words, tags): those of each word's token.

        Where words share a token, those behind the first go on with what it begins: their logits
        of B- and I- are such that I- is the likelier one.
        """
        xp, place = namespace(logits), inputs["place"]
        outputs = logits.reshape(-1, len(self.labels))[place.clip(0)]
        none = xp.zeros_like(outputs[:1, :1])
        none[..., self._tags.outside] = _SURE
        outputs = xp.where((place < 0)[..., None], none, outputs)
        if "shared" not in inputs:
            return outputs
        return xp.where(inputs["shared"][..., None], self._tags.going_on(outputs), outputs)

    def loss(self, outputs: Tensor, targets: Tensor, reduction: Reduction = "mean") -> Tensor:
        """Cross-entropy: the mean over the words that have a target, or over those of each row."""
        return token_loss(outputs, targets, reduction)

    def n_counted(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """How many words or sub-tokens have a target: ()."""
        return count_targets(targets)

    # Metrics

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of the scores, the main one first."""
        return ("f1", "precision", "recall", "accuracy")

    def metrics(self, tokenizer: PreTrainedTokenizerBase, *, choose: bool = False) -> SpanMetrics:
        """Strict precision, recall and F1 of entities over all words of all rows."""
        return SpanMetrics(self._tags, lambda outputs: self.decide(self.scores(outputs)))

    # Decode

    def scores(self, outputs: ArrayLike) -> np.ndarray:
        """Probabilities (rows, words, tags)."""
        return softmax(as_array(outputs))

    def decide(self, scores: ArrayLike) -> np.ndarray:
        """Numbers of tags (rows, words): a legal sequence of BIO."""
        scores = as_array(scores)
        if self.constrained:
            return self._tags.best_path(scores)
        return self._tags.mended(scores.argmax(-1))

    def decode(
        self,
        outputs: ArrayLike,
        rows: Rows,
        tokenizer: PreTrainedTokenizerBase,
        top_k: int | None = None,
    ) -> Sequence[EntitiesPrediction]:
        """Entities from logits (rows, words, tags); all of them, whatever `top_k`."""
        scores = self.scores(outputs)
        decided = self.decide(scores)
        # A B- that was an I- before it was mended has the probability of that I-.
        sure = self._tags.likelier(scores, decided).tolist()
        return [
            self._prediction(row, numbers, each)
            for row, numbers, each in zip(rows, decided.tolist(), sure, strict=True)
        ]

    def _prediction(
        self, row: Mapping[str, Any], numbers: Sequence[int], sure: Sequence[float]
    ) -> EntitiesPrediction:
        text, words = read_words(row)
        tags = [self.labels[number] for number in numbers[: len(words)]]
        entities = []
        for first, end, label in entities_of_tags(tags):
            start, stop = words[first][0], words[end - 1][1]
            score = sum(sure[first:end]) / (end - first)
            entities.append(Entity(text[start:stop], label, start, stop, score))
        spoken = tuple(text[start:end] for start, end in words)
        return EntitiesPrediction(tuple(entities), spoken, tuple(tags))

    # Show

    def show(
        self, rows: Rows, tokenizer: PreTrainedTokenizerBase, decided: ArrayLike | None = None
    ) -> list[dict[str, str]]:
        """The text of each row with its entities marked, and with those that were decided."""
        table, numbers = [], None if decided is None else as_array(decided)
        for i, row in enumerate(rows):
            text, words = read_words(row)
            is_labelled = "tags" in row or "entities" in row
            wanted = _spans(words, wanted_entities(row, i + 1, words)) if is_labelled else None
            found = None
            if numbers is not None:
                tags = [self.labels[number] for number in numbers[i, : len(words)].tolist()]
                found = _spans(words, entities_of_tags(tags))
            shown = {"text": _marked(text, wanted or [], found, MISSED)}
            if found is not None:
                shown["predicted"] = _marked(text, found, wanted, WRONG)
            table.append(shown)
        return table


_COLUMNS = ("text", "tokens", "tags", "entities")


def _has_words(columns: Any) -> bool:
    """Whether rows with these columns are read by their tokens, which go before a text."""
    return "tokens" in columns


def read_words(
    row: Mapping[str, Any], number: int | None = None
) -> tuple[str, list[tuple[int, int]]]:
    """The text of a row and the spans of its words; raises DataError for one without."""
    name = "tokens" if _has_words(row) else "text"
    value: Any = row.get(name)
    if name == "text" and isinstance(value, str):
        return value, split_words(value)
    is_list = isinstance(value, (list, tuple, np.ndarray))
    if name == "tokens" and is_list and all(isinstance(word, str) for word in value):
        return join_words(value)
    raise unfit_value(value, "a text" if name == "text" else "a list of words", number, name)


def wanted_entities(
    row: Mapping[str, Any], number: int, words: Sequence[tuple[int, int]]
) -> list[tuple[int, int, str]]:
    """The entities of words (first, end, type) that a row is labelled with."""
    if _has_words(row):
        return entities_of_tags(check_tags(number, row["tokens"], row.get("tags")))
    return entities_of_words(words, check_entities(number, row["text"], row.get("entities")))


def _spans(
    words: Sequence[tuple[int, int]], entities: Sequence[tuple[int, int, str]]
) -> list[tuple[int, int, str]]:
    """Entities of words (first, end, type) in characters of the text."""
    return [(words[first][0], words[end - 1][1], label) for first, end, label in entities]


def _marked(
    text: str,
    spans: Sequence[tuple[int, int, str]],
    others: Sequence[tuple[int, int, str]] | None,
    note: str,
) -> str:
    """The text with entities marked in it, and the note on those that `others` lack."""
    return MarkedText(mark_entities(text, spans), text, marked_spans(spans, others, note))


def _types(split: str, rows: Dataset, scheme: str | None = None) -> Types:
    """The types of entities in a split, its rows looked over; raises DataError for bad ones."""
    has_words = _has_words(rows.column_names)
    inputs, targets = ("tokens", "tags") if has_words else ("text", "entities")
    for name in (inputs, targets):
        if name not in rows.column_names:
            raise DataError(
                f'there is no column "{name}" among {quoted(rows.column_names)}',
                remedy="Bring tokens and their tags, or a text and the entities in it: "
                'columns={"tokens": ..., "tags": ...} or {"text": ..., "entities": ...}.',
                split=split,
            )
    chosen = rows.select_columns([inputs, targets])
    columns = named_labels(chosen[:], chosen.features)
    try:
        for i, value in enumerate(columns[inputs]):
            if not isinstance(value, list if has_words else str):
                read_words({inputs: value}, i + 1)
        if not has_words:
            return types_of_entities(columns["text"], columns["entities"])
        pairs = zip(columns["tokens"], columns["tags"], strict=True)
        tags = [check_tags(i, words, found) for i, (words, found) in enumerate(pairs, start=1)]
        return types_of_tags(tags, scheme)
    except DataError as error:
        raise error.located(split=split) from None


def _count_up(counts: np.ndarray) -> np.ndarray:
    """0, 1, ... up to each of the counts, end to end."""
    before = np.repeat(counts.cumsum() - counts, counts)
    counted: np.ndarray = np.arange(len(before)) - before
    return counted


def _is_shared(place: np.ndarray) -> np.ndarray:
    """Whether a word has the token of the word before it: (rows, words - 1)."""
    is_shared: np.ndarray = (place[:, 1:] == place[:, :-1]) & (place[:, 1:] >= 0)
    return is_shared
