"""DataBlocks of every task: the batches and the weights of the direct path, fastai's verbs."""

from dataclasses import dataclass
from typing import Any

import pandas as pd
import pytest
import torch
from fastai.data.all import (
    CategoryBlock,
    ColReader,
    ColSplitter,
    DataBlock,
    MultiCategoryBlock,
    RegressionBlock,
)
from fastai.learner import load_learner

import ftkit
from ftkit.errors import SettingError

LETTERS = list("abcdefghijklmnop")


@dataclass
class Case:
    """A task, its block, and rows under names of a user's own."""

    verb: Any
    target: Any
    get_x: Any
    get_y: Any
    row: Any
    """Makes row i."""
    columns: dict[str, Any]
    checkpoint: tuple[Any, ...] = ("bert",)
    task: Any = None

    def frame(self, count: int = 40) -> pd.DataFrame:
        """Rows of which every fourth is for validation."""
        rows = [{**self.row(i), "is_valid": i % 4 == 3} for i in range(count)]
        return pd.DataFrame(rows)

    def block(self, checkpoint: Any) -> DataBlock:
        """The DataBlock that reads the rows."""
        blocks = [ftkit.HFTextBlock(checkpoint, self.task), *([self.target] * bool(self.target))]
        return DataBlock(blocks, get_x=self.get_x, get_y=self.get_y, splitter=ColSplitter())

    def loaders(self, checkpoint: Any, **options: Any) -> Any:
        """Its DataLoaders."""
        options = {"bs": 4, "val_bs": 8, **options}
        return self.block(checkpoint).dataloaders(self.frame(), **options)

    def direct(self) -> dict[str, Any]:
        """The rows as the direct path takes them."""
        frame = self.frame().rename(columns={theirs: ours for ours, theirs in self.columns.items()})
        valid = frame.pop("is_valid")
        return {"train": frame[~valid], "validation": frame[valid]}


def words(i: int) -> str:
    return " ".join(LETTERS[(i * k) % 16] for k in range(1, 3 + i % 7))


def tagged(i: int) -> dict[str, Any]:
    tokens = [*words(i).split(), "oslo"]
    return {"words": tokens, "ner": ["O"] * (len(tokens) - 1) + [f"B-{('city', 'team')[i % 2]}"]}


def asked(i: int) -> dict[str, Any]:
    found = {"text": ["parcel"], "answer_start": [len(words(i)) + 1]}
    none = {"text": [], "answer_start": []}
    return {
        "asked": "where is it",
        "where": f"{words(i)} parcel today",
        "said": none if i % 10 == 3 else found,
    }


QUEUES = ("billing", "delivery", "technical")
CASES = {
    "classification": Case(
        ftkit.classification_learner,
        CategoryBlock,
        ColReader("body"),
        ColReader("queue"),
        lambda i: {"body": f"{words(i)} {QUEUES[i % 3]}", "queue": QUEUES[i % 3]},
        {"text": "body", "label": "queue"},
    ),
    "pairs and windows": Case(
        ftkit.classification_learner,
        CategoryBlock,
        ColReader(["body", "other"]),
        ColReader("same"),
        lambda i: {"body": words(i) * 3, "other": words(i * (i % 2)), "same": i % 2},
        {"text": "body", "text_pair": "other", "label": "same"},
        task=ftkit.Classification(long_texts="windows", max_length=24, stride=2),
    ),
    "several labels": Case(
        ftkit.classification_learner,
        MultiCategoryBlock,
        ColReader("body"),
        ColReader("queues", label_delim=";"),
        lambda i: {
            "body": f"{words(i)} {QUEUES[i % 3]}",
            "queues": ";".join(QUEUES[: i // 4 % 4]),
            "label": list(QUEUES[: i // 4 % 4]),
        },
        {"text": "body"},
    ),
    "regression": Case(
        ftkit.classification_learner,
        RegressionBlock,
        ColReader("body"),
        ColReader("stars"),
        lambda i: {"body": f"{words(i)}", "stars": i % 7 / 2},
        {"text": "body", "label": "stars"},
    ),
    "ner": Case(
        ftkit.ner_learner,
        ftkit.TokenTagsBlock,
        ColReader("words"),
        ColReader("ner"),
        tagged,
        {"tokens": "words", "tags": "ner"},
    ),
    "qa": Case(
        ftkit.qa_learner,
        ftkit.AnswerBlock,
        ColReader(["asked", "where"]),
        ColReader("said"),
        asked,
        {"question": "asked", "context": "where", "answers": "said"},
    ),
    "summarization": Case(
        ftkit.summarization_learner,
        ftkit.SummaryBlock,
        ColReader("body"),
        ColReader("short"),
        lambda i: {"body": words(i), "short": words(i)[:3]},
        {"text": "body", "summary": "short"},
        ("t5", "ForConditionalGeneration"),
        ftkit.Summarization(max_target_length=8, num_beams=1),
    ),
    "translation": Case(
        ftkit.translation_learner,
        ftkit.SummaryBlock,
        ColReader("body"),
        ColReader("back"),
        lambda i: {"body": words(i), "back": words(i)[::-1]},
        {"source": "body", "target": "back"},
        ("t5", "ForConditionalGeneration"),
        ftkit.Translation(max_target_length=10, num_beams=1),
    ),
    "masked words": Case(
        ftkit.language_model_learner,
        None,
        ColReader("body"),
        None,
        lambda i: {"body": words(i)},
        {"text": "body"},
        ("bert", "ForMaskedLM"),
        ftkit.LanguageModeling(block=16),
    ),
    "next words": Case(
        ftkit.language_model_learner,
        None,
        ColReader("body"),
        None,
        lambda i: {"body": words(i)},
        {"text": "body"},
        ("gpt2", "LMHeadModel"),
        ftkit.LanguageModeling(block=16),
    ),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def assert_same_batches(found: Any, wanted: Any) -> None:
    found, wanted = list(found), list(wanted)
    assert len(found) == len(wanted) > 0
    for (inputs, targets), (expected, expected_targets) in zip(found, wanted, strict=True):
        assert inputs.keys() == expected.keys()
        for name, values in expected.items():
            assert torch.equal(inputs[name], values), name
        assert torch.equal(targets, expected_targets)


@cases
def test_batches_weights_and_scores_are_those_of_the_direct_path(case, make_checkpoint, tmp_path):
    checkpoint = make_checkpoint(*case.checkpoint)
    options = {"precision": "fp32", "path": tmp_path}
    dls = case.loaders(checkpoint, seed=7)
    learn = case.verb(dls, checkpoint, **options)
    direct = case.verb(case.direct(), checkpoint, task=case.task, bs=4, seed=7, **options)
    assert learn.model.task == direct.model.task
    for _ in range(2):
        for place in (0, 1):
            wanted = list(direct.dls[place])
            assert_same_batches(dls[place], wanted)
            assert_same_batches(learn.dls[place], wanted)
    for each in (learn, direct):
        each.dls.train.epoch = 0
        each.fit_one_cycle(1, 1e-3)
    for name, weight in direct.model.state_dict().items():
        assert torch.equal(learn.model.state_dict()[name], weight), name
    scores = [list(each.recorder.values[-1]) for each in (learn, direct)]
    assert scores[0] == pytest.approx(scores[1], nan_ok=True)
    if case.target is None:
        return
    rows = case.direct()["validation"].to_dict("records")
    # Both from a file: weights elsewhere in memory may change the last bit of a product.
    folders = [ftkit.save(each, tmp_path / str(i)) for i, each in enumerate((learn, direct))]
    answers = [ftkit.load_model(folder).predict(rows) for folder in folders]
    assert answers[0] == answers[1]


@cases
def test_summary_goes_from_an_item_to_a_batch(case, make_checkpoint, capsys):
    case.block(make_checkpoint(*case.checkpoint)).summary(case.frame(), bs=4, show_batch=True)
    out = capsys.readouterr().out
    assert "datasets of sizes 30,10" in out
    assert "Building one batch" in out
    assert "Error!" not in out
    # A head and at most the four rows of the batch.
    assert 2 <= len(out.split("No batch_tfms to apply")[1].strip().splitlines()) <= 5


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.target])
def test_a_learner_reads_items_through_the_getters(name, make_checkpoint, tmp_path, capsys):
    case = CASES[name]
    checkpoint = make_checkpoint(*case.checkpoint)
    learn = case.verb(case.loaders(checkpoint), checkpoint, precision="fp32", path=tmp_path)
    frame = case.frame(8)
    wanted = list(learn.dls.test_dl(frame))
    inputs = [case.get_x(frame.iloc[i]) for i in range(len(frame))]
    for items in (inputs, frame.to_dict("records")):
        assert_same_batches(learn.dls.test_dl(items), wanted)
    labelled = learn.dls.test_dl(frame, with_labels=True)
    frame_valid = case.frame()[lambda rows: rows["is_valid"]]
    whole = learn.dls.test_dl(frame_valid, with_labels=True)
    assert list(learn.validate(dl=whole)) == pytest.approx(list(learn.validate()), nan_ok=True)
    # Labels are read where they are asked for: by then targets differ.
    assert not torch.equal(labelled.one_batch()[1], wanted[0][1])
    row = learn.predict(frame.iloc[0])
    assert str(row) == str(learn.predict(inputs[0]))
    learn.export("whole.pkl")
    loaded = load_learner(tmp_path / "whole.pkl")
    assert len(loaded.dls.train.dataset) == 0
    assert str(loaded.predict(frame.iloc[0])) == str(row)
    capsys.readouterr()
    learn.show_results(max_n=3)
    head, *shown = capsys.readouterr().out.strip().splitlines()
    assert head.split()[-1] == "predicted"
    assert 1 <= len(shown) <= 3


CLASSES = CASES["classification"]


def test_labels_are_in_the_order_of_the_head_that_goes_on(make_checkpoint, tmp_path):
    names = ("technical", "billing", "delivery")
    trained = make_checkpoint(
        "bert", "ForSequenceClassification", id2label=dict(enumerate(names)), num_labels=3
    )
    dls = CLASSES.loaders(trained)
    assert list(dls.vocab) == sorted(names)
    learn = ftkit.classification_learner(dls, trained, precision="fp32", path=tmp_path)
    assert list(learn.dls.vocab) == list(names)
    for ours, theirs in zip(learn.dls.valid, dls.valid, strict=True):
        assert torch.equal(ours[0]["row"], theirs[0]["row"])
        assert [names[i] for i in ours[1]] == [sorted(names)[i] for i in theirs[1]]
    frame = CLASSES.frame(3)
    ((inputs, targets),) = learn.dls.test_dl(frame, with_labels=True)
    assert [names[i] for i in targets] == [frame["queue"][i] for i in inputs["row"].tolist()]


def test_rows_are_cut_to_the_length_of_the_checkpoint_that_is_trained(make_checkpoint, tmp_path):
    short = make_checkpoint("bert", max_position_embeddings=8)
    dls = CLASSES.loaders(make_checkpoint("bert"))
    with pytest.warns(ftkit.errors.FtkitWarning, match="longer than 8 tokens"):
        learn = ftkit.classification_learner(dls, short, precision="fp32", path=tmp_path)
    assert [each.dataset.limit for each in (dls.train, learn.dls.train)] == [64, 8]
    assert max(inputs["input_ids"].shape[1] for inputs, _ in learn.dls.train) == 8


def test_options_of_the_loaders_are_kept(make_checkpoint, tmp_path):
    checkpoint = make_checkpoint("bert")
    options = {"shuffle": False, "val_shuffle": True, "drop_last": True, "bs": 7, "seed": 3}
    dls = CLASSES.loaders(checkpoint, **options, val_bs=5, max_tokens=64, path=tmp_path)
    learn = ftkit.classification_learner(dls, checkpoint, precision="fp32", bs=7, seed=3)
    train, valid = learn.dls
    assert (train.shuffle, valid.shuffle, train.drop_last, valid.drop_last) == (0, 1, 1, 0)
    assert (train.bs, valid.bs, train.seed, valid.seed) == (7, 5, 3, 3)
    assert (train.max_tokens, valid.max_tokens, learn.path) == (64, 64, tmp_path)


@pytest.mark.parametrize(
    ("verb", "options", "message"),
    [
        ("classification", {"bs": 8}, "bs is 8, and 4 in the DataLoaders"),
        ("classification", {"seed": 1}, "seed is 1, and 42 in the DataLoaders"),
        ("classification", {"max_tokens": 99}, "max_tokens is 99, and None in the DataLoaders"),
        (
            "classification",
            {"task": ftkit.Classification(label_smoothing=0.1)},
            "options that the DataLoaders were not made with",
        ),
        ("ner", {}, 'for the task "classification", not for "ner"'),
    ],
)
def test_what_is_said_twice_must_agree(make_checkpoint, verb, options, message):
    checkpoint = make_checkpoint("bert")
    with pytest.raises(SettingError, match=message):
        getattr(ftkit, f"{verb}_learner")(CLASSES.loaders(checkpoint), checkpoint, **options)


def test_another_tokenizer_is_refused(make_checkpoint):
    dls = CLASSES.loaders(make_checkpoint("bert"))
    with pytest.raises(SettingError, match="another tokenizer"):
        ftkit.classification_learner(dls, make_checkpoint("roberta"))


def test_loaders_of_another_make_are_refused(fitted, tiny_checkpoint):
    with pytest.raises(SettingError, match="not made by a DataBlock with HFTextBlock"):
        ftkit.classification_learner(fitted.dls, tiny_checkpoint)
