"""What ended in an error: each runs, and without its mend it does not."""

import warnings
from pathlib import Path

import pandas as pd
import pytest
import torch
from blurr.text.data.all import (
    TextBlock,
    TokenClassPreprocessor,
    first_blurr_tfm,
    get_hf_objects,
)
from blurr.text.modeling.all import (
    BlearnerForQuestionAnswering,
    BlearnerForSequenceClassification,
    BlearnerForSummarization,
    BlearnerForTokenClassification,
    BlearnerForTranslation,
)
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.transforms import ColReader, ColSplitter
from fastai.learner import Learner
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from ftkit.blurr import mends
from ftkit.errors import DataError, FtkitWarning

pytestmark = pytest.mark.usefixtures("quiet")
FROM_ROWS = BlearnerForSequenceClassification.from_data


def innermost(method):
    """What Blurr itself has, under all mends of a method."""
    function = getattr(method, "__func__", method)
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return function


def test_every_mend_is_one_that_is_made():
    functions = {
        name
        for name, each in vars(mends).items()
        if callable(each)
        and getattr(each, "__module__", "") == mends.__name__
        and not isinstance(each, type)
        and not name.startswith("_")
    }
    assert {each.__name__ for each in mends.MENDS} == functions
    assert all(each.__doc__ for each in mends.MENDS)


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl", ".xlsx"])
def test_files_are_read(tickets, checkpoint, tmp_path, suffix):
    file = tmp_path / f"rows{suffix}"
    rows = tickets[["text", "queue", "is_valid"]]
    {
        ".csv": lambda: rows.to_csv(file, index=False),
        ".json": lambda: rows.to_json(file, orient="records"),
        ".jsonl": lambda: rows.to_json(file, orient="records", lines=True),
        ".xlsx": lambda: rows.to_excel(file, index=False),
    }[suffix]()
    given = {"text_attr": "text", "label_attr": "queue", "dl_kwargs": {"bs": 8}}
    for path in (file, str(file)):
        learn = FROM_ROWS(path, checkpoint("bert"), **given)
        assert len(learn.dls.train_ds) == (~tickets["is_valid"]).sum()
    with pytest.raises((TypeError, ValueError)):
        innermost(FROM_ROWS)(BlearnerForSequenceClassification, file, checkpoint("bert"), **given)


def test_a_file_of_another_kind_is_refused(checkpoint):
    with pytest.raises(DataError, match=r"rows\.txt"):
        FROM_ROWS("rows.txt", checkpoint("bert"))


def test_metrics_are_those_of_the_labels(tickets, checkpoint):
    few = tickets[tickets["queue"].isin(sorted(set(tickets["queue"]))[:2])]
    flags = tickets.attrs["flags"]
    found = []
    for rows, label in ((tickets, flags), (tickets, "queue"), (few, "queue")):
        learn = FROM_ROWS(rows, checkpoint("bert"), label_attr=label, dl_kwargs={"bs": 8})
        metric = learn.metrics[0]
        found.append((metric.name, metric.kwargs["average"]))
    assert found == [("f1_score", "macro"), ("f1_score", "macro"), ("f1_score", "binary")]
    given = {"label_attr": "queue", "dl_kwargs": {"bs": 8}, "learner_kwargs": {}}
    owner = BlearnerForSequenceClassification
    learn = innermost(FROM_ROWS)(owner, tickets, checkpoint("bert"), **given)
    with pytest.raises(ValueError, match="multiclass"):
        learn.validate()


def test_tags_of_dicts_are_found(words, checkpoint):
    rows = words.to_dict("records")
    learn = BlearnerForTokenClassification.from_data(rows, checkpoint("bert"), dl_kwargs={"bs": 8})
    assert set(learn.dls.vocab) == {tag for tags in words["token_labels"] for tag in tags}
    with pytest.raises(TypeError):
        innermost(BlearnerForTokenClassification.from_data)(
            BlearnerForTokenClassification, rows, checkpoint("bert")
        )


def test_chunks_know_their_tokenizer(words, checkpoint):
    objects = get_hf_objects(checkpoint("bert"), model_cls=AutoModelForTokenClassification)
    settings = {"label_list_attr": "token_labels", "chunk_examples": True}
    cut = TokenClassPreprocessor(objects[2], tok_kwargs={"max_length": 24}, **settings)
    rows = cut.process_df(words)
    for _, row in rows.iterrows():
        assert len(row["proc_tokens"]) == len(row["proc_token_labels"])


def test_models_open_in_float32(checkpoint, tmp_path):
    half = AutoModelForSequenceClassification.from_pretrained(checkpoint("bert"))
    half.to(torch.bfloat16).save_pretrained(tmp_path)
    get_hf_objects(checkpoint("bert"), model_cls=type(half))[2].save_pretrained(tmp_path)
    found = {
        opened[3].dtype
        for opened in (
            get_hf_objects(Path(tmp_path), model_cls=type(half)),
            get_hf_objects(str(tmp_path), model_cls=type(half)),
        )
    }
    assert found == {torch.float32}
    assert innermost(get_hf_objects)(str(tmp_path), model_cls=type(half))[3].dtype == torch.bfloat16
    asked = get_hf_objects(tmp_path, model_cls=type(half), model_kwargs={"dtype": torch.bfloat16})
    assert asked[3].dtype == torch.bfloat16
    assert asked[1] is asked[3].config


def test_a_decoder_is_told_what_pads(tickets, checkpoint):
    learn = FROM_ROWS(tickets, checkpoint("gpt2"), label_attr="queue", dl_kwargs={"bs": 8})
    learn.validate()
    assert learn.model.hf_model.config.pad_token_id is not None


def test_labels_are_whole(tickets, checkpoint):
    learn = FROM_ROWS(tickets, checkpoint("bert"), label_attr="queue", dl_kwargs={"bs": 8})
    names = list(learn.dls.vocab)
    text = tickets["text"][0]
    (found,) = learn.blurr_predict(text)
    assert found["label"] == names[found["class_index"]]
    assert found["probs"][found["class_index"]] == found["score"] == max(found["probs"])
    (broken,) = Learner.blurr_predict.__wrapped__(learn, text)
    assert broken["label"] == found["label"][0]
    of_rows = learn.blurr_predict(tickets[:3])
    assert [each["class_index"] for each in of_rows] == [
        learn.blurr_predict(each)[0]["class_index"] for each in tickets["text"][:3]
    ]


def test_settings_of_generation_are_kept(summaries, checkpoint):
    given = {"max_length": 9, "num_beams": 1}
    options = {"text_gen_kwargs": given, "dl_kwargs": {"bs": 8}}
    for owner, name in (
        (BlearnerForSummarization, "t5"),
        (BlearnerForTranslation, "bart"),
    ):
        rows = summaries
        if owner is BlearnerForTranslation:
            rows = summaries.rename(columns={"text": "src_lang", "summary": "trg_lang"})
        learn = owner.from_data(rows, checkpoint(name), **options)
        kept = first_blurr_tfm(learn.dls).text_gen_kwargs
        assert {key: kept[key] for key in given} == given
        found = learn.predict(rows.iloc[0, 1])
        tokens = first_blurr_tfm(learn.dls).hf_tokenizer(next(iter(found[0].values())))["input_ids"]
        assert len(tokens) <= 9 + 2


def test_each_row_is_written_for(summaries, checkpoint):
    learn = BlearnerForSummarization.from_data(
        summaries, checkpoint("bart"), max_length=32, dl_kwargs={"bs": 4}
    )
    ids = learn.dls.one_batch()[0]["input_ids"]
    found = learn.blurr_generate(ids, max_length=8)
    assert len(found) == 4
    assert all(isinstance(each["generated_texts"], str) for each in found)
    assert len(Learner.blurr_generate.__wrapped__(learn, ids, max_length=8)) == 1


def test_default_metrics_name_what_is_left_out(said):
    warnings.simplefilter("error", FtkitWarning)
    with pytest.raises(FtkitWarning, match="bertscore"):
        BlearnerForSummarization.get_metrics_cb()
    with pytest.raises(FtkitWarning, match="meteor"):
        BlearnerForTranslation.get_metrics_cb()


def test_answers_have_a_length(questions, checkpoint):
    rows = pd.DataFrame(
        {
            "question": questions["question"],
            "context": questions["context"],
            "ans_start_token_idx": 0,
            "ans_end_token_idx": 0,
        }
    )
    learn = BlearnerForQuestionAnswering.from_data(rows, checkpoint("bert"), dl_kwargs={"bs": 8})
    assert learn.dls.one_batch()[0]["input_ids"].shape[1] == 64
    with pytest.raises(AttributeError, match="get"):
        innermost(BlearnerForQuestionAnswering.from_data)(
            BlearnerForQuestionAnswering, rows, checkpoint("bert")
        )


def test_prefixes_are_read_by_a_datablock(tickets, checkpoint):
    objects = get_hf_objects(checkpoint("bert"), model_cls=AutoModelForSequenceClassification)
    getters = mends.GrowingPipeline([ColReader("text")])
    getters.add(str.upper)
    block = DataBlock(
        blocks=(TextBlock(*objects), CategoryBlock),
        get_x=getters,
        get_y=ColReader("queue"),
        splitter=ColSplitter(),
    )
    first = block.dataloaders(tickets, bs=8).train_ds[0][0]
    assert first == first.upper() in set(tickets["text"].str.upper())
