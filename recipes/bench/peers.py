"""Hugging Face's Trainer for NER and question answering, as transformers' own examples use it.

Named entities follow `run_ner.py`, answers `run_qa.py`; where this differs, it is said there.
`options` go to the TrainingArguments. It uses nothing of ftkit, its scores included, so that the
yardstick cannot lean on what it measures.
"""

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from common import MAX_LENGTH, by_length, load_splits, minilm_folder, training_arguments

IGNORED = -100  # the label that the loss leaves out
OUTSIDE = "O"
QA_MAX_LENGTH = 384
QA_STRIDE = 128
N_BEST = 20
MAX_ANSWER_LENGTH = 30
ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Peer:
    """A Trainer ready to train, and what scores validation and test once it has."""

    trainer: Any
    max_length: int
    score: Callable[[], dict[str, dict[str, float]]]


# Named entities


def prepare_ner(
    data_folder: Path, output: Path, epochs: int, lr: float, seed: int, **options: Any
) -> Peer:
    """A tag for each word, learnt and read at its first sub-token."""
    from transformers import (
        AutoModelForTokenClassification,
        AutoTokenizer,
        DataCollatorForTokenClassification,
        Trainer,
        set_seed,
    )

    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    splits = load_splits(data_folder)
    names = sorted({tag for tags in splits["train"]["ner_tags"] for tag in tags})
    numbers = {name: number for number, name in enumerate(names)}

    def encode(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        encoded = tokenizer(
            batch["tokens"], is_split_into_words=True, truncation=True, max_length=MAX_LENGTH
        )
        words = [encoded.word_ids(i) for i in range(len(batch["tokens"]))]
        return {**encoded, "word_ids": words}

    def add_labels(row: dict[str, Any]) -> dict[str, Any]:
        labels = [IGNORED] * len(row["word_ids"])
        for word, position in first_tokens(row["word_ids"]).items():
            labels[position] = numbers[row["ner_tags"][word]]
        return {"labels": labels}

    tokenized = splits.map(encode, batched=True)
    set_seed(seed)  # before the model: it draws the new head
    model = AutoModelForTokenClassification.from_pretrained(
        minilm_folder(), num_labels=len(names), id2label=dict(enumerate(names)), label2id=numbers
    )
    trainer = Trainer(
        model=model,
        args=training_arguments(output, epochs, lr, seed, **options),
        train_dataset=tokenized["train"].map(add_labels),
        data_collator=DataCollatorForTokenClassification(tokenizer),
    )

    def score() -> dict[str, dict[str, float]]:
        return {split: tag_scores(trainer, tokenized[split]) for split in ("validation", "test")}

    return Peer(trainer, MAX_LENGTH, score)


def first_tokens(word_ids: Sequence[int | None]) -> dict[int, int]:
    """The position of the first sub-token of each word that has one."""
    found: dict[int, int] = {}
    for position, word in enumerate(word_ids):
        if word is not None:
            found.setdefault(word, position)
    return found


def tag_scores(trainer: Any, rows: Any) -> dict[str, float]:
    """Scores of whole entities over all words, in seqeval's default mode, which is conlleval's."""
    from seqeval.metrics import f1_score, precision_score, recall_score

    ordered = by_length(rows)
    names = trainer.model.config.id2label
    best = trainer.predict(ordered).predictions.argmax(-1)
    guesses = []
    for wanted, word_ids, numbers in zip(
        ordered["ner_tags"], ordered["word_ids"], best, strict=True
    ):
        tags = [OUTSIDE] * len(wanted)  # also of words cut off, which run_ner.py leaves unscored
        for word, position in first_tokens(word_ids).items():
            tags[word] = names[int(numbers[position])]
        guesses.append(tags)
    scores = {"f1": f1_score, "precision": precision_score, "recall": recall_score}
    wanted_tags = list(ordered["ner_tags"])
    return {
        name: float(score(wanted_tags, guesses, zero_division=0)) for name, score in scores.items()
    }


# Question answering


@dataclass(frozen=True)
class Guess:
    """The best answer to a question, and by how much "no answer" is above it."""

    text: str
    margin: float
    golds: list[str]


def prepare_qa(
    data_folder: Path, output: Path, epochs: int, lr: float, seed: int, **options: Any
) -> Peer:
    """A start and an end in windows of the context.

    The windows are padded to the batch, as with `--pad_to_max_length false`; the default of
    `run_qa.py`, padding all to 384, gives the same model and takes longer.
    """
    from transformers import (
        AutoModelForQuestionAnswering,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        set_seed,
    )

    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    splits = load_splits(data_folder)
    has_unanswerable = any(not answers["text"] for answers in splits["train"]["answers"])

    def encode(batch: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        encoded = tokenizer(
            [question.lstrip() for question in batch["question"]],
            batch["context"],
            truncation="only_second",
            max_length=QA_MAX_LENGTH,
            stride=QA_STRIDE,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        features = dict(encoded)
        samples = features.pop("overflow_to_sample_mapping")
        offsets = [
            context_offsets(encoded.sequence_ids(i), spans)
            for i, spans in enumerate(features.pop("offset_mapping"))
        ]
        places = [
            answer_tokens(batch["answers"][sample], spans)
            for sample, spans in zip(samples, offsets, strict=True)
        ]
        return {
            **features,
            "row": [indices[sample] for sample in samples],
            "offsets": offsets,
            "start_positions": [start for start, _ in places],
            "end_positions": [end for _, end in places],
        }

    columns = splits["train"].column_names
    windows = splits.map(encode, batched=True, with_indices=True, remove_columns=columns)
    set_seed(seed)  # before the model: it draws the new head
    trainer = Trainer(
        model=AutoModelForQuestionAnswering.from_pretrained(minilm_folder()),
        args=training_arguments(output, epochs, lr, seed, **options),
        train_dataset=windows["train"],
        data_collator=DataCollatorWithPadding(tokenizer),
    )

    def score() -> dict[str, dict[str, float]]:
        guesses = {
            split: best_answers(trainer, splits[split], windows[split])
            for split in ("validation", "test")
        }
        if not has_unanswerable:
            return {split: answer_scores(guesses[split], math.inf) for split in guesses}
        threshold = best_null_threshold(guesses["validation"])
        return {
            split: {**answer_scores(guesses[split], threshold), "null_threshold": threshold}
            for split in guesses
        }

    return Peer(trainer, QA_MAX_LENGTH, score)


def context_offsets(
    sequence_ids: Sequence[int | None], spans: Sequence[tuple[int, int]]
) -> list[tuple[int, int] | None]:
    """The characters of each token of the context; None for the question and special tokens."""
    pairs = zip(sequence_ids, spans, strict=True)
    return [span if sequence == 1 else None for sequence, span in pairs]


def answer_tokens(
    answers: dict[str, list[Any]], offsets: Sequence[tuple[int, int] | None]
) -> tuple[int, int]:
    """First and last token of the first answer; 0, the [CLS], where the window does not hold it."""
    if not answers["text"]:
        return 0, 0
    start = answers["answer_start"][0]
    end = start + len(answers["text"][0])
    places = [(i, *span) for i, span in enumerate(offsets) if span is not None]
    starts = [i for i, token_start, _ in places if token_start <= start]
    ends = [i for i, _, token_end in places if token_end >= end]
    if not starts or not ends:
        return 0, 0
    return starts[-1], ends[0]


def best_answers(trainer: Any, rows: Any, windows: Any) -> list[Guess]:
    """The best answer to each question over the windows of its context."""
    ordered = by_length(windows)
    features = ordered.remove_columns(["start_positions", "end_positions"])
    starts, ends = trainer.predict(features).predictions
    best = [(-math.inf, 0, 0)] * len(rows)
    null = [math.inf] * len(rows)
    for row, offsets, start, end in zip(
        ordered["row"], ordered["offsets"], starts, ends, strict=True
    ):
        best[row] = max(best[row], best_span(start, end, offsets))
        null[row] = min(null[row], float(start[0] + end[0]))
    return [
        Guess(context[start:end], none - logit, answers["text"])
        for context, answers, (logit, start, end), none in zip(
            rows["context"], rows["answers"], best, null, strict=True
        )
    ]


def best_span(
    start_logits: Any, end_logits: Any, offsets: Sequence[Sequence[int] | None]
) -> tuple[float, int, int]:
    """Logit and characters of the best span between the likeliest starts and ends."""
    count = len(offsets)  # padding is behind it
    starts = start_logits[:count].argsort()[-N_BEST:].tolist()
    ends = end_logits[:count].argsort()[-N_BEST:].tolist()
    spans = []
    for start in starts:
        for end in ends:
            first, last = offsets[start], offsets[end]
            if first and last and start <= end < start + MAX_ANSWER_LENGTH:
                spans.append((float(start_logits[start] + end_logits[end]), first[0], last[1]))
    return max(spans, default=(-math.inf, 0, 0))


def best_null_threshold(guesses: Sequence[Guess]) -> float:
    """The largest margin still answered for the best F1, as SQuAD 2.0's `find_best_thresh`."""
    ordered = sorted(guesses, key=lambda guess: guess.margin)
    won, best, threshold = 0.0, 0.0, ordered[0].margin - 1
    for guess in ordered:
        answered, refused = answer_f1(guess.text, guess.golds), answer_f1("", guess.golds)
        won += answered - refused
        if won > best:
            best, threshold = won, guess.margin
    return threshold


def answer_scores(guesses: Sequence[Guess], threshold: float) -> dict[str, float]:
    """Exact match and F1, and F1 of the two kinds of questions where there are both."""
    given = [(guess.text if guess.margin <= threshold else "", guess.golds) for guess in guesses]
    exact = [float(normal(text) in accepted(golds)) for text, golds in given]
    f1 = [answer_f1(text, golds) for text, golds in given]
    scores = {"f1": mean(f1), "exact_match": mean(exact)}
    with_answer = [one for one, guess in zip(f1, guesses, strict=True) if guess.golds]
    without = [one for one, guess in zip(f1, guesses, strict=True) if not guess.golds]
    if with_answer and without:
        scores |= {"has_answer_f1": mean(with_answer), "no_answer_f1": mean(without)}
    return scores


# SQuAD's rules (evaluate-v2.0.py); "" is right where there is no answer.


def normal(text: str) -> str:
    """Lower case, without punctuation, articles and superfluous white space."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def accepted(golds: Sequence[str]) -> list[str]:
    return [gold for gold in map(normal, golds) if gold] or [""]


def answer_f1(text: str, golds: Sequence[str]) -> float:
    return max(word_f1(normal(text).split(), gold.split()) for gold in accepted(golds))


def word_f1(guess: list[str], gold: list[str]) -> float:
    if not guess or not gold:
        return float(guess == gold)
    shared = sum((Counter(guess) & Counter(gold)).values())
    return 2 * shared / (len(guess) + len(gold))
