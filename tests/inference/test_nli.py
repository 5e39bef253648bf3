"""Zero-shot labels against transformers' own pipeline, on tiny NLI models built on the spot."""

import json

import pandas as pd
import pytest
import torch

from ftkit.errors import CheckpointError, DataError, FtkitWarning, SettingError
from ftkit.inference.nli import zero_shot

LABELS = ["refund", "parcel", "crash", "thanks for your help"]
TEXTS = [
    "i was charged again, please refund the fee",
    "help",
    "the courier and my parcel arrived late today",
    "the update freezes with an error since login",
]
NLI = {"id2label": {0: "contradiction", 1: "neutral", 2: "entailment"}}
SHAPES = {
    "bert": ("bert", NLI),
    "entailment first": ("bert", {"id2label": {0: "ENTAILMENT", 1: "neutral", 2: "Contradiction"}}),
    "two labels": ("bert", {"id2label": {0: "entailment", 1: "not_entailment"}}),
    # The tiny byte-level tokenizers make a token of every letter, and the pipeline cuts nothing.
    "roberta": ("roberta", {**NLI, "max_position_embeddings": 130}),
    "no pad token": ("gpt2", {**NLI, "n_positions": 128}),
    "encoder-decoder": ("bart", {**NLI, "max_position_embeddings": 128}),
}


def checkpoint_of(make_checkpoint, architecture="bert", config=NLI):
    names = config["id2label"]
    label2id = {name: place for place, name in names.items()}
    return make_checkpoint(
        architecture,
        "ForSequenceClassification",
        **config,
        label2id=label2id,
        num_labels=len(names),
    )


@pytest.fixture
def checkpoint(make_checkpoint):
    return checkpoint_of(make_checkpoint)


def pipeline_scores(checkpoint, texts, several):
    """The scores of transformers' pipeline; it reads one pair at a time, so nothing is padded."""
    from transformers import pipeline

    pipe = pipeline("zero-shot-classification", model=str(checkpoint), device="cpu")
    found = pipe(texts, LABELS, hypothesis_template="this is {}.", multi_label=several)
    return [dict(zip(each["labels"], each["scores"], strict=True)) for each in found]


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_scores_are_those_of_transformers(make_checkpoint, shape, several):
    checkpoint = checkpoint_of(make_checkpoint, *SHAPES[shape])
    model = zero_shot(checkpoint, LABELS, hypothesis="this is {}.", several=several, device="cpu")
    answers = model.predict(TEXTS, batch_size=3)
    for answer, expected in zip(answers, pipeline_scores(checkpoint, TEXTS, several), strict=True):
        assert answer.scores == pytest.approx(expected, abs=1e-5)
        assert list(answer.scores.values()) == sorted(answer.scores.values(), reverse=True)
        assert json.loads(json.dumps(answer.to_dict()))["scores"] == answer.scores
        if several:
            assert answer.labels == tuple(k for k, v in answer.scores.items() if v >= 0.5)
        else:
            assert sum(answer.scores.values()) == pytest.approx(1)
            assert answer.label == max(expected, key=expected.get)
            assert answer.score == answer.scores[answer.label]


def test_the_texts_make_a_difference(checkpoint):
    answers = zero_shot(checkpoint, LABELS, device="cpu").predict(TEXTS)
    assert len({round(answer.scores["refund"], 5) for answer in answers}) == len(TEXTS)


def test_one_label_may_be_asked_for_where_several_may_hold(checkpoint):
    (answer,) = zero_shot(checkpoint, ["refund"], several=True, device="cpu").predict(["my fee"])
    assert 0 < answer.scores["refund"] < 1


def test_rows_are_texts_or_dicts_in_any_number(checkpoint, monkeypatch):
    model = zero_shot(checkpoint, LABELS, device="cpu")
    monkeypatch.setattr("ftkit.inference.nli._PAIRS", 9)
    texts = TEXTS * 3
    whole = [model.predict([text])[0] for text in texts]
    for answer, alone in zip(model.predict({"text": text} for text in texts), whole, strict=True):
        assert answer.scores == pytest.approx(alone.scores, abs=1e-5)
    for frame in (pd.DataFrame({"text": TEXTS, "id": range(4)}), pd.DataFrame({"text": []})):
        found = model.predict(frame)
        assert [each.label for each in found] == [each.label for each in whole[: len(frame)]]
    assert model.predict([]) == []
    assert [len(each.scores) for each in model.predict(TEXTS, top_k=2)] == [2] * 4


def test_long_texts_keep_the_hypothesis_and_are_counted(checkpoint):
    model = zero_shot(checkpoint, LABELS, device="cpu")
    long = "my parcel arrived late again " * 30
    with pytest.warns(FtkitWarning, match=r"1 of 2 texts are longer.*64 tokens.*only their head"):
        (cut, _) = model.predict([long, "help"])
    # Were the hypothesis cut away, all labels would score alike.
    assert len({round(score, 6) for score in cut.scores.values()}) == len(LABELS)


def test_short_texts_are_seen_whole(checkpoint, recwarn):
    zero_shot(checkpoint, LABELS, device="cpu").predict(TEXTS)
    assert not [each for each in recwarn if each.category is FtkitWarning]


@pytest.mark.parametrize(
    "names",
    [
        {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"},
        {0: "billing", 1: "delivery"},
        {0: "entailment", 1: "neutral", 2: "other"},
        {0: "not_entailment", 1: "neutral", 2: "contradiction"},
    ],
)
def test_a_classifier_of_something_else_is_refused(make_checkpoint, names):
    checkpoint = checkpoint_of(make_checkpoint, "bert", {"id2label": names})
    with pytest.raises(CheckpointError, match=f'is no NLI model: its labels are "{names[0]}"'):
        zero_shot(checkpoint, LABELS)


def test_a_checkpoint_without_a_head_is_refused(tiny_checkpoint):
    with pytest.raises(CheckpointError, match="classifier"):
        zero_shot(tiny_checkpoint, LABELS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": []}, "nothing to choose"),
        ({"labels": ["a"]}, "nothing to choose.*several=True"),
        ({"labels": "sport"}, "labels are 'sport'"),
        ({"labels": ["a", ""]}, "labels are"),
        ({"labels": ["a", 1]}, "labels are"),
        ({"labels": ["a", "b", "a"]}, '"a" twice'),
        ({"hypothesis": "This is sport."}, "has no {}"),
        ({"hypothesis": "This is {label}."}, "has no {}"),
        ({"hypothesis": "This is {."}, "has no {}"),
        ({"hypothesis": "This is {} {}."}, "has no {}"),
    ],
)
def test_settings_that_cannot_work_are_refused(checkpoint, options, message):
    with pytest.raises(SettingError, match=message):
        zero_shot(checkpoint, **{"labels": LABELS, **options})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("help", "given one row"),
        ({"text": "help"}, "given one row"),
        (["help", None], "row 2.*found nothing"),
        ([("help", "me")], "found a pair"),
    ],
)
def test_rows_that_are_no_texts_are_refused(checkpoint, rows, message):
    with pytest.raises(DataError, match=message):
        zero_shot(checkpoint, LABELS, device="cpu").predict(rows)


def test_a_model_fine_tuned_here_for_nli_serves(make_bundle):
    from datasets import Dataset, DatasetDict

    rows = [
        {"text": text, "text_pair": f"this is {label}.", "label": name}
        for text in TEXTS
        for label, name in zip(LABELS, ("entailment", "contradiction", "neutral") * 2, strict=False)
    ]
    data = DatasetDict({split: Dataset.from_list(rows) for split in ("train", "validation")})
    model = zero_shot(make_bundle(data), LABELS, device="cpu")
    assert len(model.predict(TEXTS)) == len(TEXTS)
    with torch.inference_mode():
        assert model.predict(TEXTS[:1])[0].score > 0


def test_a_label_that_would_be_cut_is_refused(checkpoint):
    hypothesis = "please " * 35 + "{}"
    with pytest.raises(SettingError, match=r'the hypothesis with "refund" has \d+ tokens'):
        zero_shot(checkpoint, ["refund", "fee"], hypothesis=hypothesis, device="cpu")
