"""Accumulate, History, seeds and plain progress; and fastai's own callbacks beside them."""

import csv
import io
import math
import sys
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from fastai.callback.all import CSVLogger, EarlyStoppingCallback, GradientClip, SaveModelCallback
from fastai.callback.core import Callback

import ftkit
from ftkit.errors import SettingError, TrainingError
from ftkit.learner import callbacks
from ftkit.learner.precision import ChosenPrecision

BS = 7  # 96 rows make 14 batches, the last of 5


class Watch(Callback):
    """Notes the rows of every batch, and the gradient of every step."""

    order = 50

    def __init__(self):
        self.batches, self.gradients, self.losses = [], [], []

    def after_loss(self):
        if self.training:
            self.batches.append(self.learn.xb[0]["row"].tolist())
            self.losses.append(self.learn.loss.item())

    def before_step(self):
        parameters = self.learn.model.parameters()
        self.gradients.append(
            [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]
        )


@pytest.fixture
def make_still_learner(make_learner, make_checkpoint):
    """A Learner whose weights never move and that has no dropout: gradients can be compared."""
    checkpoint = make_checkpoint("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)

    def make(*cbs, **options):
        learn = make_learner(checkpoint=checkpoint, bs=BS, **options)
        watch = Watch()
        learn.fit(1, lr=0.0, wd=0.0, cbs=[*cbs, watch])
        return learn, watch

    return make


def gradient_of(learn, rows):
    """The gradient of the mean loss over rows of train, computed as one batch."""
    loader = learn.dls.train
    learn.model.zero_grad()
    inputs, targets = loader._fill(torch.tensor(rows).numpy())
    learn.model.train()
    learn.loss_func(learn.model(inputs), targets).backward()
    return [p.grad.clone() for p in learn.model.parameters()]


@pytest.mark.parametrize("n_batches", [3, 5, 100])
def test_accumulate_is_one_big_batch(make_still_learner, n_batches):
    learn, watch = make_still_learner(ftkit.Accumulate(n_batches))
    assert len(watch.batches) == 14
    assert len(watch.gradients) == math.ceil(14 / n_batches)  # the last group may be partial
    for step, found in enumerate(watch.gradients):
        group = watch.batches[step * n_batches : (step + 1) * n_batches]
        expected = gradient_of(learn, [row for batch in group for row in batch])
        for a, b in zip(found, expected, strict=True):
            assert torch.allclose(a, b, atol=1e-6)


TOKEN_TASKS = {
    "ner": lambda text: {"tokens": text.split(), "tags": ["B-x", "O"] * 20},
    "language_modeling": lambda text: {"text": text},
    "summarization": lambda text: {"text": text, "summary": " ".join(text.split()[2:])},
}


@pytest.mark.parametrize("task", TOKEN_TASKS)
def test_accumulate_weighs_by_the_tokens_that_count(task, tiny_data, make_checkpoint, tmp_path):
    still = {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0}
    folder = make_checkpoint("bert", **still)
    if task == "summarization":
        still = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
        folder = make_checkpoint("bart", "ForConditionalGeneration", **still)
    rows = [TOKEN_TASKS[task](text) for text in tiny_data["train"]["text"][:25]]
    rows = [
        {**row, "tags": row["tags"][: len(row["tokens"])]} if task == "ner" else row for row in rows
    ]
    data = {"train": rows, "validation": rows[:4]}
    learn = ftkit.finetune_learner(data, folder, task=task, bs=4, precision="fp32", path=tmp_path)
    kept, watch = [], Watch()

    class Keep(Callback):
        def before_batch(self):
            if self.training:
                kept.append((*self.learn.xb, *self.learn.yb))

    learn.fit(1, lr=0.0, wd=0.0, cbs=[ftkit.Accumulate(3), watch, Keep()])
    assert len(watch.gradients) == math.ceil(len(kept) / 3)
    counts = set()
    for step, found in enumerate(watch.gradients):
        group = kept[3 * step : 3 * step + 3]
        learn.model.zero_grad()
        learn.model.train()
        losses = [
            F.cross_entropy(learn.model(x).flatten(0, 1), y.flatten(), reduction="sum")
            for x, y in group
        ]
        counts.update(int((y != -100).sum()) for _, y in group)
        (sum(losses) / sum((y != -100).sum() for _, y in group)).backward()
        for one, p in zip(found, learn.model.parameters(), strict=True):
            assert torch.allclose(one, torch.zeros_like(p) if p.grad is None else p.grad, atol=1e-6)
    assert len(counts) > 1  # else rows would do


def test_accumulated_losses_stay_small_in_fp16(make_checkpoint, tmp_path):
    class Half(Callback):
        """As on a GPU: the scaler multiplies a loss by 65,536."""

        order = ChosenPrecision.order + 1

        def __init__(self, dtype):
            self.dtype, self.factors = dtype, []

        def before_fit(self):
            self.learn.model.autocast_dtype = self.dtype

        def before_backward(self):
            self.factors.append(float(self.learn.loss_grad / self.learn.loss))

    rows = [{"tokens": ["late"] * (5 + i), "tags": ["O"] * (5 + i)} for i in range(40)]
    rows[0]["tags"][0] = "B-x"
    still = {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0}
    gradients = {}
    for dtype in (torch.float16, None):
        half, watch = Half(dtype), Watch()
        learn = ftkit.ner_learner(
            {"train": rows, "validation": rows[:4]},
            make_checkpoint("bert", **still),
            bs=8,
            precision="fp32",
            path=tmp_path,
            cbs=[half, watch],
        )
        learn.fit(1, lr=0.0, wd=0.0, cbs=ftkit.Accumulate(2))
        gradients[dtype] = [torch.cat([g.flatten() for g in each]) for each in watch.gradients]
        assert (max(half.factors) < 5) == (dtype == torch.float16)
    for one, other in zip(*gradients.values(), strict=True):
        assert torch.allclose(one, other, rtol=0.1, atol=1e-2)


def test_accumulate_by_none_is_refused():
    with pytest.raises(SettingError, match="n_batches is 0"):
        ftkit.Accumulate(0)


def test_accumulate_leaves_the_losses_alone(make_still_learner):
    plain, watch_plain = make_still_learner()
    other, watch_other = make_still_learner(ftkit.Accumulate(4))
    assert watch_other.losses == watch_plain.losses
    assert other.recorder.losses == plain.recorder.losses
    assert other.history.rows[0]["train_loss"] == plain.history.rows[0]["train_loss"]


def test_gradient_clipping_sees_the_whole_gradient(make_still_learner):
    _, plain = make_still_learner(ftkit.Accumulate(5))
    _, clipped = make_still_learner(ftkit.Accumulate(5), GradientClip(1e-3))
    for whole, cut in zip(plain.gradients, clipped.gradients, strict=True):
        norm = torch.cat([g.flatten() for g in whole]).norm()
        assert norm > 1e-3
        for a, b in zip(whole, cut, strict=True):
            assert torch.allclose(a * (1e-3 / norm), b, atol=1e-7)


def test_accumulate_learns(make_learner):
    learn = make_learner(bs=4, cbs=ftkit.Accumulate(2))
    learn.fit_one_cycle(6, 1e-2)
    assert learn.history.rows[-1]["accuracy"] > 0.9


def test_accumulate_by_one_changes_nothing(make_learner):
    weights = []
    for cbs in ([], [ftkit.Accumulate(1)]):
        learn = make_learner(cbs=cbs)
        learn.fit_one_cycle(1, 1e-3)
        weights.append(torch.cat([p.detach().flatten() for p in learn.model.parameters()]))
    assert torch.allclose(*weights, atol=1e-5)


def test_history_goes_on_over_fits_and_skips_what_is_no_training(make_learner):
    learn = make_learner()
    learn.fit_one_cycle(1, 1e-3)
    learn.validate()
    learn.get_preds()
    learn.lr_find(num_it=10, show_plot=False)
    learn.fit_one_cycle(2, 1e-4)
    assert [row["epoch"] for row in learn.history.rows] == [1, 2, 3]
    assert learn.history.rows[0]["lr"] > 8e-4
    assert all(row["lr"] < 1.1e-4 for row in learn.history.rows[1:])
    assert all(row["seconds"] > 0 for row in learn.history.rows)


# Loss that is no number


class Poison(Callback):
    """Weights that make the loss no number from the third batch on."""

    def before_batch(self):
        if self.training and self.iter == 2:
            next(self.learn.model.parameters()).data.fill_(math.nan)


def test_a_loss_that_is_no_number_ends_the_fit(make_learner, tmp_path):
    kept = ftkit.Checkpoints(tmp_path / "states", every=1, minutes=None)
    learn = make_learner(cbs=[Poison(), kept])
    with pytest.raises(
        TrainingError, match=r"^the loss is nan at batch 3 of the fit, .* Take a lower rate"
    ):
        learn.fit_one_cycle(1, 1e-3)
    names = sorted(path.name for path in (tmp_path / "states").iterdir())
    assert names == ["step-00000001", "step-00000002"]  # none with nan


@pytest.mark.parametrize(("architecture", "said"), [("t5", "T5 and"), ("bert", "fp16 over")])
def test_fp16_is_named_as_the_cause(make_learner, make_checkpoint, architecture, said):
    learn = make_learner(checkpoint=make_checkpoint(architecture), bs=4, cbs=Poison())

    class Pretend(Callback):
        """Says fp16, which no CPU here computes in."""

        order = 52

        def before_train(self):
            self.learn.model.autocast_dtype = torch.float16

        def before_batch(self):
            self.learn.model.autocast_dtype = None

        def after_pred(self):
            self.learn.model.autocast_dtype = torch.float16

    with pytest.raises(TrainingError, match=f"batch 12 of the fit, .* {said}"):
        learn.fit_one_cycle(1, 1e-3, cbs=Pretend())


def test_a_search_for_a_rate_may_diverge(make_learner):
    make_learner(cbs=Poison()).lr_find(show_plot=False, num_it=6)


# Progress


def test_plain_lines_where_there_is_no_terminal(make_learner, capsys):
    learn = make_learner(bs=2)  # 48 batches: lines within the epoch
    learn.fit_one_cycle(1, 1e-3)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        *("epoch", "train_loss", "valid_loss", "accuracy", "macro_f1", "mcc", "time")
    ]
    within = [line for line in lines if line.startswith("  epoch 0 batch ")]
    assert [line.split()[3] for line in within] == ["12/48", "24/48", "36/48"]
    assert lines[-1].split()[0] == "0"
    assert "\r" not in "".join(lines)
    learn.predict("hello")
    learn.validate()
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-4)
    assert capsys.readouterr().out == ""


def test_a_bar_in_a_terminal(make_learner, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    names = {type(cb).__name__ for cb in make_learner().cbs}
    assert "ProgressCallback" in names
    assert "ProgressLines" not in names
    monkeypatch.setattr("sys.stdout.isatty", lambda: False, raising=False)
    assert "ProgressLines" in {type(cb).__name__ for cb in make_learner().cbs}


def test_shows_bars_asks_the_output(monkeypatch):
    monkeypatch.setattr("sys.stdout", io.StringIO())
    # A process may have imported it, and be no kernel.
    monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    assert not callbacks.shows_bars()


# fastai's own


def test_csv_logger(make_learner, tmp_path):
    learn = make_learner(cbs=CSVLogger())
    learn.fit_one_cycle(2, 1e-3)
    with (tmp_path / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    assert float(rows[1]["accuracy"]) == pytest.approx(learn.history.rows[1]["accuracy"])


def test_save_model_keeps_the_best(make_learner):
    # A rate of 10 in the second fit ruins the model; the best is that of the first epochs.
    save = SaveModelCallback(monitor="macro_f1", fname="best")
    learn = make_learner(cbs=save)
    learn.fit(5, [1e-2] * 4)
    best = max(row["macro_f1"] for row in learn.history.rows)
    assert learn.validate()[2] == pytest.approx(best)
    assert (learn.path / "models" / "best.pth").exists()


def test_early_stopping(make_learner):
    learn = make_learner(cbs=EarlyStoppingCallback(monitor="accuracy", patience=1))
    learn.fit(9, 0.0)  # nothing can improve
    assert len(learn.history.rows) == 2


@pytest.mark.parametrize("is_training", [True, False])
def test_a_batch_that_does_not_fit_into_memory(make_learner, is_training):
    class Full(Callback):
        def after_pred(self):
            if self.training == is_training and self.learn.iter == 1:
                torch.empty(1 << 60)

    kind = "training" if is_training else "validation"
    with pytest.raises(TrainingError, match=f"batch 2 of .* {kind}, (8|16) windows .* Accumulate"):
        make_learner(cbs=Full()).fit(1, 1e-3)
