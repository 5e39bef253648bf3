"""Extractive question answering: the answer is a span of the context, or there is none.

Everything that is question answering stands here, in the order of the protocol: schema, labels,
head, prepare, collate, merge, loss, metrics, decode, show. Gold answers are read through
`targets.answers` and scored through `scores.answers`; the registry in `tasks/__init__.py` imports
it.

Offsets count characters of the context, the end not included. Outputs (rows, windows, tokens, 4)
hold for each token the start logit, the end logit, and the offsets of its characters: all that
the loss, the scores and the predictions need.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from ftkit.arrays import ArrayLike, as_array, namespace
from ftkit.errors import DataError, FtkitWarning, SettingError, check_least
from ftkit.features import IGNORED, check_texts, model_arrays
from ftkit.marks import MISSED, WRONG, Mark, MarkedText
from ftkit.scores.answers import AnswerMetrics, score_answer
from ftkit.spans import trim_span, window_bounds
from ftkit.targets.answer_spans import MASKED, NO_PLACE, NULL, best_spans, null_logits
from ftkit.targets.answers import (
    Answers,
    check_answers,
    has_answers,
    place_answers,
    read_answers,
)
from ftkit.targets.loss import mean_of_counted
from ftkit.task import Batch, Column, Head, Reduction, Rows

if TYPE_CHECKING:
    from datasets import DatasetDict
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

# Token arrays are padded with 0, which has to mean "no place": offsets are kept so much higher.
_SHIFT = -NO_PLACE
# Spans that share the probability of a row, run_qa.py's `n_best_size`.
_N_BEST = 20
_AROUND = 30  # characters of the context that a table shows on either side of an answer
_NO_ANSWER = "(no answer)"


@dataclass(frozen=True)
class Answer:
    """A span of the context."""

    answer: str
    """The characters of the context as they stand there; "" for no answer."""
    start: int
    end: int
    """Where it stands in the context; both 0 for no answer."""
    score: float
    """Its share of the probability of the best spans; see `QuestionAnswering.decode`."""

    def to_dict(self) -> dict[str, Any]:
        """The dict that transformers' question answering pipeline gave."""
        return {"score": self.score, "start": self.start, "end": self.end, "answer": self.answer}


@dataclass(frozen=True)
class AnswerPrediction:
    """The answer to a question, as a span of its context."""

    answer: str
    """The characters of the context as they stand there; "" for no answer."""
    start: int
    end: int
    """Where it stands in the context; both 0 for no answer."""
    score: float
    """Its share of the probability of the best spans; see `QuestionAnswering.decode`."""
    alternatives: tuple[Answer, ...] = ()
    """The next best answers, where more than one was asked for."""

    def to_dict(self) -> dict[str, Any]:
        """The dict that transformers' pipeline gave, and `alternatives` where there are any."""
        found = Answer(self.answer, self.start, self.end, self.score).to_dict()
        if self.alternatives:
            found["alternatives"] = [other.to_dict() for other in self.alternatives]
        return found


@dataclass(frozen=True)
class QuestionAnswering:
    """Options of question answering. Raises SettingError for a value that cannot work."""

    name: ClassVar[str] = "qa"
    pipeline: ClassVar[str] = "question-answering"
    example: ClassVar[dict[str, str]] = {
        "question": "Who signed the treaty?",
        "context": "The treaty was signed by Ada Moreau in May.",
    }
    generates: ClassVar[bool] = False
    packs: ClassVar[bool] = False

    max_length: int | None = 384
    """Longest window in tokens, question and special tokens counted; at most the model's limit."""
    stride: int = 128
    """Tokens of the context that neighbouring windows share; at most half of their room."""
    max_answer_length: int = 30
    """Longest answer that is given, in tokens."""
    repair: bool = False
    """Move gold answers that are not at their offset to the only place where they occur."""
    has_unanswerable: bool | None = None
    """Whether questions may have no answer, so that none may be given; None reads it off the
    data."""
    null_threshold: float | None = None
    """How far the logits of "no answer" must exceed those of the best answer for none to be
    given; None until chosen on validation rows."""

    def __post_init__(self) -> None:
        check_least(16, "tokens", max_length=self.max_length)
        check_least(0, "tokens", stride=self.stride)
        check_least(1, "tokens", max_answer_length=self.max_answer_length)
        if self.null_threshold is not None and not math.isfinite(self.null_threshold):
            raise SettingError(
                f"null_threshold is {self.null_threshold}", remedy="Give a finite number."
            )

    @property
    def settings(self) -> tuple[str, ...]:
        """How long contexts are read; the null threshold, where a question may have no answer."""
        threshold = ("null_threshold",) if self.has_unanswerable else ()
        return ("max_length", "stride", "max_answer_length", *threshold)

    # Schema

    def columns(self) -> tuple[Column, ...]:
        """A question, its context, and answers in SQuAD's shape or in flat columns."""
        return (
            Column("question", "text"),
            Column("context", "text"),
            Column("answers", "target", is_required=False),
            Column("answer", "target", is_required=False),
            Column("answer_start", "target", is_required=False),
        )

    # Labels

    def with_labels(self, data: DatasetDict) -> Self:
        """The task, knowing whether questions of the data have no answer.

        Raises DataError for answers that are missing, do not stand at their offset, or are not
        there for any question of train; warns of the number that was moved by `repair`.
        """
        counts = {
            str(split): check_answers(str(split), rows, repair=self.repair)
            for split, rows in data.items()
        }
        n_train = len(data["train"])
        if counts["train"].n_unanswerable == n_train:
            raise DataError(
                f"all {n_train:,} questions have no answer",
                remedy="Add questions that have one.",
                split="train",
            )
        moved = [
            f"{count.n_moved:,} of {split}" for split, count in counts.items() if count.n_moved
        ]
        if moved:
            warnings.warn(
                f"answers moved to the only place where they occur in their context: "
                f"{', '.join(moved)}",
                FtkitWarning,
                stacklevel=2,
            )
        if self.has_unanswerable is not None:
            return self
        met = any(count.n_unanswerable for count in counts.values())
        return replace(self, has_unanswerable=met)

    # Head

    def fit_to(
        self, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase | None = None
    ) -> Self:
        """Any checkpoint serves as it is."""
        return self

    def head(self) -> Head:
        """A question answering head: a start and an end logit for each token."""
        return Head("AutoModelForQuestionAnswering", {"num_labels": 2}, ())

    # Prepare

    def prepare(
        self, rows: Mapping[str, Sequence[Any]], tokenizer: PreTrainedTokenizerBase, limit: int
    ) -> dict[str, list[Any]]:
        """Token ids of a slice of rows, and where in the context each token stands.

        Every window has the whole question, cut to half of the room where the context needs the
        rest, and a part of the context. `char_start` and `char_end` are offsets + 2, of the
        token that stands for no answer 1, and of others 0.

        `target`, where rows have answers, is the first answer's span, white space at its ends
        left out; (-1, -1) for no answer, and (-100, -100) for one that no window holds.
        `answer_tokens` is its length.
        """
        for name in ("question", "context"):
            check_texts(rows[name], name)
        encoded = tokenizer(
            list(rows["question"]),
            list(rows["context"]),
            truncation=False,
            padding=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            verbose=False,
        )
        names = [name for name in ("input_ids", "token_type_ids") if name in encoded]
        features: dict[str, list[Any]] = {
            name: [] for name in (*names, "char_start", "char_end", "n_cut")
        }
        is_labelled = has_answers(rows)
        if is_labelled:
            features |= {"target": [], "answer_tokens": []}
        for i, context in enumerate(rows["context"]):
            sequences = encoded.sequence_ids(i)
            starts, ends = _token_spans(context, encoded["offset_mapping"][i], sequences)
            null = _null_position(encoded["input_ids"][i], sequences, tokenizer)
            windows, n_cut = self._windows(sequences, null, limit)
            if is_labelled:
                gold = self._gold_span(i, {name: values[i] for name, values in rows.items()})
                target, n_tokens = _token_target(gold, starts, ends, windows)
                features["target"].append(target)
                features["answer_tokens"].append(n_tokens)
            if null is not None:
                starts[null] = ends[null] = NULL
            arrays = {name: encoded[name][i] for name in names}
            arrays["char_start"] = [start + _SHIFT for start in starts]
            arrays["char_end"] = [end + _SHIFT for end in ends]
            for name, values in arrays.items():
                features[name].append([[values[p] for p in window] for window in windows])
            features["n_cut"].append(n_cut)
        return features

    def _windows(
        self, sequences: Sequence[int | None], null: int | None, limit: int
    ) -> tuple[Sequence[Sequence[int]], int]:
        """Positions that each window keeps of a row, and how many no window keeps.

        Special tokens and the question stand in every window; the question has at most half of
        the room where the context needs the rest.
        """
        if len(sequences) <= limit:
            return [range(len(sequences))], 0
        question = [p for p, sequence in enumerate(sequences) if sequence == 0]
        context = [p for p, sequence in enumerate(sequences) if sequence == 1]
        room = limit - (len(sequences) - len(question) - len(context))
        kept = question[: max(room // 2, room - len(context))]
        fixed = {p for p, sequence in enumerate(sequences) if sequence is None}.union(kept)
        if null is not None:
            fixed.add(null)
        room -= len(kept)
        bounds = window_bounds(len(context), max(1, room), min(self.stride, room // 2))
        windows = [sorted(fixed.union(context[start:end])) for start, end in bounds]
        return windows, len(question) - len(kept)

    def _gold_span(self, number: int, row: Mapping[str, Any]) -> tuple[int, int] | None:
        """The first answer of a row of the slice; None where it has none."""
        try:
            answers, _ = place_answers(read_answers(row), row["context"], repair=self.repair)
        except DataError as error:
            raise error.located(row=number + 1) from None
        if not answers.texts:
            return None
        start = answers.starts[0] or 0
        return start, start + len(answers.texts[0])

    def lost(self, rows: Mapping[str, np.ndarray], limit: int) -> str | None:
        """How many answers cannot be learnt, or not be given, and how many questions are cut."""
        total = len(rows["n_cut"])
        told = []
        if "target" in rows:
            n_lost = int((rows["target"][:, 0] == IGNORED).sum())
            n_long = int((rows["answer_tokens"] > self.max_answer_length).sum())
            if n_lost:
                told.append(
                    f"{n_lost:,} of {total:,} rows have an answer that no window of {limit} "
                    "tokens holds, and teach nothing; a larger stride or max_length holds more"
                )
            if n_long:
                told.append(
                    f"{n_long:,} of {total:,} rows have an answer of more than "
                    f"{self.max_answer_length} tokens, which is never given; raise "
                    "max_answer_length"
                )
        if n_cut := int((rows["n_cut"] > 0).sum()):
            told.append(
                f"{n_cut:,} of {total:,} rows have a question longer than half a window of "
                f"{limit} tokens, whose end the model does not see; shorten it"
            )
        return "; ".join(told) or None

    def limits(self, limit: int) -> tuple[str, ...]:
        """What becomes of long contexts, long answers and questions without an answer."""
        told = [
            f"Contexts that do not fit into {limit} tokens with their question are read in "
            f"windows that share up to {self.stride} tokens; questions are cut to half a window.",
            f"An answer is a span of the context of at most {self.max_answer_length} tokens.",
        ]
        if self.has_unanswerable:
            return (*told, "Where it finds no answer it gives an empty one.")
        return (*told, "It gives an answer even where the context has none.")

    # Collate

    def collate(
        self, columns: Mapping[str, np.ndarray], rng: np.random.Generator | None = None
    ) -> Batch:
        """Inputs of shape (windows, tokens) and targets (rows, 2), character start and end."""
        inputs = model_arrays(columns)
        for name in ("char_start", "char_end"):
            inputs[name] = columns[name] - _SHIFT
        target = columns.get("target")
        if target is None:
            return inputs, np.full((len(columns["row"]), 2), IGNORED)
        return inputs, target.astype(np.int64)

    # Outputs and loss

    def merge(self, logits: Any, inputs: Any) -> Any:
        """Outputs (rows, windows, tokens, 4): start and end logit, and the characters' offsets.

        Offsets of the token that stands for no answer are -1, and of tokens where no answer can
        start or end -2; the logits of the latter are -1e9. So is a window that a row lacks.
        """
        xp, start, end = namespace(logits), inputs["char_start"], inputs["char_end"]
        offsets = xp.zeros_like(logits)
        offsets[..., 0], offsets[..., 1] = start, end
        logits = xp.where((start == NO_PLACE)[..., None], MASKED, logits)
        found = xp.concatenate([logits, offsets], -1)
        if "windows" not in inputs:
            return found[:, None]
        windows = inputs["windows"]
        none = xp.zeros_like(found[:1, :1])
        none[..., :2], none[..., 2:] = MASKED, NO_PLACE
        return xp.where((windows >= 0)[..., None, None], found[windows.clip(0)], none)

    def loss(self, outputs: Tensor, targets: Tensor, reduction: Reduction = "mean") -> Tensor:
        """Cross-entropy of start and end, averaged; the mean is over windows, as run_qa.py's.

        A window that does not hold the whole answer is to say that there is none. Rows whose
        answer no window of theirs holds count for nothing.
        """
        import torch

        start, end, char_start, char_end = outputs.unbind(-1)
        wanted_start, wanted_end = targets[:, 0, None], targets[:, 1, None]
        is_context, is_null = char_start >= 0, char_start == NULL
        touches = (
            is_context & (char_end > wanted_start[..., None]) & (char_start < wanted_end[..., None])
        )
        # A window has a part of the context in one piece: what it holds is between its ends.
        first_start = char_start.masked_fill(~is_context, torch.inf).amin(-1)
        holds = touches.any(-1) & (first_start <= wanted_start) & (char_end.amax(-1) >= wanted_end)
        null = is_null.int().argmax(-1)
        first = touches.int().argmax(-1)
        last = touches.shape[-1] - 1 - touches.flip(-1).int().argmax(-1)
        losses = (
            _cross_entropy(start, torch.where(holds, first, null))
            + _cross_entropy(end, torch.where(holds, last, null))
        ) / 2
        return mean_of_counted(losses, _is_counted(outputs, targets), reduction)

    def n_counted(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """How many windows count: ()."""
        return _is_counted(outputs, targets).sum()

    # Metrics

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of the scores, the main one first; parts where questions may have no answer."""
        parts = ("has_answer_f1", "has_answer_exact_match", "no_answer_exact_match")
        return ("f1", "exact_match", *(parts if self.has_unanswerable else ()))

    def metrics(self, tokenizer: PreTrainedTokenizerBase, *, choose: bool = False) -> AnswerMetrics:
        """F1 and exact match by SQuAD's official rules."""
        return AnswerMetrics(
            self.scores,
            has_unanswerable=bool(self.has_unanswerable),
            threshold=self.null_threshold if choose else self._threshold,
            # The metrics of a Learner also see the rows that it is to predict.
            skips_unlabelled=choose,
        )

    # Decode

    def scores(self, outputs: ArrayLike) -> np.ndarray:
        """The best answer's start and end, its logits, and those of no answer: (rows, 4).

        Start and end are -1 where a row has no answer to give, as of an empty context.
        """
        outputs = as_array(outputs)
        best = best_spans(outputs, self.max_answer_length, 1)[:, 0]
        return np.concatenate([best, null_logits(outputs)[:, None]], axis=1)

    def decide(self, scores: ArrayLike) -> np.ndarray:
        """Character start and end of each row's answer (rows, 2); -1 for no answer."""
        scores = as_array(scores)
        spans = scores[:, :2].astype(np.int64)
        if self.has_unanswerable:
            spans[scores[:, 3] - scores[:, 2] > self._threshold] = NULL
        return spans

    @property
    def _threshold(self) -> float:
        return 0.0 if self.null_threshold is None else self.null_threshold

    def decode(
        self,
        outputs: ArrayLike,
        rows: Rows,
        tokenizer: PreTrainedTokenizerBase,
        top_k: int | None = None,
    ) -> Sequence[AnswerPrediction]:
        """The best answer to each question, and the next best where `top_k` asks for several.

        Scores are shares of a softmax over the 20 best spans of all windows (`top_k`, if that
        is more), and no answer where the data has such questions: run_qa.py's probabilities. No
        answer is given where its logits exceed those of the best span by the null threshold.
        """
        n_best = max(_N_BEST, top_k or 1)
        outputs = as_array(outputs)
        spans = best_spans(outputs, self.max_answer_length, n_best).tolist()
        nulls = null_logits(outputs).tolist()
        return [
            self._predict(rows[i]["context"], found, nulls[i], n_best, top_k or 1)
            for i, found in enumerate(spans)
        ]

    def _predict(
        self, context: str, found: list[list[float]], null: float, n_best: int, top_k: int
    ) -> AnswerPrediction:
        """The prediction for one row, whose spans come the best first, some of them twice."""
        logits: dict[tuple[int, int], float] = {}
        for start, end, logit in found:
            if start < 0 or len(logits) == n_best:
                break
            logits.setdefault((int(start), int(end)), logit)
        best = max(logits.values(), default=MASKED)
        is_refused = not logits or (self.has_unanswerable and null - best > self._threshold)
        if self.has_unanswerable or not logits:
            logits[NULL, NULL] = null
        highest = max(logits.values())
        shares = {span: math.exp(logit - highest) for span, logit in logits.items()}
        total = sum(shares.values())
        ranked = sorted(shares, key=lambda span: -shares[span])
        if self.has_unanswerable:
            # The threshold, not the probability, says whether there is an answer.
            leader = (NULL, NULL) if is_refused else next(span for span in ranked if span[0] >= 0)
            ranked.remove(leader)
            ranked.insert(0, leader)
        answers = [_answer(context, span, shares[span] / total) for span in ranked[:top_k]]
        first, *others = answers
        return AnswerPrediction(first.answer, first.start, first.end, first.score, tuple(others))

    # Show

    def show(
        self, rows: Rows, tokenizer: PreTrainedTokenizerBase, decided: ArrayLike | None = None
    ) -> list[dict[str, str]]:
        """Question, context around the answer, answer and what was decided, as text for a table."""
        spans: list[Any] = [None] * len(rows) if decided is None else as_array(decided).tolist()
        table = []
        for row, span in zip(rows, spans, strict=True):
            context, gold = row.get("context", ""), _shown_answers(row)
            answer = None if span is None else _found_text(context, span)
            is_right = gold is None or answer is None or score_answer(answer, gold.texts)[0] == 1.0
            shown = {"question": row.get("question", "")}
            if gold is not None and gold.texts:
                start = _shown_start(context, gold)
                mark = Mark(start, start + len(gold.texts[0]), "", "" if is_right else MISSED)
                marks = [mark] if start >= 0 else []
            else:
                start, marks = 0 if span is None else span[0], []
            shown["text"] = MarkedText(_excerpt(context, start), context, marks)
            if gold is not None:
                shown["answer"] = " | ".join(dict.fromkeys(gold.texts)) or _NO_ANSWER
            if answer is not None:
                shown["predicted"] = _marked_answer(context, span, answer, is_right)
            table.append(shown)
        return table


def _token_spans(
    context: str, offsets: Sequence[tuple[int, int]], sequences: Sequence[int | None]
) -> tuple[list[int], list[int]]:
    """Where each token stands in the context, white space left out; -2 where it does not."""
    starts, ends = [NO_PLACE] * len(offsets), [NO_PLACE] * len(offsets)
    for p, sequence in enumerate(sequences):
        if sequence == 1:
            start, end = trim_span(context, *offsets[p])
            if start < end:
                starts[p], ends[p] = start, end
    return starts, ends


def _null_position(
    ids: Sequence[int], sequences: Sequence[int | None], tokenizer: PreTrainedTokenizerBase
) -> int | None:
    """The token that stands for no answer, as in run_qa.py: CLS, else BOS, else the first."""
    special = {ids[p]: p for p in reversed(range(len(ids))) if sequences[p] is None}
    for token in (tokenizer.cls_token_id, tokenizer.bos_token_id):
        if token in special:
            return special[token]
    return 0 if len(ids) else None


def _token_target(
    gold: tuple[int, int] | None,
    starts: Sequence[int],
    ends: Sequence[int],
    windows: Sequence[Sequence[int]],
) -> tuple[list[int], int]:
    """What a row is to learn, and the tokens of its answer.

    Characters at the ends of an answer that belong to no token, such as spaces, are left out.
    """
    if gold is None:
        return [NULL, NULL], 0
    touching = np.flatnonzero((np.array(ends) > gold[0]) & (np.array(starts) < gold[1]))
    touching = touching[np.array(starts)[touching] >= 0]
    if not len(touching):
        return [IGNORED, IGNORED], 0
    first, last = int(touching[0]), int(touching[-1])
    n_tokens = last - first + 1
    # The positions of a window are sorted, and its part of the context is in one piece.
    if not any(first in window and last in window for window in map(set, windows)):
        return [IGNORED, IGNORED], n_tokens
    return [max(gold[0], starts[first]), min(gold[1], ends[last])], n_tokens


def _is_counted(outputs: Tensor, targets: Tensor) -> Tensor:
    """Which windows (rows, windows) are there, of rows whose answer one of theirs holds."""
    return (outputs[..., 2] == NULL).any(-1) & (targets[:, 0, None] != IGNORED)


def _cross_entropy(logits: Tensor, wanted: Tensor) -> Tensor:
    """(rows, windows) from logits (rows, windows, tokens) and positions (rows, windows)."""
    import torch.nn.functional as F

    losses = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none")
    return losses.view(wanted.shape)


def _answer(context: str, span: tuple[int, int], score: float) -> Answer:
    if span[0] < 0:
        return Answer("", 0, 0, score)
    return Answer(context[span[0] : span[1]], *span, score)


def _shown_answers(row: Mapping[str, Any]) -> Answers | None:
    """The answers of a row; None where it has none that can be read, as a row at hand may."""
    try:
        return read_answers(row)
    except DataError:
        return None


def _shown_start(context: str, answers: Answers) -> int:
    """Where the first answer is to be seen, though its offset may be amiss."""
    text, start = answers.texts[0], answers.starts[0]
    return start if start is not None and context.startswith(text, start) else context.find(text)


def _found_text(context: str, span: Sequence[int]) -> str:
    """The characters of a decided answer; "" for none."""
    return context[span[0] : span[1]] if span[0] >= 0 else ""


def _marked_answer(context: str, span: Sequence[int], answer: str, is_right: bool) -> MarkedText:
    """A decided answer, where it stands in its context."""
    note = "" if is_right else WRONG
    if not answer:
        marks = [] if is_right else [Mark(0, len(_NO_ANSWER), "", note)]
        return MarkedText(_NO_ANSWER, marks=marks)
    around = _excerpt(context, span[0])
    start = len(around) - len(context) + span[0]
    end = start + len(answer)
    cut = "…" if len(around) > end + _AROUND else ""
    return MarkedText(answer, around[: end + _AROUND] + cut, [Mark(start, end, "", note)])


def _excerpt(context: str, place: int) -> str:
    """The part of a context that a table shows: from shortly before the place on."""
    first = max(0, place - _AROUND)
    return ("…" if first else "") + context[first:]
