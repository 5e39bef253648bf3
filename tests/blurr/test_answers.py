"""Question answering, made right: places of gold answers, metrics, predictions."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from blurr.text.data.all import (
    QABatchTokenizeTransform,
    QAPreprocessor,
    first_blurr_tfm,
)
from blurr.text.modeling.all import (
    BlearnerForQuestionAnswering,
    compute_qa_metrics,
)
from fastai.learner import Learner
from transformers import AutoTokenizer

from ftkit.errors import FtkitWarning

LIMIT = 64
OPTIONS = {"return_overflowing_tokens": True, "max_length": LIMIT, "stride": 16}


@pytest.fixture
def tokenizer(checkpoint):
    return AutoTokenizer.from_pretrained(checkpoint("bert"))


def texts_of(rows, tokenizer):
    """The gold answer of each row, as the characters of its tokens."""
    for _, row in rows[rows["is_answerable"]].iterrows():
        pair = row["proc_question"], row["proc_context"]
        spans = tokenizer(*pair, return_offsets_mapping=True)["offset_mapping"]
        start, end = row["ans_start_token_idx"], row["ans_end_token_idx"]
        yield row["proc_context"][spans[start][0] : spans[end][1]], row["answer_text"]


@pytest.mark.parametrize("options", [OPTIONS, {"max_length": LIMIT}])
def test_gold_answers_decode_exactly(questions, tokenizer, options):
    def check(process):
        self = QAPreprocessor(tokenizer, id_attr="id", tok_kwargs=options)
        chunked = "return_overflowing_tokens" in options
        rows = process(self, questions.copy(), chunked, LIMIT)
        pairs = list(texts_of(rows, tokenizer))
        assert len(pairs) > 5
        assert [found for found, _ in pairs] == [wanted for _, wanted in pairs]

    mended = QAPreprocessor._process_df_batch
    with pytest.warns(FtkitWarning, match="last token"):
        check(mended)
    with pytest.raises((AssertionError, IndexError)):
        check(mended.__wrapped__)


@pytest.mark.filterwarnings("ignore::ftkit.errors.FtkitWarning")
def test_an_answer_is_looked_for_at_its_place(tokenizer):
    context = "the parcel is late and the parcel is wet"
    start = context.rindex("parcel")
    row = {"id": "a", "question": "what", "context": context, "answer_text": "parcel"}
    rows = pd.DataFrame([{**row, "ans_start_char_idx": start, "ans_end_char_idx": start + 6}])
    (found,) = QAPreprocessor(tokenizer, id_attr="id").process_df(rows).to_dict("records")
    spans = tokenizer("what", context, return_offsets_mapping=True)["offset_mapping"]
    assert spans[found["ans_start_token_idx"]][0] == start
    # Without its place, it is the first.
    few = rows.drop(columns=["ans_start_char_idx", "ans_end_char_idx"])
    (found,) = QAPreprocessor(tokenizer, id_attr="id").process_df(few).to_dict("records")
    assert spans[found["ans_start_token_idx"]][0] == context.index("parcel")


@pytest.mark.filterwarnings("ignore::ftkit.errors.FtkitWarning")
def test_no_answer_is_the_first_token(questions, tokenizer):
    rows = QAPreprocessor(tokenizer, id_attr="id", tok_kwargs=OPTIONS).process_df(questions)
    none = rows[rows["answer_text"] == ""]
    assert len(none)
    assert not none[["ans_start_token_idx", "ans_end_token_idx"]].to_numpy().any()
    assert not none["is_answerable"].any()


def chunk(tokenizer, question, context, start, end):
    """What QAMetricsCallback gathers of a chunk whose logits point at two tokens."""
    names = {"return_special_tokens_mask": True, "return_offsets_mapping": True}
    encoded = tokenizer(question, context, padding="max_length", max_length=32, **names)
    logits = np.zeros((2, 32), dtype=np.float32)
    logits[0, start], logits[1, end] = 5, 5
    arrays = {name: np.array(values) for name, values in encoded.items()}
    return {**arrays, "id": "a", "start_logits": logits[0], "end_logits": logits[1]}


def test_metrics_take_the_whole_answer_from_the_context(tokenizer):
    question, context = "order order order", "the parcel is late"
    gold = [{"id": "a", "answers": {"text": ["parcel is late"], "answer_start": [4]}}]
    encoded = tokenizer(question, context, return_offsets_mapping=True)
    places = [
        place
        for place, (side, span) in enumerate(
            zip(encoded.sequence_ids(), encoded["offset_mapping"], strict=True)
        )
        if side == 1 and span[0] >= 4
    ]

    def check(compute):
        told = chunk(tokenizer, question, context, places[0], places[-1])
        assert compute([told], gold, tokenizer, {})["exact_match"] == 100.0
        # A question is no answer, however sure the model is.
        told["start_logits"][1] = told["end_logits"][2] = 9
        assert compute([told], gold, tokenizer, {})["exact_match"] == 100.0

    check(compute_qa_metrics)
    with pytest.raises(AssertionError):
        check(compute_qa_metrics.__wrapped__)


class Pointer(torch.nn.Module):
    """A reader that is sure of a word wherever it stands, and else that there is no answer."""

    def __init__(self, token):
        super().__init__()
        self.token, self.hf_model = token, SimpleNamespace(device=torch.device("cpu"))

    def forward(self, inputs):
        hits = (inputs["input_ids"] == self.token).float() * 20
        hits[:, 0] = 10
        return SimpleNamespace(start_logits=hits, end_logits=hits.clone())


@pytest.fixture
def reader(questions, checkpoint):
    """A Blearner whose batches are of chunks."""
    rows = QAPreprocessor(
        AutoTokenizer.from_pretrained(checkpoint("bert")), id_attr="id", tok_kwargs=OPTIONS
    ).process_df(questions)
    return BlearnerForQuestionAnswering.from_data(
        rows,
        checkpoint("bert"),
        max_seq_len=LIMIT,
        context_attr="proc_context",
        question_attr="proc_question",
        dl_kwargs={"bs": 8},
    )


@pytest.mark.filterwarnings("ignore::ftkit.errors.FtkitWarning")
def test_predictions_change_nothing(reader, questions):
    asked = questions[["question", "context"]].to_dict("records")[0]
    transform = first_blurr_tfm(reader.dls, tfms=[QABatchTokenizeTransform])

    def check(predict):
        before = dict(transform.tok_kwargs)
        predict(reader, asked)
        assert transform.tok_kwargs == before
        reader.dls.one_batch()

    check(Learner.blurr_predict_answers)
    with pytest.raises((AssertionError, TypeError)):
        check(Learner.blurr_predict_answers.__wrapped__)


@pytest.mark.filterwarnings("ignore::ftkit.errors.FtkitWarning")
def test_an_answer_in_any_chunk_is_found(reader, tokenizer, monkeypatch):
    filler = "please look into it soon " * 30
    context = f"{filler}the parcel is late {filler}"
    token = tokenizer.convert_tokens_to_ids(tokenizer.tokenize("parcel"))[-1]
    monkeypatch.setattr(reader, "model", Pointer(token))
    found = reader.blurr_predict_answers([{"question": "what", "context": context}])[0]
    assert found["answer"]
    assert context[found["start"] : found["end"]] == found["answer"]
    assert context.index("parcel") <= found["start"] < found["end"] <= context.index("parcel") + 6
    (found,) = reader.blurr_predict_answers({"question": "what", "context": "is it on"})
    assert found["answer"] is None
