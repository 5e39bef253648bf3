"""A Blurr DataBlock under ftkit: the same rows, ftkit's training, bundles with the right names."""

import json

import pytest
import torch
from blurr.text.data.all import (
    BertMLMStrategy,
    CausalLMStrategy,
    QAPreprocessor,
    TextBlock,
    get_hf_objects,
)
from blurr.text.modeling.all import (
    BlearnerForLM,
    BlearnerForQuestionAnswering,
    BlearnerForSequenceClassification,
    BlearnerForSummarization,
    BlearnerForTokenClassification,
    BlearnerForTranslation,
)
from fastai.callback.core import Callback
from fastai.data.block import CategoryBlock, DataBlock, RegressionBlock
from fastai.data.core import DataLoaders
from fastai.data.transforms import ColReader, ColSplitter
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    pipeline,
)

import ftkit
import ftkit.blurr
from ftkit import Checkpoints, WandbTracker
from ftkit.errors import CheckpointError, FtkitError, SettingError
from ftkit.learner.learner import TextLearner

pytestmark = pytest.mark.usefixtures("quiet")
BS = {"bs": 8}


@pytest.fixture
def classes(tickets, checkpoint):
    """A Blearner for the queues of the tickets."""
    return BlearnerForSequenceClassification.from_data(
        tickets, checkpoint("bert"), label_attr="queue", dl_kwargs=BS
    )


def bridged(learn, **options):
    """ftkit's Learner for the loaders and the model of a Blearner."""
    options = {"precision": "fp32", **options}
    return ftkit.blurr.learner(learn.dls, learn.model.hf_model, **options)


def rows_of(learn, split):
    return [dict(row) for row in learn.dls[split].dataset.items]


def trained(learn, tmp_path):
    """The model of a short training, saved and opened again."""
    assert isinstance(learn, TextLearner)
    learn.fit_one_cycle(1, slice(1e-4, 1e-3))
    assert len(learn.history.rows) == 1
    return ftkit.load_model(ftkit.save(learn, tmp_path / "model"))


def test_classes(tickets, classes, tmp_path):
    learn = bridged(classes)
    for split in (0, 1):
        part = tickets[tickets["is_valid"] == bool(split)]
        assert rows_of(learn, split) == [
            {"text": text, "label": queue}
            for text, queue in zip(part["text"], part["queue"], strict=True)
        ]
    assert learn.dls.train.bs == 8
    model = trained(learn, tmp_path)
    names = sorted(set(tickets["queue"]))
    text = tickets["text"][0]
    (found,) = model.predict([text])
    assert sorted(found.scores) == names
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["id2label"] == {str(i): name for i, name in enumerate(names)}
    (theirs,) = pipeline("text-classification", str(tmp_path / "model"))(text, truncation=True)
    assert (theirs["label"], pytest.approx(theirs["score"], abs=1e-4)) == (
        found.label,
        found.score,
    )
    assert learn.predict(text)[0] == found.label


def test_every_parameter_is_in_one_group(tickets, checkpoint):
    blearner = BlearnerForLM.from_data(
        tickets, checkpoint("bert"), lm_strategy_cls=BertMLMStrategy, dl_kwargs=BS
    )
    learn = bridged(blearner)
    learn.create_opt()
    numbers = [id(p) for group in learn.opt.param_lists for p in group]
    assert sorted(numbers) == sorted(id(p) for p in learn.model.parameters())


def test_several_labels(tickets, checkpoint, tmp_path):
    flags = tickets.attrs["flags"]
    blearner = BlearnerForSequenceClassification.from_data(
        tickets, checkpoint("bert"), label_attr=flags, dl_kwargs=BS
    )
    learn = bridged(blearner)
    found = [set(row["label"]) for row in rows_of(learn, 0)]
    assert found == [set(each) for each in tickets[~tickets["is_valid"]]["flags"]]
    (answer,) = trained(learn, tmp_path).predict([tickets["text"][0]])
    assert set(answer.scores) == set(flags)


def test_numbers_and_pairs(tickets, checkpoint, tmp_path):
    objects = get_hf_objects(
        checkpoint("bert"),
        model_cls=AutoModelForSequenceClassification,
        config_kwargs={"num_labels": 1},
    )
    tickets["length"] = tickets["text"].str.len() / 100
    block = DataBlock(
        blocks=(TextBlock(*objects), RegressionBlock),
        get_x=lambda row: (row["queue"], row["text"]),
        get_y=ColReader("length"),
        splitter=ColSplitter(),
    )
    dls = block.dataloaders(tickets, **BS)
    learn = ftkit.blurr.learner(dls, objects[-1], precision="fp32")
    first = tickets[~tickets["is_valid"]].iloc[0]
    row = {"text": first["queue"], "text_pair": first["text"]}
    assert rows_of(learn, 0)[0] == {**row, "label": pytest.approx(first["length"])}
    (answer,) = trained(learn, tmp_path).predict([("account", "my parcel")])
    assert isinstance(answer.value, float)


def test_tags(words, checkpoint, tmp_path):
    blearner = BlearnerForTokenClassification.from_data(
        words, checkpoint("bert"), labels=words.attrs["tags"], dl_kwargs=BS
    )
    learn = bridged(blearner)
    part = words[words["is_valid"]]
    assert [(row["tokens"], row["tags"]) for row in rows_of(learn, 1)] == list(
        zip(part["tokens"], part["token_labels"], strict=True)
    )
    (answer,) = trained(learn, tmp_path).predict(["my parcel from Truro"])
    kinds = {tag[2:] for tag in words.attrs["tags"]}
    assert all(entity.label in kinds for entity in answer.entities)


def test_tags_that_are_no_whole_set_are_refused(words, checkpoint):
    tags = [tag for tag in words.attrs["tags"] if tag != "I-place"]
    blearner = BlearnerForTokenClassification.from_data(
        words, checkpoint("bert"), labels=tags, dl_kwargs=BS
    )
    with pytest.raises(SettingError, match=r'lack "I-place".*num_labels='):
        bridged(blearner)


def test_answers(questions, checkpoint, tmp_path):
    tokenizer = get_hf_objects(checkpoint("bert"), model_cls=AutoModelForQuestionAnswering)[2]
    options = {"return_overflowing_tokens": True, "max_length": 64, "stride": 16}
    rows = QAPreprocessor(tokenizer, id_attr="id", tok_kwargs=options).process_df(questions)
    blearner = BlearnerForQuestionAnswering.from_data(
        rows,
        checkpoint("bert"),
        id_attr="id",
        max_seq_len=64,
        context_attr="proc_context",
        question_attr="proc_question",
        dl_kwargs=BS,
    )
    with pytest.warns(match="chunks of a question's context"):
        learn = bridged(blearner)
    found = [
        (row["question"], row["context"], "".join(row["answers"]["text"]))
        for row in rows_of(learn, 0)
    ]
    part = rows[~rows["is_valid"]]
    gold = part["answer_text"].where(part["is_answerable"], "")
    pairs = zip(part["proc_question"], part["proc_context"], gold, strict=True)
    assert found == list(pairs)
    context = "my parcel is late"
    (answer,) = trained(learn, tmp_path).predict([{"question": "what", "context": context}])
    assert context[answer.start : answer.end] == answer.answer


@pytest.mark.parametrize(("architecture", "prefix"), [("bart", ""), ("t5", "summarize: ")])
def test_summaries(summaries, checkpoint, tmp_path, architecture, prefix):
    blearner = BlearnerForSummarization.from_data(
        summaries,
        checkpoint(architecture),
        max_length=48,
        max_target_length=16,
        text_gen_kwargs={"num_beams": 2, "no_repeat_ngram_size": 2},
        dl_kwargs=BS,
    )
    learn = bridged(blearner)
    part = summaries[~summaries["is_valid"]]
    assert rows_of(learn, 0) == part[["text", "summary"]].to_dict("records")
    task = learn.task_scores.task
    assert (task.prefix, task.max_length, task.num_beams) == (prefix, 48, 2)
    assert (task.max_target_length, task.no_repeat_ngram_size) == (16, 2)
    (answer,) = trained(learn, tmp_path).predict(["my parcel is late"])
    assert isinstance(answer.summary, str)


def test_translations(summaries, checkpoint, tmp_path):
    blearner = BlearnerForTranslation.from_data(
        summaries,
        checkpoint("t5"),
        src_lang_name="English",
        src_lang_attr="text",
        trg_lang_name="German",
        trg_lang_attr="summary",
        max_length=48,
        max_target_length=16,
        text_gen_kwargs={"num_beams": 1},
        dl_kwargs=BS,
    )
    learn = bridged(blearner)
    part = summaries[~summaries["is_valid"]]
    wanted = part[["text", "summary"]].set_axis(["source", "target"], axis=1)
    assert rows_of(learn, 0) == wanted.to_dict("records")
    assert learn.task_scores.task.prefix == "translate English to German: "
    (answer,) = trained(learn, tmp_path).predict(["my parcel is late"])
    assert isinstance(answer.translation, str)


@pytest.mark.parametrize(
    ("architecture", "strategy", "kind"),
    [("gpt2", CausalLMStrategy, "causal"), ("bert", BertMLMStrategy, "masked")],
)
def test_texts(tickets, checkpoint, tmp_path, architecture, strategy, kind):
    blearner = BlearnerForLM.from_data(
        tickets, checkpoint(architecture), lm_strategy_cls=strategy, dl_kwargs=BS
    )
    learn = bridged(blearner)
    assert learn.task_scores.task.kind == kind
    learn.fit_one_cycle(1, 1e-3)
    assert learn.history.rows[0]["perplexity"] > 1
    folder = ftkit.save(learn, tmp_path / "model")
    if kind == "causal":
        assert pipeline("text-generation", str(folder))("my", max_new_tokens=4)
    else:
        assert pipeline("fill-mask", str(folder))("my [MASK]")


class StopAt(Callback):
    """Ends a fit, as a power cut would, after some steps."""

    def __init__(self, steps):
        self.left = steps

    def after_step(self):
        self.left -= 1
        if not self.left:
            raise RuntimeError("the power is gone")


def test_a_stopped_run_goes_on_exactly(tickets, checkpoint, tmp_path):
    def run(folder, *cbs, resume=False):
        torch.manual_seed(0)
        blearner = BlearnerForSequenceClassification.from_data(
            tickets, checkpoint("bert"), label_attr="queue", dl_kwargs=BS
        )
        states = Checkpoints(folder, every=2, minutes=None, resume=resume)
        learn = bridged(blearner, cbs=[states, *cbs])
        learn.fit_one_cycle(2, slice(1e-4, 1e-2))
        return learn.model.state_dict()

    whole = run(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="power"):
        run(tmp_path / "stopped", StopAt(6))
    again = run(tmp_path / "stopped", resume=True)
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())


def test_it_is_tracked(classes, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    tracker = WandbTracker("blurr", dir=str(tmp_path))
    learn = bridged(classes, tracker=tracker)
    learn.fit_one_cycle(1, 1e-3)
    tracker.finish()
    assert tracker.run_id
    assert list(tmp_path.glob("wandb/offline-run-*"))


def test_precision_is_checked_first(classes):
    with pytest.raises(SettingError, match="precision"):
        bridged(classes, precision="fp8")


def test_loaders_of_another_make_are_refused(classes):
    model = classes.model.hf_model
    loaders = DataLoaders(torch.utils.data.DataLoader([1]), torch.utils.data.DataLoader([1]))
    for dls in (loaders, ftkit.blurr.learner(classes.dls, model).dls):
        with pytest.raises(SettingError, match="TextBlock"):
            ftkit.blurr.learner(dls, model)


@pytest.mark.parametrize(
    ("auto", "labels", "message"),
    [
        (AutoModelForQuestionAnswering, 2, "classification needs a BertForSequenceClassification"),
        (AutoModelForSequenceClassification, 2, "2 outputs, and classification needs"),
    ],
)
def test_a_model_for_something_else_is_refused(classes, checkpoint, auto, labels, message):
    model = auto.from_pretrained(checkpoint("bert"), num_labels=labels)
    with pytest.raises(CheckpointError, match=message) as caught:
        ftkit.blurr.learner(classes.dls, model)
    assert isinstance(caught.value, FtkitError)
    assert "\n" not in str(caught.value)


def test_a_datablock_without_texts_of_blurr_is_refused(tickets, classes):
    block = DataBlock(
        blocks=(CategoryBlock, CategoryBlock),
        get_x=ColReader("queue"),
        get_y=ColReader("queue"),
        splitter=ColSplitter(),
    )
    with pytest.raises(SettingError, match="TextBlock"):
        ftkit.blurr.learner(block.dataloaders(tickets, bs=4), classes.model.hf_model)
