"""The metrics that Blurr loads by name, against the packages that they come from."""

import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu import corpus_bleu

from ftkit.blurr.metrics import load_metric
from ftkit.errors import SettingError


def test_squad_counts_per_cent_of_questions():
    predictions = [
        {"id": "1", "prediction_text": "the parcel"},
        {"id": "2", "prediction_text": "a red bed"},
    ]
    references = [
        {"id": "1", "answers": {"text": ["Parcel", "a box"], "answer_start": [0, 9]}},
        {"id": "2", "answers": {"text": ["bed"], "answer_start": [3]}},
    ]
    found = load_metric("squad").compute(predictions=predictions, references=references)
    # "red bed" shares one of two words with "bed": F1 = 2 * 0.5 * 1 / 1.5.
    assert found == {"exact_match": 50.0, "f1": pytest.approx((100 + 200 / 3) / 2)}


def test_rouge_is_that_of_rouge_score():
    predictions, references = ["a late parcel", "the bed"], ["the parcel is late", "the bed"]
    found = load_metric("rouge").compute(
        predictions=predictions, references=references, rouge_types=["rouge1", "rougeL"]
    )
    scorer = RougeScorer(["rouge1", "rougeL"])
    rows = [scorer.score(*pair) for pair in zip(references, predictions, strict=True)]
    for name in ("rouge1", "rougeL"):
        for part in ("precision", "recall", "fmeasure"):
            mean = sum(getattr(row[name], part) for row in rows) / 2
            assert getattr(found[name].mid, part) == pytest.approx(mean)


def test_bleu_is_that_of_sacrebleu():
    predictions = ["the parcel is late today , again", "my bed is on its way to me"]
    references = [["the parcel is late today again"], ["my bed is on its way"]]
    found = load_metric("sacrebleu").compute(predictions=predictions, references=references)
    wanted = corpus_bleu(predictions, [[each[0] for each in references]])
    assert found["score"] == wanted.score > 0
    tokens = [text.split() for text in predictions]
    lists = [[each[0].split()] for each in references]
    found = load_metric("bleu").compute(predictions=tokens, references=lists)
    plain = {"tokenize": "none", "smooth_method": "none"}
    wanted = corpus_bleu(predictions, [[each[0] for each in references]], **plain)
    assert found["bleu"] == pytest.approx(wanted.score / 100)


@pytest.mark.parametrize("name", ["bertscore", "meteor"])
def test_what_must_be_downloaded_is_refused(name):
    with pytest.raises(SettingError, match="compute_func"):
        load_metric(name)
