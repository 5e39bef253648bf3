"""Summarization: the protocol's answers, and the whole way from rows to texts of a saved model."""

import json
import warnings
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, BertConfig, T5Config

import ftkit
from ftkit.errors import DataError, FtkitWarning, SettingError
from ftkit.inference import load_model
from ftkit.learner.build import finetune_learner
from ftkit.tasks.summarization import Summarization, SummaryPrediction

# Options


@pytest.mark.unit
@pytest.mark.parametrize(
    "options",
    [
        {"max_length": 7},
        {"max_target_length": 3},
        {"label_smoothing": 1.0},
        {"label_smoothing": -0.1},
        {"num_beams": 0},
        {"no_repeat_ngram_size": -1},
        {"validate_rows": 0},
        {"validate_every": 0},
    ],
)
def test_options_that_cannot_work_are_refused(options):
    ((name, value),) = options.items()
    with pytest.raises(SettingError, match=f"{name} is {value}"):
        Summarization(**options)


@pytest.mark.unit
@pytest.mark.parametrize(
    "task", [Summarization(), Summarization(prefix="sum: ", start={"forced_bos_token_id": 3})]
)
def test_options_survive_json(task):
    assert Summarization(**json.loads(json.dumps(asdict(task)))) == task


@pytest.mark.unit
def test_columns():
    assert [(c.name, c.kind, c.is_required, c.aliases) for c in Summarization().columns()] == [
        ("text", "text", True, ("document", "dialogue", "article")),
        ("summary", "target", True, ("highlights",)),
        ("references", "target", False, ()),
    ]


# Labels


def data_of(texts, summaries):
    rows = Dataset.from_dict({"text": texts, "summary": summaries})
    return DatasetDict({"train": rows, "validation": rows.select([0])})


@pytest.mark.unit
def test_odd_summaries_are_counted():
    data = data_of(
        ["Short.", "A long text.", "A long text.", "A longer text."],
        ["Much longer than it.", "Fine.", "", "Привет."],
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert Summarization().with_labels(data) == Summarization()
    said = [str(each.message) for each in caught if each.category is FtkitWarning]
    train = [message for message in said if message.startswith('split "train"')]
    assert len(train) == 3
    assert "1 of 4 texts are empty, which teaches the model silence (row 3)" in train[0]
    assert "1 of 4 summaries are longer than their text (row 1)" in train[1]
    assert "1 of 4 summaries have none of the letters a to z" in train[2]
    assert "(row 4)" in train[2]


@pytest.mark.unit
def test_summaries_like_any_other_say_nothing(recwarn):
    Summarization().with_labels(data_of(["A long text."] * 3, ["Fine."] * 3))
    assert not recwarn.list


# Checkpoints


@pytest.mark.unit
def test_the_prefix_is_the_checkpoints_unless_one_is_given():
    config = T5Config(task_specific_params={"summarization": {"prefix": "summarize: "}})
    assert Summarization().fit_to(config).prefix == "summarize: "
    assert Summarization(prefix="").fit_to(config).prefix == ""
    assert Summarization().fit_to(T5Config()).prefix == ""


@pytest.mark.unit
def test_no_summary_is_longer_than_the_decoder():
    task = Summarization(max_target_length=128)
    assert task.fit_to(BertConfig(max_position_embeddings=64)).max_target_length == 64
    assert task.fit_to(T5Config()).max_target_length == 128
    settings = task.fit_to(BertConfig(max_position_embeddings=64)).head().generation
    assert settings["max_new_tokens"] == 64
    assert settings["no_repeat_ngram_size"] == 3


# Prepare, decode, show


@pytest.mark.unit
def test_rows_become_one_window_and_labels(tiny_tokenizer):
    tokenizer = tiny_tokenizer("t5")
    task = Summarization(prefix="sum: ", max_target_length=4)
    rows = {"text": ["refund late", "parcel " * 30], "summary": ["refund", "late " * 9]}
    found = task.prepare(rows, tokenizer, 16)
    assert [len(windows) for windows in found["input_ids"]] == [1, 1]
    assert max(len(windows[0]) for windows in found["input_ids"]) == 16
    assert [cut > 0 for cut in found["n_cut"]] == [False, True]
    assert [len(ids) for ids in found["target"]] == [2, 4]
    assert found["target_cut"] == [0, 6]
    assert "target" not in task.prepare({"text": ["refund"]}, tokenizer, 16)
    arrays = {name: np.array(found[name]) for name in ("n_cut", "target_cut")}
    assert "1 of 2 texts are longer than 16 tokens" in task.lost(arrays, 16)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("column", "bad"),
    [("text", None), ("summary", None), ("references", "late"), ("references", [])],
)
def test_a_bad_row_is_named(tiny_tokenizer, column, bad):
    good = {"text": "parcel", "summary": "late", "references": ["late"]}
    rows = {name: [value, bad if name == column else value] for name, value in good.items()}
    with pytest.raises(DataError, match=f'row 2, column "{column}": found') as caught:
        Summarization(prefix="sum: ").prepare(rows, tiny_tokenizer("t5"), 16)
    assert caught.value.remedy


@pytest.mark.unit
def test_answers_and_tables(tiny_tokenizer):
    tokenizer, task = tiny_tokenizer("t5"), Summarization()
    ids = torch.tensor(tokenizer(["refund", "parcel"])["input_ids"])
    rows = [{"text": "a", "summary": "b", "id": 1}, {"text": "c", "summary": "d", "id": 2}]
    found = task.decode(task.merge(ids, {}), rows, tokenizer)
    assert found == [SummaryPrediction("refund"), SummaryPrediction("parcel")]
    assert found[0].to_dict() == {"summary_text": "refund"}
    decided = task.decide(task.scores(ids))
    assert task.show(rows, tokenizer, decided) == [
        {"text": "a", "summary": "b", "predicted": "refund"},
        {"text": "c", "summary": "d", "predicted": "parcel"},
    ]
    assert task.show([], tokenizer) == []
    assert len(task.metrics(tokenizer).compute()) == len(task.metric_names)
    assert "rouge-score" in task.limits(64)[-1]


# The whole way


TASK = Summarization(max_target_length=16, num_beams=2, validate_rows=16, validate_every=4)


@pytest.fixture(scope="module")
def one_word_summaries(tiny_data):
    """Rows of which the summary is the one word that tells the label, with two references."""
    words = {"billing": "fee", "delivery": "late", "technical": "error"}

    def summarize(row):
        word = words[row["label"]]
        return {"summary": word, "references": [word, f"{word} again"]}

    return DatasetDict(
        {name: rows.map(summarize, remove_columns="label") for name, rows in tiny_data.items()}
    )


@pytest.fixture(scope="module")
def trained(one_word_summaries, make_checkpoint, tmp_path_factory):
    """A function from an architecture to a trained Learner and the folder of its model."""
    made = {}

    def train(architecture):
        if architecture not in made:
            head = "ForConditionalGeneration" if architecture == "t5" else "Model"
            config = {"task_specific_params": {"summarization": {"prefix": "help: "}}}
            folder = make_checkpoint(architecture, head, **(config if head != "Model" else {}))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                learn = finetune_learner(
                    one_word_summaries, folder, task=TASK, bs=8, precision="fp32"
                )
                learn.fit_one_cycle(12, 1e-2)
                bundle = ftkit.save(learn, tmp_path_factory.mktemp("bundle") / architecture)
            made[architecture] = learn, bundle
        return made[architecture]

    return train


# An encoder-decoder, and an encoder that is both halves of one.
@pytest.mark.parametrize("architecture", ["t5", "bert"])
def test_from_rows_to_the_texts_of_a_saved_model(trained, one_word_summaries, architecture):
    learn, bundle = trained(architecture)
    rouge = [row[2] for row in learn.recorder.values]
    # Every fourth epoch is validated in full, and the last one always is.
    assert [value == value for value in rouge] == [False, False, False, True] * 3
    assert rouge[-1] > 0.8
    losses = [row[1] for row in learn.recorder.values]
    assert losses[-1] < 0.2 * losses[0]

    model = load_model(bundle, device="cpu")
    assert model.task.prefix == ("help: " if architecture == "t5" else "")
    test = one_word_summaries["test"]
    evaluation = model.evaluate(test)
    assert tuple(evaluation.scores) == model.task.metric_names
    assert evaluation.scores["rouge1"] > 0.8
    texts = [found.summary for found in model.predict(test["text"])]
    assert texts == [found.summary for found in model.predict(test["text"][:], batch_size=5)]

    one = {"text": ["parcel"] * 2, "summary": ["late"] * 2}
    for row, references in ((1, ["late", "late"]), (2, [["late"], []])):
        with pytest.raises(DataError, match=f'row {row}, column "references": found .* list of'):
            model.evaluate({**one, "references": references})

    # The folder is transformers' own: its generate() writes the same.
    hf_model = AutoModelForSeq2SeqLM.from_pretrained(bundle)
    tokenizer = AutoTokenizer.from_pretrained(bundle)
    for text, found in zip(test["text"][:8], texts, strict=False):
        ids = tokenizer(
            model.task.prefix + text, max_length=model.limit, truncation=True, return_tensors="pt"
        )
        ids.pop("token_type_ids", None)
        (written,) = tokenizer.batch_decode(hf_model.generate(**ids), skip_special_tokens=True)
        assert written == found


def test_learners_show_what_was_written(trained, capsys):
    learn, _ = trained("t5")
    learn.show_batch(max_n=2)
    learn.show_results(max_n=3)
    header, *_ = [line for line in capsys.readouterr().out.splitlines() if "predicted" in line]
    assert header.split() == ["text", "summary", "predicted"]


def test_a_null_summary_is_refused(one_word_summaries, tiny_checkpoint):
    rows = one_word_summaries["train"].to_dict()
    rows["summary"][4] = None
    data = DatasetDict({**one_word_summaries, "train": Dataset.from_dict(rows)})
    with pytest.raises(DataError, match='row 5, column "summary": the text is missing'):
        finetune_learner(data, tiny_checkpoint, task=replace(TASK, num_beams=1))
