"""Trackers: what is logged equals what the Learner did, and nothing of it stops a training."""

import hashlib
import json
import math
import os
import signal
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import torch.nn.functional as F
import wandb
from fastai.callback.all import GradientClip
from fastai.callback.core import Callback
from torch.amp.grad_scaler import GradScaler
from wandb.util import get_core_path

import ftkit
from ftkit.errors import FtkitWarning, SettingError
from ftkit.learner import services
from ftkit.learner.build import finetune_learner
from ftkit.learner.resume import Checkpoints
from ftkit.learner.tracking import Tracker

LABELS = ["billing", "delivery", "technical"]


@pytest.fixture(scope="module", autouse=True)
def wandb_offline(tmp_path_factory):
    """W&B offline, without a key, all its files in a folder of the tests."""
    patch, folder = pytest.MonkeyPatch(), tmp_path_factory.mktemp("wandb")
    for name in ("API_KEY", "PROJECT", "RUN_ID"):
        patch.delenv(f"WANDB_{name}", raising=False)
    for name in ("DIR", "DATA_DIR", "CACHE_DIR", "CONFIG_DIR"):
        (folder / name).mkdir()
        patch.setenv(f"WANDB_{name}", str(folder / name))
    patch.setenv("NETRC", str(folder / "netrc"))
    patch.setenv("WANDB_MODE", "offline")
    patch.setenv("WANDB_SILENT", "true")
    yield
    wandb.teardown()
    patch.undo()


@pytest.fixture
def track(tmp_path):
    """A function that makes a tracker whose run is written to a folder of the test's, and that
    ends its run when the test does, lest the next one joins it.
    """
    made = []

    def make(name=".", **options):
        made.append(ftkit.WandbTracker("p", dir=tmp_path / name, **options))
        return made[-1]

    yield make
    for tracker in made:
        tracker.finish()


class Watch(Callback):
    """Notes what every training batch did, apart from the tracker."""

    # Sees gradients behind the GradScaler and before GradientClip, as the tracker does.
    order = 10.7

    def __init__(self):
        self.rows, self.smooth_losses = [], []

    def before_batch(self):
        self.seen_norm = None

    def before_step(self):
        flat = [p.grad.flatten() for p in self.learn.model.parameters() if p.grad is not None]
        self.seen_norm = torch.cat(flat).norm().item()

    def after_batch(self):
        if self.learn.training and not hasattr(self.learn, "lr_finder"):
            mask = self.learn.xb[0]["attention_mask"]
            self.rows.append(
                {
                    "loss": self.learn.loss.item(),
                    "norm": self.seen_norm,
                    "hypers": [dict(group) for group in self.learn.opt.hypers],
                    "padding": 1 - mask.sum().item() / mask.numel(),
                }
            )

    def after_fit(self):
        if not hasattr(self.learn, "lr_finder"):
            self.smooth_losses += [float(loss) for loss in self.learn.recorder.losses]


class Run:
    """A run that wandb wrote offline, read back by wandb's own inspector."""

    def __init__(self, folder):
        (self.file,) = Path(folder).glob("wandb/offline-run-*/run-*.wandb")
        command = [get_core_path(), "leet", "inspect", "--no-observability", "--json"]
        command += ["--run-file", str(self.file), str(self.file.parents[1])]
        records: list[dict[str, Any]] = []
        # wandb's process writes the last records behind the back of `finish`.
        while not any(each["type"] == "exit" for each in records):
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            records = [json.loads(line) for line in done.stdout.splitlines()]
        kinds = ("history", "config", "artifact", "run", "metric")
        self.of = {kind: [each[kind] for each in records if each["type"] == kind] for kind in kinds}
        self.history = [each["item"] for each in self.of["history"]]
        self.batches = [row for row in self.history if "train/loss" in row]
        self.epochs = [row for row in self.history if "valid/loss" in row]
        self.config = {}
        for each in [self.of["run"][0]["config"], *self.of["config"]]:
            self.config |= each.get("update", {})

    def tables(self, name):
        """Rows of each table that was logged under a name, as dicts."""
        files = [row[f"{name}.path"] for row in self.history if f"{name}.path" in row]
        read = [json.loads((self.file.parent / "files" / file).read_text()) for file in files]
        return [
            [dict(zip(each["columns"], row, strict=True)) for row in each["data"]] for each in read
        ]

    def artifact(self, kind):
        (found,) = (each for each in self.of["artifact"] if each["type"] == kind)
        return found


@pytest.fixture(scope="module")
def tracked(tiny_data, tiny_checkpoint, tmp_path_factory):
    """The head alone, then all, with much between that is no training: Learner, watch, run."""
    folder, watch = tmp_path_factory.mktemp("tracked"), Watch()
    tracker = ftkit.WandbTracker("tickets", config={"note": "ours", "seed": 7}, dir=folder)
    learn = finetune_learner(
        tiny_data,
        tiny_checkpoint,
        task="classification",
        bs=8,
        precision="fp32",
        path=folder,
        tracker=tracker,
        cbs=watch,
    )
    learn.validate()
    learn.freeze()
    learn.fit_one_cycle(1, 1e-2)
    learn.unfreeze()
    learn.get_preds()
    learn.predict("my refund invoice")
    learn.validate()
    learn.lr_find(num_it=10, show_plot=False)
    learn.fit_one_cycle(3, slice(1e-3, 1e-2))
    learn.get_preds()
    tracker.log_bundle(ftkit.save(learn, folder / "model"))
    tracker.finish()
    return learn, watch, Run(folder)


# What is logged


def test_each_batch_is_a_step(tracked):
    learn, watch, run = tracked
    assert len(run.batches) == len(watch.rows) == 4 * len(learn.dls.train) == 48
    assert [row["train/step"] for row in run.batches] == list(range(1, 49))
    assert [row["train/smooth_loss"] for row in run.batches] == watch.smooth_losses
    assert [row["train/loss"] for row in run.batches] == [each["loss"] for each in watch.rows]
    for step, (row, seen) in enumerate(zip(run.batches, watch.rows, strict=True), 1):
        assert row["train/epoch"] == pytest.approx(step / 12)
        assert row["train/padding_share"] == pytest.approx(seen["padding"], abs=1e-6)
        assert row["train/tokens_per_second"] > 0
        assert row["train/gradient_norm"] == pytest.approx(seen["norm"], rel=1e-5)
        assert {name for name in row if name.startswith("lr/")} == {f"lr/{i}" for i in range(4)}
        for i, hypers in enumerate(seen["hypers"]):
            assert row[f"lr/{i}"] == hypers["lr"]
            assert row[f"momentum/{i}"] == hypers["mom"]
    assert len({row["lr/3"] for row in run.batches}) > 20  # the schedule moved
    assert run.batches[-1]["lr/0"] < run.batches[-1]["lr/3"]
    drawn_over = {each["glob_name"]: each["step_metric"] for each in run.of["metric"][1:]}
    for name in {name for row in run.batches + run.epochs for name in row if "/" in name}:
        assert drawn_over[f"{name.split('/')[0]}/*"] == "train/step"


def test_each_epoch_has_its_scores(tracked):
    learn, _, run = tracked
    assert [row["train/step"] for row in run.epochs] == [12, 24, 36, 48]
    for row, expected in zip(run.epochs, learn.history.rows, strict=True):
        assert row["train/epoch"] == expected["epoch"]
        assert row["train/epoch_seconds"] == expected["seconds"]
        assert row["valid/loss"] == expected["valid_loss"]
        for name in ("accuracy", "macro_f1", "mcc"):
            assert row[f"valid/{name}"] == expected[name]
        f1s = [row[f"per_label/{label}/f1"] for label in LABELS]
        assert np.mean(f1s) == pytest.approx(expected["macro_f1"])
    last = learn.task_scores.metrics.per_label()
    for label in LABELS:
        for name in ("precision", "recall", "f1"):
            assert run.epochs[-1][f"per_label/{label}/{name}"] == last[label][name]


def test_nothing_else_was_logged(tracked):
    _, _, run = tracked
    others = [row for row in run.history if row not in run.batches and row not in run.epochs]
    names = {name.split(".")[0] for row in others for name in row if name.startswith("valid/")}
    assert names == {"valid/confusion_table", "valid/predictions"}
    assert len(others) == 4  # both after each of two fits


def test_settings_are_the_config(tracked):
    learn, _, run = tracked
    data, config = learn.dls, run.config
    expected = {
        "checkpoint": learn.checkpoint,
        "task": "classification",
        "optimizer": "AdamW",
        "weight_decay": 0.01,
        "batch_size": 8,
        "max_length": 64,
        "accumulate": 1,
        "precision": "fp32",
        "rows": {"train": 96, "validation": 24},
        "parameters": sum(p.numel() for p in learn.model.parameters()),
        "layer_groups": [sum(p.numel() for p in group) for group in learn.opt.param_lists],
        "epochs": 4,
        "data_fingerprint": {
            "train": data.train_ds.fingerprint,
            "validation": data.valid_ds.fingerprint,
        },
        "seed": 42,
        # The caller's own.
        "note": "ours",
    }
    assert {name: config[name] for name in expected} == expected
    assert config["task_options"]["labels"] == LABELS
    assert config["versions"]["torch"] == torch.__version__.split("+")[0]
    assert run.of["run"][0]["project"] == "tickets"


def test_predictions_are_rows_of_validation(tracked, tiny_data):
    learn, _, run = tracked
    table = run.tables("valid/predictions")[-1]
    assert [row["chosen"] for row in table] == ["worst"] * 8 + ["random"] * 8 + ["best"] * 8
    label_of = dict(
        zip(*(tiny_data["validation"][name] for name in ("text", "label")), strict=True)
    )
    tokenizer = learn.dls.valid_ds.tokenizer
    learn.model.eval()
    for row in table:
        assert label_of[row["text"]] == row["label"]
        with torch.no_grad():
            logits = learn.model.hf_model(**tokenizer(row["text"], return_tensors="pt")).logits
        target = torch.tensor([LABELS.index(row["label"])])
        assert row["loss"] == pytest.approx(F.cross_entropy(logits, target).item(), abs=1e-5)
        assert row["predicted"] == LABELS[logits.argmax()]
    assert len({row["text"] for row in table}) == 24
    losses = [row["loss"] for row in table]
    assert losses[:8] == sorted(losses, reverse=True)[:8]
    assert losses[16:] == sorted(losses)[:8]


def test_the_confusion_matrix_counts_the_last_validation(tracked, tiny_data):
    learn, _, run = tracked
    counts = run.tables("valid/confusion_table")[-1]
    scores, _ = learn.get_preds()
    found = [LABELS[i] for i in scores.argmax(1)]
    pairs = list(zip(tiny_data["validation"]["label"], found, strict=True))
    assert {(row["Actual"], row["Predicted"]): row["nPredictions"] for row in counts} == {
        (wanted, found): pairs.count((wanted, found)) for wanted in LABELS for found in LABELS
    }


def test_the_bundle_is_an_artifact_that_names_its_data(tracked):
    learn, _, run = tracked
    artifact = run.artifact("model")
    files = {each["path"]: each for each in artifact["manifest"]["contents"]}
    folder = learn.path / "model"
    assert set(files) == {each.name for each in folder.iterdir()}
    digest = b64decode(files["model.safetensors"]["digest"])
    assert digest == hashlib.md5((folder / "model.safetensors").read_bytes()).digest()
    about = json.loads(artifact["metadata"])
    assert about["data_fingerprint"] == run.config["data_fingerprint"]
    assert about["step"] == 48
    assert about["scores"]["accuracy"] == learn.history.rows[-1]["accuracy"]
    assert (about["task"], about["checkpoint"]) == ("classification", learn.checkpoint)


@pytest.mark.parametrize(
    ("task", "architecture", "per_label", "histogram"),
    [
        ("ner", "bert", "billing", None),
        ("qa", "bert", None, None),
        ("summarization", "t5", None, "valid/rougeL_of_rows"),
        ("translation", "t5", None, "valid/chrf_of_rows"),
        ("language_modeling", "bert", None, None),
    ],
)
def test_every_task_is_tracked(
    task, architecture, per_label, histogram, task_data, make_checkpoint, tmp_path, track
):
    data = task_data(task)
    tracker = track(predictions=3)
    learn = finetune_learner(
        data, make_checkpoint(architecture), task=task, bs=4, precision="fp32", tracker=tracker
    )
    learn.fit(1, 1e-3)
    losses = tracker._losses
    tracker.finish()
    run, expected = Run(tmp_path), learn.history.rows[-1]
    assert losses == []
    assert len(run.batches) == len(learn.dls.train)
    (epoch,) = run.epochs
    for name in learn.task_scores.task.metric_names:
        assert epoch.get(f"valid/{name}", math.nan) == pytest.approx(expected[name], nan_ok=True)
    assert (f"per_label/{per_label}/f1" in epoch) == (per_label is not None)
    (table,) = run.tables("valid/predictions")
    assert [row["chosen"] for row in table] == ["worst", "random", "best"][: len(table)]
    assert all(row["predicted"] is not None and math.isfinite(row["loss"]) for row in table)
    spreads = {name.split(".")[0] for row in run.history for name in row if "_of_rows" in name}
    assert spreads == ({histogram} if histogram else set())
    if histogram:
        counts = next(row[f"{histogram}.values"] for row in run.history if histogram in str(row))
        assert sum(counts) == 16


# Gradients


class ScaleGradients(Callback):
    """Puts a GradScaler to work on a CPU, where ftkit offers no fp16."""

    order = 11

    def __init__(self, scale):
        self.scale = scale

    def before_fit(self):
        self.learn.scaler = GradScaler("cpu", init_scale=self.scale, enabled=True)


@pytest.mark.parametrize(
    ("cbs", "steps"),
    [
        ([], 12),
        ([ftkit.Accumulate(5)], 3),
        ([GradientClip(1e-3)], 12),
        ([ScaleGradients(1024.0)], 12),
        ([ScaleGradients(1024.0), ftkit.Accumulate(5), GradientClip(1e-3)], 3),
        ([ScaleGradients(math.inf)], 0),
    ],
    ids=["plain", "accumulated", "clipped", "scaled", "all", "overflowing"],
)
def test_the_gradient_norm_is_that_of_the_step(
    cbs, steps, make_learner, make_checkpoint, tmp_path, track
):
    """Without dropout and with a rate of 0, the norm of a step can be worked out anew."""
    checkpoint = make_checkpoint("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    tracker, batches = track(), []
    learn = make_learner(checkpoint=checkpoint, tracker=tracker, cbs=cbs)

    class Note(Callback):
        def after_loss(self):
            if self.learn.training:
                batches.append(self.learn.xb[0]["row"].numpy())

    learn.fit(1, lr=0.0, wd=0.0, cbs=Note())
    tracker.finish()
    run = Run(tmp_path)
    norms = [row.get("train/gradient_norm") for row in run.batches]
    found = [(i, norm) for i, norm in enumerate(norms) if norm is not None]
    assert len(found) == steps
    start = 0
    for end, norm in found:
        learn.model.zero_grad()
        learn.model.train()
        inputs, targets = learn.dls.train._fill(np.concatenate(batches[start : end + 1]))
        learn.loss_func(learn.model(inputs), targets).backward()
        flat = torch.cat([p.grad.flatten() for p in learn.model.parameters()])
        assert norm == pytest.approx(flat.norm().item(), rel=1e-4)
        start = end + 1


def test_the_device_is_read_once_in_twenty_steps(make_learner, monkeypatch, track):
    learn = make_learner(bs=2, tracker=track())  # 48 batches
    reads, real = [], Tracker._flush

    def flush(tracker):
        reads.append(len(tracker._pending))
        real(tracker)

    monkeypatch.setattr(Tracker, "_flush", flush)
    learn.fit(1, 1e-3)
    assert [steps for steps in reads if steps] == [20, 20, 8]


def test_tracking_changes_no_weight(make_learner, track):
    weights = []
    for tracker in (None, track()):
        learn = make_learner(tracker=tracker)
        learn.fine_tune(1, 1e-2)
        weights.append(torch.cat([p.detach().flatten() for p in learn.model.parameters()]))
    assert torch.equal(*weights)


# Runs


class StopAt(Callback):
    """A power cut before a batch, counted over all fits from 1."""

    def __init__(self, batch):
        self.left = batch

    def before_batch(self):
        self.left -= self.learn.training
        if not self.left:
            raise KeyboardInterrupt


def test_a_resumed_training_goes_on_in_its_run(make_learner, track, tmp_path):
    def script(tracker, folder, *cbs):
        kept = Checkpoints(folder, every=5, minutes=None, resume=True)
        learn = make_learner(tracker=tracker, cbs=[kept, *cbs])
        learn.freeze()
        learn.fit_one_cycle(1, 1e-3)
        learn.unfreeze()
        learn.fit_one_cycle(2, 1e-3)
        tracker.finish()

    def shown(rows):
        kinds = ("train/loss", "train/smooth_loss", "train/gradient_norm", "train/epoch", "lr/3")
        return [tuple(row[kind] for kind in (*kinds, "train/step")) for row in rows]

    script(track("whole"), tmp_path / "states")
    stopped, again = track("stopped"), track("again")
    with pytest.raises(KeyboardInterrupt):
        script(stopped, tmp_path / "other", StopAt(23))  # the state is that of the 20th
    stopped.finish()
    script(again, tmp_path / "other")

    whole, first, second = (Run(tmp_path / name) for name in ("whole", "stopped", "again"))
    assert second.of["run"][0]["run_id"] == again.run_id == stopped.run_id
    assert second.of["run"][0]["resume"] is True
    assert [row["train/step"] for row in first.batches] == list(range(1, 23))
    assert [row["train/step"] for row in second.batches] == list(range(21, 37))
    assert shown(whole.batches) == shown(first.batches[:20] + second.batches)
    assert [row["train/step"] for row in first.epochs + second.epochs] == [12, 24, 36]
    assert whole.config["epochs"] == second.config["epochs"] == 3
    # W&B's own steps, which must not go back, are not these.
    assert [each["step"]["num"] for each in second.of["history"]] == list(
        range(len(second.history))
    )


def test_its_state_is_plain_data_and_comes_before_a_run(make_learner, track):
    tracker = track()
    learn = make_learner(tracker=tracker)
    learn.fit(1, 1e-3)
    state = tracker.state_dict()
    assert json.loads(json.dumps(state)) == state
    assert (state["run_id"], state["step"], state["epoch"]) == (tracker.run_id, 12, 1)
    with pytest.raises(SettingError, match="writes the run"):
        tracker.load_state_dict(state)


def test_checkpoints_resume_the_run_too(make_learner, tmp_path, track):
    class StopAt(Callback):
        def after_step(self):
            if self.train_iter == 4:
                signal.raise_signal(signal.SIGTERM)

    def train(name, *cbs):
        kept = ftkit.Checkpoints(tmp_path / "states", minutes=None, resume=True)
        tracker = track(name)
        make_learner(tracker=tracker, cbs=[kept, *cbs]).fit(1, 1e-3)
        tracker.finish()
        return tracker

    with pytest.raises(KeyboardInterrupt):
        train("first", StopAt())
    again = train("again")
    run = Run(tmp_path / "again")
    assert run.of["run"][0]["run_id"] == again.run_id
    assert [row["train/step"] for row in run.batches] == list(range(6, 13))
    (first,) = (tmp_path / "first").glob("wandb/offline-run-*")
    assert first.name.endswith(again.run_id)


def test_a_run_of_the_caller_is_joined_and_left_open(make_learner, tmp_path):
    with wandb.init(project="mine", dir=tmp_path) as mine:
        tracker = ftkit.WandbTracker("other")
        make_learner(tracker=tracker).fit(1, 1e-3)
        assert tracker.run_id == mine.id
        tracker.finish()
        mine.log({"own": 1.0})
    run = Run(tmp_path)
    assert len(run.batches) == 12
    assert run.history[-1]["own"] == 1.0


def test_two_learners_have_two_runs(make_learner, tmp_path, track):
    trackers = [track(name) for name in ("a", "b")]
    for tracker in trackers:
        make_learner(tracker=tracker).fit(1, 1e-3)
    assert trackers[0].run_id != trackers[1].run_id
    for tracker in trackers:
        tracker.finish()
    assert [len(Run(tmp_path / name).batches) for name in ("a", "b")] == [12, 12]


def test_it_is_a_callback_like_any_other(make_learner, tmp_path, track):
    tracker = track(predictions=0)
    learn = make_learner(cbs=tracker)
    learn.fit(1, 1e-3)
    learn.export("whole.pkl")  # in the middle of a run
    tracker.finish()
    learn.remove_cb(tracker)
    learn.fit(1, 1e-3)
    run = Run(tmp_path)
    assert len(run.batches) == 12
    assert run.tables("valid/predictions") == []
    assert run.tables("valid/confusion_table")


def test_predictions_when_asked_for(make_learner, tmp_path, track):
    tracker = track(predictions=6)
    learn = make_learner(tracker=tracker)
    tracker.log_predictions()
    expected = learn.validate()[0]
    learn.predict("late parcel")  # leaves no trace in the next
    tracker.log_predictions()
    tracker.finish()
    run = Run(tmp_path)
    first, second = run.tables("valid/predictions")
    assert first == second
    assert min(row["loss"] for row in first) < expected < max(row["loss"] for row in first)
    counts = run.tables("valid/confusion_table")[-1]
    assert sum(row["nPredictions"] for row in counts) == 24


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ftkit.WandbTracker(""), "no name of a W&B project"),
        (lambda: ftkit.WandbTracker("my/project"), "no name of a W&B project"),
        (lambda: ftkit.WandbTracker("p", predictions=-1), "predictions is -1"),
        (lambda: ftkit.WandbTracker("p").log_predictions(), "belongs to no Learner"),
        (lambda: ftkit.WandbTracker("p").log_bundle("nowhere"), "is no ftkit model"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(SettingError, match=message):
        make()


@pytest.mark.parametrize("package", ["wandb", "tensorboard"])
def test_a_package_that_is_missing_is_named_at_once(package, monkeypatch):
    monkeypatch.setattr(services, "find_spec", lambda name: None)
    make = {"wandb": ftkit.WandbTracker, "tensorboard": ftkit.TensorBoardTracker}[package]
    with pytest.raises(SettingError, match=f"{package} is not installed. Run `pip install"):
        make("runs")


# What goes wrong


def test_without_a_key_it_is_offline_and_nobody_is_asked(
    make_learner, monkeypatch, tmp_path, track
):
    wandb.teardown()
    monkeypatch.setenv("WANDB_MODE", "online")
    asked = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("wandb.errors.term.terminput", lambda *a, **k: asked.append(a))
    tracker = track()
    learn = make_learner(tracker=tracker)
    with pytest.warns(FtkitWarning, match="no W&B key") as said:
        learn.fine_tune(1, 1e-3)
    tracker.finish()
    assert len([each for each in said if "offline" in str(each.message)]) == 1
    assert str(Run(tmp_path).file.parent) in str(said[0].message)
    assert asked == []
    wandb.teardown()


def test_without_a_network_it_is_offline(make_learner, monkeypatch, tmp_path, track):
    wandb.teardown()
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(services, "_INIT_TIMEOUT", 1)
    tracker = track()
    with pytest.warns(FtkitWarning, match="W&B cannot be reached"):
        make_learner(tracker=tracker).fit(1, 1e-3)
    tracker.finish()
    assert len(Run(tmp_path).batches) == 12
    wandb.teardown()


class KillService(Callback):
    """Kills wandb's process in the sixth batch."""

    is_done = False

    def before_batch(self):
        if self.learn.training and self.learn.iter == 5 and not self.is_done:
            self.is_done = True
            found = [each for each in psutil.Process().children() if "wandb" in each.name()]
            assert len(found) == 1
            found[0].kill()
            found[0].wait()


def test_a_killed_service_costs_the_logs_and_not_the_training(
    make_learner, track, tmp_path, recwarn
):
    plain = make_learner()
    plain.fit_one_cycle(2, 1e-2)
    tracker = track("lost")
    learn = make_learner(tracker=tracker, cbs=KillService())
    learn.fit_one_cycle(2, 1e-2)
    learn.fit(1, 0.0)
    tracker.log_predictions()
    tracker.log_bundle(ftkit.save(learn, tmp_path / "model"))
    tracker.finish()
    said = [each for each in recwarn if each.category is FtkitWarning]
    assert ["nothing more of this run is tracked" in str(each.message) for each in said] == [True]
    for a, b in zip(plain.model.parameters(), learn.model.parameters(), strict=True):
        assert torch.equal(a, b)
    # The next run has a new process.
    other = track("next")
    make_learner(tracker=other).fit(1, 1e-3)
    other.finish()
    assert len(Run(tmp_path / "next").batches) == 12


_SCRIPT = """
import sys, warnings
sys.path.insert(0, {tests!r})
from datasets import Dataset
import ftkit
rows = [{{"text": word, "label": word}} for word in ("refund", "late") * 8]
tracker = ftkit.WandbTracker("p", dir={folder!r})
learn = ftkit.classification_learner(
    {{"train": rows, "validation": rows}}, {checkpoint!r}, bs=4, tracker=tracker
)
assert "wandb" not in sys.modules
learn.fit(1)
import psutil
for each in psutil.Process().children():
    each.kill()
tracker.finish()
print("done")
"""


@pytest.mark.slow
def test_python_ends_quietly_without_the_service(tiny_checkpoint, tmp_path):
    script = _SCRIPT.format(
        tests=str(Path(__file__).parents[1]), folder=str(tmp_path), checkpoint=str(tiny_checkpoint)
    )
    # Else it would join the service of this process, and have none of its own to kill.
    env = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "done"
    assert "Traceback" not in done.stderr
    assert "nothing more of this run is tracked" in done.stderr


# TensorBoard


def read_events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), {"tensors": 0, "scalars": 0}).Reload()


def test_tensorboard_shows_the_same(make_learner, tmp_path):
    pytest.importorskip("tensorboard")
    tracker, watch = ftkit.TensorBoardTracker(tmp_path / "run7", config={"note": "ours"}), Watch()
    learn = make_learner(tracker=tracker, cbs=watch)
    learn.fit_one_cycle(1, 1e-2)
    state = tracker.state_dict()
    assert state["run_id"] == "run7"
    learn.fit_one_cycle(1, 1e-2)  # is lost, and trained for again
    (tmp_path / "report.html").write_text("<p>the page</p>")
    tracker.log_report(tmp_path / "report.html")
    tracker.log_bundle(ftkit.save(learn, tmp_path / "model"))
    tracker.finish()
    again = ftkit.TensorBoardTracker(tmp_path / "run7")
    again.load_state_dict(state)
    other = make_learner(tracker=again, cbs=(watch_again := Watch()))
    other.fit_one_cycle(1, 1e-2)
    again.finish()

    events = read_events(tmp_path / "run7")
    losses = events.Scalars("train/loss")
    assert [each.step for each in losses] == list(range(1, 25))
    expected = [each["loss"] for each in [*watch.rows[:12], *watch_again.rows]]
    assert [each.value for each in losses] == pytest.approx(expected, rel=1e-6)
    scores = [learn.history.rows[0]["accuracy"], other.history.rows[0]["accuracy"]]
    found = [each.value for each in events.Scalars("valid/accuracy")]
    assert found == pytest.approx(scores, rel=1e-6)

    def texts(name):
        return [
            each.tensor_proto.string_val[0].decode()
            for each in events.Tensors(f"{name}/text_summary")
        ]

    assert '"note": "ours"' in texts("config")[0]
    assert (
        json.loads(texts("model")[0])["data_fingerprint"]["train"] == learn.dls.train_ds.fingerprint
    )
    assert len(texts("valid/predictions")[0].splitlines()) == 2 + 24
    matrix = [line.strip("| ").split(" | ") for line in texts("valid/confusion")[0].splitlines()]
    assert [row[0] for row in matrix[2:]] == LABELS
    assert sum(int(cell) for row in matrix[2:] for cell in row[1:]) == 24
