"""Question answering as Blurr says it: gold answers, metrics and predictions, made right.

Blurr gives transformers' model the token behind an answer as its end, where the model and all that
open it mean the last one of the answer; here it is the last one everywhere. `ANSWERS` is all of
the mends.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import blurr.text.data.question_answering as data
import blurr.text.modeling.question_answering as modeling
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ftkit._fastai import Learner, display_df
from ftkit.blurr.metrics import squad
from ftkit.blurr.names import type_dispatch
from ftkit.blurr.patch import replace, replace_method, say_once

Span = tuple[int, int]

_END = "an answer's end is its last token, and it is looked for where it stands; Blurr takes the "
_END += "token behind the first text that looks like it"


def gold_answers_are_placed() -> None:
    """The gold answer is the first text that looks like it, and ends with the token behind it."""

    def _process_df_batch(
        self: Any, batch_df: pd.DataFrame, is_chunked: bool, max_length: int
    ) -> pd.DataFrame:
        say_once(_END)
        batch_df = batch_df.reset_index(drop=True)
        inputs = self._tokenize_function(batch_df.to_dict(orient="list"))
        owners = inputs.get("overflow_to_sample_mapping", range(len(batch_df)))
        rows = []
        for chunk, owner in enumerate(owners):
            row = batch_df.iloc[owner].copy()
            sides, offsets = inputs.sequence_ids(chunk), inputs["offset_mapping"][chunk]
            context = context_side(self.hf_tokenizer)
            question = _seen(offsets, sides, 1 - context)
            seen = _seen(offsets, sides, context)
            row[f"proc_{self.qst_attr}"] = row[self.qst_attr][slice(*question)]
            row[f"proc_{self.ctx_attr}"] = row[self.ctx_attr][slice(*seen)]
            answer, start = _gold(row, self)
            found = (0, 0)
            if answer and seen[0] <= start and start + len(answer) <= seen[1]:
                texts = row[f"proc_{self.qst_attr}"], row[f"proc_{self.ctx_attr}"]
                start -= seen[0]
                # Batches are made of these two texts, so these are the places in a batch.
                found = _tokens(self.hf_tokenizer, *texts, (start, start + len(answer)))
            row["ans_start_token_idx"], row["ans_end_token_idx"] = (
                found if found[1] < max_length else (0, 0)
            )
            row["is_answerable"] = row["ans_end_token_idx"] > 0
            rows.append(row)
        return pd.DataFrame(rows)

    replace_method(data.QAPreprocessor, "_process_df_batch", _process_df_batch)


def context_side(tokenizer: Any) -> int:
    """Which text of a pair is the context: Blurr puts it first where padding goes before it."""
    return int(tokenizer.padding_side == "right")


def _pair(tokenizer: Any, question: str, context: str) -> tuple[str, str]:
    return (question, context) if context_side(tokenizer) else (context, question)


def _seen(offsets: Sequence[Span], sides: Sequence[int | None], side: int) -> Span:
    """The characters of a text that stand in the window."""
    spans = [span for span, of in zip(offsets, sides, strict=True) if of == side]
    return (spans[0][0], spans[-1][1]) if spans else (0, 0)


def _gold(row: Mapping[str, Any], names: Any) -> tuple[str, int]:
    """The answer, and the character of the context that it starts at; "" where there is none."""
    answer, context = row[names.ans_attr], row[names.ctx_attr]
    if not isinstance(answer, str) or answer not in context:
        return "", 0
    start = int(row.get(names.ans_start_char_idx, -1))
    is_there = start >= 0 and context.startswith(answer, start)
    return answer, start if is_there else context.index(answer)


def _tokens(tokenizer: Any, question: str, context: str, span: Span) -> Span:
    """The first and the last token of a span of the context's characters."""
    encoded = tokenizer(*_pair(tokenizer, question, context), return_offsets_mapping=True)
    places = [
        place
        for place, (side, (start, end)) in enumerate(
            zip(encoded.sequence_ids(), encoded["offset_mapping"], strict=True)
        )
        if side == context_side(tokenizer) and start < span[1] and end > span[0]
    ]
    return (places[0], places[-1]) if places else (0, 0)


def shown_answers_are_whole() -> None:
    """`show_batch` and `show_results` leave out the token at an answer's end."""

    def text(tokenizer: Any, ids: Tensor, most: int | None) -> str:
        shown: str = tokenizer.decode(ids, skip_special_tokens=True)[:most]
        return shown

    def answer(tokenizer: Any, ids: Tensor, start: Any, end: Any) -> list[Any]:
        first, last = int(start), int(end)
        return [(first, last), text(tokenizer, ids[first : last + 1], None) if last else ""]

    def show_batch(
        x: data.QATextInput,
        y: Any,
        samples: Any,
        dataloaders: Any,
        max_n: int = 6,
        trunc_at: int | None = None,
        **options: Any,
    ) -> None:
        tokenizer = _transform(dataloaders).hf_tokenizer
        rows = [
            [text(tokenizer, ids, trunc_at), int(end) > 0, *answer(tokenizer, ids, start, end)]
            for ids, start, end in zip(x, *y, strict=False)
        ]
        names = ["text", "found", "start/end", "answer"]
        display_df(pd.DataFrame(rows[:max_n], columns=names))

    def show_results(
        x: data.QATextInput,
        y: Any,
        samples: Any,
        outs: Any,
        learner: Any,
        max_n: int = 6,
        trunc_at: int | None = None,
        **options: Any,
    ) -> None:
        tokenizer = _transform(learner.dls).hf_tokenizer
        rows = [
            [
                *[text(tokenizer, ids, trunc_at), int(end) > 0],
                *[*answer(tokenizer, ids, start, end), *answer(tokenizer, ids, *found)],
            ]
            for ids, start, end, found in zip(x, *y, outs, strict=False)
        ]
        names = ["text", "found", "start/end", "answer", "pred start/end", "pred answer"]
        display_df(pd.DataFrame(rows[:max_n], columns=names))

    for show in (show_batch, show_results):
        show.__annotations__ = {"x": data.QATextInput}
        type_dispatch(show)


def _transform(dls: Any) -> Any:
    return data.first_blurr_tfm(dls, tfms=[data.QABatchTokenizeTransform])


def metrics_read_the_context() -> None:
    """The metrics leave out an answer's last token, and find answers in the question."""

    def compute_qa_metrics(
        results: Sequence[Mapping[str, Any]],
        dataset: Any,
        hf_tokenizer: Any,
        tok_kwargs: Mapping[str, Any],
        id_attr: str = "id",
        n_best: int = 20,
    ) -> dict[str, float]:
        found: dict[str, tuple[float, str]] = defaultdict(lambda: (-np.inf, ""))
        for each in results:
            ids, special = each["input_ids"], each["special_tokens_mask"]
            # The texts are what stands between special tokens.
            texts = np.cumsum(np.diff(special, prepend=1) < 0) - 1
            is_context = (special == 0) & (texts == context_side(hf_tokenizer))
            logits = [np.where(is_context, each[f"{end}_logits"], -np.inf) for end in _ENDS]
            scores = np.triu(logits[0][:, None] + logits[1]) + np.tril(
                np.full((len(ids), len(ids)), -np.inf), -1
            )
            start, end = np.unravel_index(scores.argmax(), scores.shape)
            if scores[start, end] > found[each[id_attr]][0]:
                text = hf_tokenizer.decode(ids[start : end + 1], skip_special_tokens=True)
                found[each[id_attr]] = (scores[start, end], text)
        return squad(
            [{"id": row[id_attr], "prediction_text": found[row[id_attr]][1]} for row in dataset],
            [{"id": row[id_attr], "answers": row["answers"]} for row in dataset],
        )

    replace(modeling.compute_qa_metrics, compute_qa_metrics)


_ENDS = ("start", "end")


def predictions_change_nothing() -> None:
    """`blurr_predict_answers` makes later batches fail, and gives no answer where any chunk of a
    long context has none.
    """

    @torch.no_grad()
    def blurr_predict_answers(
        self: Any,
        question_contexts: Any,
        slow_word_ids_func: Callable[..., Any] | None = None,
    ) -> list[dict[str, Any]]:
        one = isinstance(question_contexts, Mapping)
        transform = _transform(self.dls)
        self.model.eval()
        return [
            _answer(self.model, transform, each["question"], each["context"])
            for each in ([question_contexts] if one else question_contexts)
        ]

    replace_method(Learner, "blurr_predict_answers", blurr_predict_answers)


def _answer(model: Any, transform: Any, question: str, context: str) -> dict[str, Any]:
    """The likeliest span of any window, or None where every window would rather give none."""
    tokenizer, side = transform.hf_tokenizer, context_side(transform.hf_tokenizer)
    options = dict(transform.tok_kwargs)
    options |= {"return_overflowing_tokens": True, "return_offsets_mapping": True}
    inputs = tokenizer(
        *_pair(tokenizer, question, context),
        max_length=transform.max_length,
        padding=transform.padding,
        truncation="only_second" if side else "only_first",
        return_tensors="pt",
        **options,
    )
    device = model.hf_model.device
    outputs = model({name: values.to(device) for name, values in inputs.items()})
    best, none = (0.0, 0, 0), 1.0
    for window, ids in enumerate(inputs["input_ids"]):
        null = int((ids == tokenizer.cls_token_id).nonzero()[0])
        allowed = torch.tensor([of == side for of in inputs.sequence_ids(window)])
        is_answer = allowed.clone()
        allowed[null] = True
        starts, ends = (
            logits[window].float().cpu().masked_fill(~allowed, -torch.inf).softmax(-1)
            for logits in (outputs.start_logits, outputs.end_logits)
        )
        none = min(none, float(starts[null] * ends[null]))
        scores = torch.triu((starts * is_answer)[:, None] * (ends * is_answer))
        start, end = divmod(int(scores.argmax()), len(ids))
        spans = inputs["offset_mapping"][window]
        best = max(best, (float(scores[start, end]), int(spans[start][0]), int(spans[end][1])))
    score, first, last = best
    if none >= score:
        return {"answer": None, "start": 0, "end": 0, "score": none}
    found = context[first:last]
    first += len(found) - len(found.lstrip())
    return {"answer": found.strip(), "start": first, "end": last, "score": score}


ANSWERS = (
    gold_answers_are_placed,
    metrics_read_the_context,
    predictions_change_nothing,
    shown_answers_are_whole,
)
