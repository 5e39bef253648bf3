"""Translation: what it does otherwise than its sibling, and the whole way to a saved model."""

import json
import warnings
from dataclasses import asdict

import pytest
import torch
from datasets import Dataset, DatasetDict
from transformers import T5Config

import ftkit
from ftkit.errors import DataError, SettingError
from ftkit.inference import load_model
from ftkit.learner.build import finetune_learner
from ftkit.tasks.translation import Translation, TranslationPrediction

PREFIXES = {
    "translation_en_to_de": {"prefix": "translate English to German: "},
    "translation_en_to_fr": {"prefix": "translate English to French: "},
    "summarization": {"prefix": "summarize: "},
}


@pytest.mark.unit
def test_options_and_columns():
    with pytest.raises(SettingError, match="num_beams is 0"):
        Translation(num_beams=0)
    task = Translation(source_language="en", target_language="de", prefix="de: ")
    assert Translation(**json.loads(json.dumps(asdict(task)))) == task
    assert [(c.name, c.kind, c.is_required) for c in task.columns()] == [
        ("source", "text", True),
        ("target", "target", True),
        ("references", "target", False),
    ]


@pytest.mark.unit
@pytest.mark.parametrize(
    ("options", "prefix"),
    [
        ({"source_language": "en", "target_language": "fr"}, "translate English to French: "),
        ({"prefix": ""}, ""),
        ({"prefix": "to German: "}, "to German: "),
    ],
)
def test_the_prefix_is_that_of_the_languages(options, prefix):
    config = T5Config(task_specific_params=PREFIXES)
    assert Translation(**options).fit_to(config).prefix == prefix
    plain = T5Config(task_specific_params={"summarization": PREFIXES["summarization"]})
    assert Translation(source_language="en", target_language="fr").fit_to(plain).prefix == ""


@pytest.mark.unit
@pytest.mark.parametrize("options", [{}, {"source_language": "en", "target_language": "es"}])
def test_languages_that_the_checkpoint_has_no_prefix_for(options):
    config = T5Config(task_specific_params=PREFIXES)
    with pytest.raises(SettingError, match=r'for "translation_en_to_de", .*Give source_lang'):
        Translation(**options).fit_to(config)


@pytest.mark.unit
def test_a_null_translation_is_refused():
    rows = Dataset.from_dict({"source": ["a", "b"], "target": ["c", None]})
    with pytest.raises(DataError, match='split "train", row 2, column "target": the text is miss'):
        Translation().with_labels(DatasetDict({"train": rows}))


@pytest.mark.unit
@pytest.mark.parametrize(
    ("column", "bad"),
    [("source", None), ("target", None), ("references", "spät"), ("references", [])],
)
def test_a_bad_row_is_named(tiny_tokenizer, column, bad):
    good = {"source": "late", "target": "spät", "references": ["spät"]}
    rows = {name: [value, bad if name == column else value] for name, value in good.items()}
    with pytest.raises(DataError, match=f'row 2, column "{column}": found') as caught:
        Translation(prefix="").prepare(rows, tiny_tokenizer("t5"), 16)
    assert caught.value.remedy


@pytest.mark.unit
def test_answers_and_tables(tiny_tokenizer):
    tokenizer, task = tiny_tokenizer("t5"), Translation()
    ids = torch.tensor(tokenizer(["refund", "parcel"])["input_ids"])
    rows = [{"source": "a", "target": "b"}, {"source": "c", "target": "d"}]
    found = task.decode(ids, rows, tokenizer)
    assert found == [TranslationPrediction("refund"), TranslationPrediction("parcel")]
    assert found[0].to_dict() == {"translation_text": "refund"}
    assert [row["predicted"] for row in task.show(rows, tokenizer, ids)] == ["refund", "parcel"]
    assert "sacrebleu" in task.limits(64)[-1]


def test_from_rows_to_the_translations_of_a_saved_model(make_checkpoint, tiny_data, tmp_path):
    words = {"billing": "fee", "delivery": "late", "technical": "error"}
    data = DatasetDict(
        {
            name: Dataset.from_dict(
                {"source": rows["text"][:], "target": [words[each] for each in rows["label"]]}
            )
            for name, rows in tiny_data.items()
        }
    )
    task = Translation(max_target_length=16, num_beams=2, label_smoothing=0.1, validate_every=8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        checkpoint = make_checkpoint("t5", "ForConditionalGeneration")
        learn = finetune_learner(data, checkpoint, task=task, bs=8, precision="fp32")
        learn.fit_one_cycle(8, 1e-2)
        model = load_model(ftkit.save(learn, tmp_path / "model"), device="cpu")
    evaluation = model.evaluate(data["test"])
    assert tuple(evaluation.scores) == task.metric_names
    assert evaluation.scores["chrf"] > 0.7
    (found,) = model.predict(["charged refund invoice payment"])
    assert found.translation == "fee"
