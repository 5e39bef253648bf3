"""What fastai does with a Learner: show, predict, interpret, export. Rows and answers agree."""

import re
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from fastai.callback.all import SaveModelCallback
from fastai.callback.core import Callback
from fastai.interpret import ClassificationInterpretation, Interpretation
from fastai.learner import load_learner

import ftkit
from ftkit.errors import SettingError
from ftkit.learner.build import finetune_learner
from ftkit.learner.save import predictor

LABELS = ("billing", "delivery", "technical")


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")


def logits_of(learn, text):
    """Logits of one text, past every loader."""
    data = learn.dls.train.dataset
    learn.model.hf_model.eval()
    with torch.no_grad():
        encoded = data.tokenizer(text, return_tensors="pt", truncation=True, max_length=data.limit)
        return learn.model.hf_model(**encoded).logits


def shown_rows(text):
    """Rows of a printed table, without its head."""
    return [line for line in text.splitlines()[1:] if line.strip()]


@pytest.fixture
def split(tiny_data):
    return tiny_data["validation"]


# Show


def test_show_batch(fitted, tiny_data, capsys):
    fitted.show_batch(max_n=4)
    lines = shown_rows(capsys.readouterr().out)
    assert len(lines) == 4
    label_of = dict(zip(tiny_data["train"]["text"], tiny_data["train"]["label"], strict=True))
    for line in lines:
        text, label = line.strip().rsplit(maxsplit=1)
        assert label_of[text.strip()] == label


def test_show_results(fitted, split, capsys):
    fitted.show_results(max_n=6)
    label_of = dict(zip(split["text"], split["label"], strict=True))
    lines = shown_rows(capsys.readouterr().out)
    assert len(lines) == 6
    for line in lines:
        text, label, predicted = line.strip().rsplit(maxsplit=2)
        assert label_of[text.strip()] == label
        assert LABELS[logits_of(fitted, text.strip()).argmax()] == predicted


# Predict


def test_predict_takes_what_a_row_may_be(fitted):
    text = "my refund invoice"
    label, number, scores = fitted.predict(text)
    assert (label, LABELS[number]) == ("billing", "billing")
    assert torch.allclose(scores, logits_of(fitted, text).softmax(1)[0], atol=1e-6)
    assert fitted.predict({"text": text})[0] == label
    row, again, *_ = fitted.predict(text, with_input=True)
    assert (row, again) == (text, label)


def test_get_preds_are_in_the_order_of_the_rows(fitted, tiny_data):
    for number, name in enumerate(("train", "validation")):
        rows = tiny_data[name]
        scores, targets = fitted.get_preds(ds_idx=number)
        assert [LABELS[i] for i in targets] == rows["label"]
        for i in range(0, len(rows), 7):
            expected = logits_of(fitted, rows["text"][i]).softmax(1)[0]
            assert torch.allclose(scores[i], expected, atol=1e-5)


def test_get_preds_with_everything(fitted, split):
    inputs, scores, targets, decoded, losses = fitted.get_preds(
        with_input=True, with_decoded=True, with_loss=True
    )
    assert inputs.tolist() == list(range(len(split)))
    assert torch.equal(decoded, scores.argmax(1))
    assert torch.allclose(losses, F.nll_loss(scores.log(), targets, reduction="none"), atol=1e-5)


def test_test_dl_takes_rows_of_any_make(fitted, split):
    texts = split["text"][:5]
    expected = fitted.get_preds()[0][:5]
    frame = pd.DataFrame({"text": texts})
    for rows in (texts, [{"text": text} for text in texts], frame):
        scores, _ = fitted.get_preds(dl=fitted.dls.test_dl(rows))
        assert torch.allclose(scores, expected, atol=1e-5)
    labelled = fitted.dls.test_dl(split, with_labels=True)
    assert list(fitted.validate(dl=labelled)) == pytest.approx(list(fitted.validate()), abs=1e-5)


def test_unlabelled_rows_of_several_labels(make_learner, multi_data):
    learn = make_learner(multi_data)
    scores, _ = learn.get_preds(dl=learn.dls.test_dl(["hello", "refund"]))
    assert scores.shape == (2, 3)


def test_validate_agrees_with_the_last_epoch(fitted):
    last = fitted.history.rows[-1]
    assert list(fitted.validate()) == pytest.approx(
        [last[name] for name in ("valid_loss", "accuracy", "macro_f1", "mcc")], abs=1e-5
    )


# Every task

TASKS = [
    (ftkit.NER(max_length=12, stride=4), "bert"),
    (ftkit.QuestionAnswering(max_length=16, stride=4), "bert"),
    (ftkit.Summarization(num_beams=1, max_target_length=6), "bart"),
    (ftkit.LanguageModeling(), "bert"),
]
rows_of_every_task = pytest.mark.parametrize(
    ("task", "architecture"), TASKS[:3], ids=[task.name for task, _ in TASKS[:3]]
)


@pytest.fixture
def learner_of(task_data, make_checkpoint, tmp_path):
    def make(task, architecture):
        data, checkpoint = task_data(task.name), make_checkpoint(architecture)
        learn = finetune_learner(data, checkpoint, task=task, bs=2, precision="fp32", path=tmp_path)
        learn.fit(1, 1e-3)
        return learn

    return make


@rows_of_every_task
def test_get_preds_of_every_task(learner_of, task, architecture):
    learn = learner_of(task, architecture)
    rows = learn.dls.valid.dataset.items
    scores, targets, decided, losses = learn.get_preds(with_decoded=True, with_loss=True)
    assert len({len(scores), len(targets), len(decided), len(losses), len(rows)}) == 1
    assert len({len(batch["input_ids"]) for batch, _ in learn.dls.valid}) > 1 or task.generates
    for i in range(len(rows)):
        alone = learn.dls.test_dl([rows[i]], with_labels=True)
        found = learn.get_preds(dl=alone, with_decoded=True, with_loss=True)
        own_scores, own_targets, own_decided, own_losses = (each[0] for each in found)
        assert losses[i] == pytest.approx(float(own_losses), abs=1e-5)
        # In a batch, rows of words or tokens have the padding of the longest.
        own = slice(None if task.name == "qa" else len(own_targets))
        torch.testing.assert_close(scores[i][own], own_scores, atol=1e-5, rtol=1e-4)
        assert torch.equal(targets[i][own], own_targets)
        assert torch.equal(decided[i][own], own_decided)


@rows_of_every_task
def test_top_losses_of_every_task(learner_of, task, architecture, capsys):
    interpretation = Interpretation.from_learner(learner_of(task, architecture))
    capsys.readouterr()
    interpretation.plot_top_losses(5)
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[-3:] == ["target", "predicted", "loss"]
    losses = [float(line.split()[-1]) for line in lines if line.strip()]
    expected = sorted(interpretation.losses.tolist(), reverse=True)[:5]
    assert losses == pytest.approx(expected, abs=1e-3)
    interpretation.show_results([0, 1, 2, 3, 4])
    assert len(shown_rows(capsys.readouterr().out)) == 5


def test_losses_of_blocks_are_those_of_no_row(learner_of):
    interpretation = Interpretation.from_learner(learner_of(*TASKS[3]))
    with pytest.raises(SettingError, match="each block of text, which is no row"):
        interpretation.plot_top_losses(2)


# Interpret


def test_top_losses(fitted, split):
    losses, numbers, rows = Interpretation.from_learner(fitted).top_losses(5, items=True)
    assert losses.tolist() == sorted(losses.tolist(), reverse=True)
    for loss, number, row in zip(losses, numbers, rows, strict=True):
        assert row == split[int(number)]
        target = torch.tensor([LABELS.index(row["label"])])
        direct = F.cross_entropy(logits_of(fitted, row["text"]), target)
        assert loss.item() == pytest.approx(direct.item(), abs=1e-5)


@pytest.mark.parametrize("k", [3, 20])  # 20 is more than a batch of 16
def test_plot_top_losses(fitted, split, capsys, k):
    Interpretation.from_learner(fitted).plot_top_losses(k)
    lines = shown_rows(capsys.readouterr().out)
    assert len(lines) == k
    label_of = dict(zip(split["text"], split["label"], strict=True))
    losses = []
    for line in lines:
        text, target, predicted, score, loss = line.strip().rsplit(maxsplit=4)
        logits = logits_of(fitted, text.strip())
        assert label_of[text.strip()] == target
        assert LABELS[logits.argmax()] == predicted
        assert float(score) == pytest.approx(logits.softmax(1).max().item(), abs=6e-4)
        direct = F.cross_entropy(logits, torch.tensor([LABELS.index(target)])).item()
        assert float(loss) == pytest.approx(direct, abs=6e-4)
        losses.append(float(loss))
    assert losses == sorted(losses, reverse=True)


def test_confusion_matrix_and_report(fitted, split, capsys):
    shown = ClassificationInterpretation.from_learner(fitted)
    assert list(shown.vocab) == list(LABELS)
    matrix = shown.confusion_matrix()
    for wanted, row in zip(LABELS, matrix, strict=True):
        texts = [
            t for t, label in zip(split["text"], split["label"], strict=True) if label == wanted
        ]
        found = [LABELS[logits_of(fitted, text).argmax()] for text in texts]
        assert row.tolist() == [found.count(label) for label in LABELS]
    shown.print_classification_report()
    report = capsys.readouterr().out
    assert re.search(r"billing +\d\.\d\d +\d\.\d\d +\d\.\d\d +8\b", report)


def test_interpretation_of_several_labels(make_learner, multi_data, capsys):
    learn = make_learner(multi_data)
    learn.fit_one_cycle(3, 1e-2)
    shown = Interpretation.from_learner(learn)
    capsys.readouterr()
    losses, numbers = shown.top_losses(4)
    shown.plot_top_losses(4)
    lines = shown_rows(capsys.readouterr().out)
    for line, loss, number in zip(lines, losses, numbers, strict=True):
        row = multi_data["validation"][int(number)]
        assert line.strip().startswith(row["text"])
        assert f" {', '.join(row['label'])} " in line
        targets = torch.tensor([[float(name in row["label"]) for name in LABELS]])
        direct = F.binary_cross_entropy_with_logits(logits_of(learn, row["text"]), targets)
        assert loss.item() == pytest.approx(direct.item(), abs=1e-5)
        assert line.endswith(f"{direct.item():.3f}")


def test_interpretation_of_windows(make_learner, tiny_data, capsys):
    """Losses of rows of several windows are those of their averaged logits."""
    task = ftkit.Classification(long_texts="windows", max_length=8, stride=2)
    learn = make_learner(tiny_data, task=task)
    assert learn.dls.valid.dataset.features.windows.max() > 1
    learn.fit_one_cycle(2, 1e-2)
    model = predictor(learn)
    shown = ClassificationInterpretation.from_learner(learn)
    capsys.readouterr()
    shown.plot_top_losses(20)
    lines = shown_rows(capsys.readouterr().out)
    for line in lines:
        text, target, predicted, _, loss = line.strip().rsplit(maxsplit=4)
        answer = model.predict([text.strip()])[0]
        assert answer.label == predicted
        expected = -torch.tensor(answer.scores[target]).log().item()
        assert float(loss) == pytest.approx(expected, abs=1e-3)
    assert shown.confusion_matrix().sum() == 24


# Export


def test_export_and_load_learner(fitted):
    texts = ["my refund invoice", "courier late", "hello " * 70]
    fitted.export("whole.pkl")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = load_learner(fitted.path / "whole.pkl")
    for text in texts:
        label, number, scores = fitted.predict(text)
        again, same, others = loaded.predict(text)
        assert (label, number) == (again, same)
        assert torch.allclose(scores, others, atol=1e-6)
    assert len(loaded.dls.train.dataset) == 0  # no rows travel
    assert len(fitted.dls.train.dataset) == 96


def test_what_validation_chose_travels_with_the_weights(make_learner, multi_data):
    learn = make_learner(multi_data)
    learn.fit_one_cycle(2, 1e-2)
    chosen = learn.task_scores.chosen
    assert chosen["threshold"] != 0.5
    learn.save("chosen", False)
    other = make_learner(multi_data)
    assert other.load("chosen") is other
    assert other.task_scores.chosen == chosen
    assert other.history.scores == learn.history.scores
    learn.task_scores.choose({"threshold": 0.01})
    learn.load("chosen")
    assert learn.task_scores.chosen == chosen


def test_save_model_brings_the_threshold_back(make_learner, multi_data):
    learn, thresholds = make_learner(multi_data), []

    class Choices(Callback):
        order = 59

        def after_epoch(self):
            self.learn.task_scores.choose({"threshold": 0.2 * (self.epoch + 1)})
            thresholds.append(self.learn.task_scores.trained_task.threshold)

    # Its training loss falls, so the first epoch's is the greatest.
    kept = SaveModelCallback("train_loss", comp=np.greater)
    learn.fit(3, 1e-3, cbs=[Choices(), kept])
    assert learn.task_scores.trained_task.threshold == thresholds[0] == 0.2


def test_fine_tune_takes_the_rate_of_the_learner(make_learner):
    learn = make_learner()
    learn.fine_tune(1, learn.lr)
    other = make_learner()
    other.fine_tune(1, learn.lr.stop)
    assert all(map(torch.equal, learn.model.parameters(), other.model.parameters()))
    for rate in (slice(1e-4, 1e-3), [1e-3], ftkit.LayerDecay(1e-3)):
        with pytest.raises(SettingError, match="one learning rate"):
            learn.fine_tune(1, base_lr=rate)
