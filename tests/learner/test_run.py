"""A run: its settings, what each of them reaches, what it leaves, and where it may be written."""

import csv
import json
import math
import re
import signal
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from run_files import RUN_FILES
from safetensors.torch import load_file
from transformers import AutoTokenizer

import ftkit
from ftkit.checks.result import DataCheck
from ftkit.errors import CheckpointError, DataError, FtkitWarning, SettingError
from ftkit.learner import run as rooms
from ftkit.learner.callbacks import Accumulate
from ftkit.learner.resume import TrainingStopped
from ftkit.learner.run import run
from ftkit.learner.settings import RunSettings
from ftkit.locks import alone_at
from ftkit.reports.compare import compare


@pytest.fixture(scope="module")
def data(tiny_data, tmp_path_factory):
    """A folder with tiny_data as JSON Lines, and a column for groups."""
    folder = tmp_path_factory.mktemp("data")
    for split, rows in tiny_data.items():
        numbered = [{**row, "customer": i // 4} for i, row in enumerate(rows)]
        lines = [json.dumps(row) + "\n" for row in numbered]
        (folder / f"{split}.jsonl").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def settings(data, tiny_checkpoint, tmp_path_factory):
    return RunSettings(
        task="classification",
        data=str(data),
        checkpoint=str(tiny_checkpoint),
        output=str(tmp_path_factory.mktemp("runs") / "first"),
        epochs=1,
        batch_size=16,
        precision="fp32",
    )


@pytest.fixture(scope="module")
def first(settings):
    """A run of five epochs; its folder and what it returned."""
    metrics = run(replace(settings, epochs=5, lr=1e-2, batch_size=8))
    return Path(settings.output), metrics


@pytest.fixture
def run_it(settings, tmp_path, monkeypatch):
    """A function that runs changed settings and gives the Learner and the metrics."""
    learners = []
    real = rooms.fit

    def spy(learn, given):
        learners.append(learn)
        real(learn, given)

    monkeypatch.setattr(rooms, "fit", spy)

    def go(*, output="run", resume=False, **changes):
        metrics = run(replace(settings, output=str(tmp_path / output), **changes), resume=resume)
        return learners[-1], metrics

    return go


# What it leaves


def test_files(first):
    folder, _ = first
    assert sorted(path.name for path in folder.iterdir()) == RUN_FILES


def test_metrics(first, tiny_data):
    folder, metrics = first
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert {"validation", "test", "seconds", "rows", "truncated"} <= set(metrics)
    assert metrics["rows"] == {"train": 96, "validation": 24, "test": 24}
    assert metrics["truncated"] == {"train": 0, "validation": 0, "test": 0}
    assert metrics["seconds"] > 0
    model = ftkit.load_model(folder / "model")
    for split in ("validation", "test"):
        evaluation = model.evaluate(tiny_data[split])
        assert metrics[split] == pytest.approx(evaluation.scores, abs=1e-9)
        assert metrics[split]["accuracy"] > 0.4
    assert metrics["per_label"] == evaluation.per_label


def test_the_data_check(first):
    content = json.loads((first[0] / "check.json").read_text())
    found = DataCheck.from_dict(content)
    assert found.ok
    assert found.to_dict() == content
    assert [(split.name, split.rows) for split in found.splits] == [
        *(("train", 96), ("validation", 24), ("test", 24))
    ]
    assert found.splits[0].lengths["unit"] == "tokens"
    assert sum(found.splits[0].lengths["counts"]) == 96
    assert found.splits[2].lengths is None  # no training tokenises it
    assert found.estimate["steps"] == 12
    assert found.estimate["parameters"] > 10_000


def test_what_the_check_finds_is_said_once_and_stops_nothing(run_it, tiny_data, tmp_path):
    rows = tiny_data["train"].to_list()
    rows[1] |= {"text": rows[0]["text"], "label": rows[2]["label"]}
    rows[5]["text"] = " "
    test = [*tiny_data["test"].to_list(), {"text": rows[8]["text"], "label": rows[8]["label"]}]
    folder = tmp_path / "data"
    folder.mkdir()
    validation = tiny_data["validation"].to_list()
    for name, listed in (("train", rows), ("validation", validation), ("test", test)):
        lines = "".join(json.dumps(row) + "\n" for row in listed)
        (folder / f"{name}.jsonl").write_text(lines)
    with pytest.warns(FtkitWarning) as caught:
        run_it(data=str(folder), epochs=1)
    said = [str(each.message) for each in caught]
    assert sum("share their text and differ in their target" in each for each in said) == 1
    # load_data has said this one.
    assert any("are empty or blank" in each for each in said)
    assert not any("blank" in each for each in said if each.startswith("data check"))
    leaks = [each for each in said if "have a text that train has too" in each]
    assert [each.startswith("data check, error: test: 1 of 25 rows (4.0%)") for each in leaks] == [
        True
    ]
    content = json.loads((tmp_path / "run" / "check.json").read_text())
    assert not content["ok"]
    assert (tmp_path / "run" / "metrics.json").exists()


def test_a_part_of_the_check_that_fails_stops_nothing(run_it, tmp_path, monkeypatch):
    def fail(*args):
        raise RuntimeError("no such thing")

    monkeypatch.setattr("ftkit.checks.check.count_languages", fail)
    run_it(limit=12)
    content = json.loads((tmp_path / "run" / "check.json").read_text())
    assert "languages of train could not be looked at (no such thing)" in content["notes"]
    assert content["splits"][0]["lengths"]["counts"]


def test_report(first):
    html = (first[0] / "report.html").read_text(encoding="utf-8")
    for split in ("validation", "test"):
        assert f"{first[1][split]['accuracy']:.3f}" in html
    assert "Worst mistakes" in html


def test_a_report_that_fails_costs_no_model(run_it, tmp_path, monkeypatch):
    def fail(*given, **named):
        raise RuntimeError("no font")

    monkeypatch.setattr(rooms, "report_of", fail)
    with pytest.warns(FtkitWarning, match="no report was written .*no font"):
        _, metrics = run_it()
    folder = tmp_path / "run"
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert ftkit.load_model(folder / "model").predict(["my parcel"])
    assert not (folder / "report.html").exists()


def test_runs_are_compared_on_the_same_rows(first, run_it, tmp_path, make_checkpoint):
    """Another architecture sorts the rows otherwise, and is compared row by row all the same."""
    folder, _ = first
    run_it(output="other", checkpoint=str(make_checkpoint("roberta")), lr=1e-2, epochs=1)
    found = compare([folder, tmp_path / "other"])
    assert found.split == "test"
    assert {"checkpoint", "epochs", "batch_size"} <= set(found.settings)
    model, rows = ftkit.load_model(folder / "model"), load_data(first)
    other = ftkit.load_model(tmp_path / "other" / "model")
    right = [
        np.array([p.label for p in each.predict(rows["text"])]) == np.array(rows["label"])
        for each in (model, other)
    ]
    draws = np.random.default_rng(0).integers(len(rows), size=(1000, len(rows)))
    gaps = right[1][draws].mean(1) - right[0][draws].mean(1)
    second = next(each for each in found.differences if each.difference is not None)
    assert second.score == "accuracy"
    assert second.difference == pytest.approx(right[1].mean() - right[0].mean())
    assert second.interval == pytest.approx(tuple(np.quantile(gaps, [0.025, 0.975])))


def load_data(first):
    data = RunSettings.read(first[0] / "run.toml").data
    return ftkit.load_data(data, "classification")["test"]


def test_a_calibrated_run(run_it, tmp_path):
    _, plain = run_it(output="plain", epochs=2, lr=1e-2)
    _, metrics = run_it(output="mended", epochs=2, lr=1e-2, calibrate=True)
    assert metrics["test"] == pytest.approx(plain["test"])
    one, two = (
        load_file(tmp_path / name / "model" / "model.safetensors")["classifier.weight"]
        for name in ("plain", "mended")
    )
    temperature = one / two
    assert temperature.std() < 1e-4
    card = (tmp_path / "mended" / "model" / "README.md").read_text()
    assert f"temperature {float(temperature.mean()):.3f}" in card


def test_what_cannot_be_calibrated_is_known_before_the_training(run_it, tmp_path):
    rows = [{"text": f"a {i}", "label": i / 2} for i in range(30)]
    (tmp_path / "numbers.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(SettingError, match="probabilities of labels"):
        run_it(data=str(tmp_path / "numbers.jsonl"), output="numbers", calibrate=True)
    assert not (tmp_path / "numbers").exists()


def test_a_calibration_that_fails_leaves_the_model_as_it_is(run_it, tmp_path, monkeypatch):
    fit = rooms.fit

    def fit_and_bend(learn, given):
        fit(learn, given)
        layer = learn.model.hf_model.classifier
        layer.register_forward_hook(lambda module, given, logits: logits.tanh() * 9)

    monkeypatch.setattr(rooms, "fit", fit_and_bend)
    with pytest.warns(FtkitWarning, match="the model is not calibrated: this model changes"):
        run_it(output="bent", calibrate=True)
    assert (tmp_path / "bent" / "metrics.json").exists()


def test_history(first):
    with (first[0] / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert float(rows[-1]["valid_loss"]) < float(rows[0]["valid_loss"])
    assert float(rows[-1]["accuracy"]) == first[1]["validation"]["accuracy"]


def test_run_toml_names_settings_and_versions(first, settings):
    written = tomllib.loads((first[0] / "run.toml").read_text())
    assert written["run"]["lr"] == 1e-2
    assert written["run"]["data"] == settings.data
    assert set(written["versions"]) >= {"python", "torch", "transformers", "fastai", "ftkit"}
    assert RunSettings.read(first[0] / "run.toml") == replace(
        settings, epochs=5, lr=1e-2, batch_size=8
    )


def test_the_card_has_the_scores_of_both_splits(first):
    card = (first[0] / "model" / "README.md").read_text()
    for split in ("validation", "test"):
        scores = " | ".join(f"{score:.4f}" for score in first[1][split].values())
        assert f"| {split} | {scores} |" in card


def test_the_same_settings_give_the_same_run(first, tmp_path):
    folder, metrics = first
    again = run(RunSettings.read(folder / "run.toml", output=str(tmp_path / "again")))
    assert {**again, "seconds": 0} == {**metrics, "seconds": 0}
    one, two = (each / "model" / "model.safetensors" for each in (folder, tmp_path / "again"))
    assert one.read_bytes() == two.read_bytes()


# What each setting reaches


def test_freeze_epochs(run_it):
    learn, metrics = run_it(freeze_epochs=2, epochs=1)
    assert len(learn.history.rows) == 3
    assert metrics["seconds"] == sum(row["seconds"] for row in learn.history.rows)
    assert all(p.requires_grad for p in learn.model.parameters())
    card = (learn.path / "model" / "README.md").read_text()
    assert "| epochs with the head alone | 2 |" in card


def test_freeze_epochs_train_the_head_alone(settings, tmp_path, monkeypatch):
    learn = ftkit.classification_learner(settings.data, settings.checkpoint, path=tmp_path)
    seen = []
    monkeypatch.setattr(
        learn,
        "fit_one_cycle",
        lambda *args, **kwargs: seen.append([p.requires_grad for p in learn.model.parameters()]),
    )
    rooms.fit(learn, replace(settings, freeze_epochs=1))
    assert [sum(each) for each in seen] == [4, len(seen[1])]


def test_accumulate(run_it):
    learn, _ = run_it(accumulate=3)
    assert learn.accumulate.n_batches == 3


def test_lr(run_it):
    learn, _ = run_it(lr=3e-4)
    assert learn.history.rows[0]["lr"] == pytest.approx(3e-4, rel=0.1)
    groups = [group["lr"] for group in learn.opt.hypers]
    assert groups == sorted(groups)
    assert groups[-1] > groups[0]


def test_batch_size_seed_and_precision(run_it):
    learn, _ = run_it(batch_size=5, seed=9, precision="fp32")
    assert learn.dls.train.bs == 5
    assert learn.dls.train.seed == 9
    assert learn.seed_each_fit.seed == 9
    assert learn.mixed_precision.precision == "fp32"


@pytest.mark.filterwarnings("ignore::ftkit.errors.FtkitWarning")
def test_max_length_and_long_texts(run_it):
    learn, metrics = run_it(max_length=8, long_texts="windows")
    assert learn.dls.train.dataset.limit == 8
    assert learn.dls.train.dataset.task.long_texts == "windows"
    assert learn.dls.train.dataset.features.windows.max() > 1
    assert set(metrics["truncated"]) == {"train", "validation", "test"}


@pytest.mark.filterwarnings("ignore::ftkit.errors.FtkitWarning")
def test_truncated_counts_rows(run_it, tiny_data, tiny_checkpoint):
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    _, metrics = run_it(max_length=10)
    expected = {
        split: sum(len(tokenizer(row["text"])["input_ids"]) > 10 for row in rows)
        for split, rows in tiny_data.items()
    }
    assert metrics["truncated"] == expected
    assert expected["train"] > 0


def test_limit(run_it):
    _, metrics = run_it(limit=12)
    assert metrics["rows"] == {"train": 12, "validation": 12, "test": 12}


def test_columns_and_group(run_it, tiny_data, tmp_path, data):
    rows = [json.loads(line) for line in (data / "train.jsonl").open()]
    renamed = [{"body": r["text"], "queue": r["label"], "customer": r["customer"]} for r in rows]
    Dataset.from_list(renamed).to_csv(str(tmp_path / "rows.csv"))
    with pytest.warns(FtkitWarning, match="whole groups"):
        learn, metrics = run_it(
            data=str(tmp_path / "rows.csv"),
            columns={"text": "body", "label": "queue"},
            group="customer",
        )
    sides = [
        {row["customer"] for row in part.dataset.items}
        for part in (learn.dls.train, learn.dls.valid)
    ]
    assert all(sides)
    assert not sides[0] & sides[1]
    assert "test" not in metrics


def test_several_columns_fold_into_labels(run_it, tiny_data, tmp_path):
    rows = [
        {"text": r["text"], "money": int(r["label"] == "billing"), "late": i % 2}
        for i, r in enumerate(tiny_data["train"])
    ]
    Dataset.from_list(rows).to_csv(str(tmp_path / "rows.csv"))
    with pytest.warns(FtkitWarning, match="held out"):
        learn, metrics = run_it(
            data=str(tmp_path / "rows.csv"), columns={"label": ["money", "late"]}
        )
    assert learn.dls.train.dataset.task.kind == "multi"
    assert set(metrics["validation"]) == {"micro_f1", "macro_f1"}
    written = RunSettings.read(tmp_path / "run" / "run.toml")
    assert written.columns == {"label": ["money", "late"]}


def test_new_head(run_it, first, tiny_data, tmp_path):
    bundle = str(first[0] / "model")
    rows = [{**row, "label": row["label"].upper()} for row in tiny_data["train"]]
    Dataset.from_list(rows).to_json(str(tmp_path / "rows.jsonl"))
    given = {"data": str(tmp_path / "rows.jsonl"), "checkpoint": bundle}
    with pytest.raises(CheckpointError, match='"BILLING"'):
        run_it(**given)
    assert not (tmp_path / "run").exists()
    with pytest.warns(FtkitWarning, match="held out"):
        learn, _ = run_it(**given, new_head=True)
    assert learn.dls.train.dataset.task.labels == ("BILLING", "DELIVERY", "TECHNICAL")


# Settings that cannot work


@pytest.mark.parametrize(
    "wrong",
    [
        *({"epochs": 0}, {"batch_size": 0}, {"accumulate": 0}, {"freeze_epochs": -1}),
        *({"lr": 0.0}, {"lr": 5.0}, {"lr": math.nan}, {"task": "poetry"}),
        *({"patience": 0}, {"options": {"label_smoothing": None}}),
        {"task": "qa", "options": {"max_length": None}},  # which is not its default
    ],
)
def test_settings_are_checked_when_built(settings, wrong):
    with pytest.raises(SettingError):
        replace(settings, **wrong)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"seed": -1}, SettingError),
        ({"limit": 0}, SettingError),
        ({"max_length": 2}, SettingError),
        ({"long_texts": "middle"}, SettingError),
        ({"precision": "fp64"}, SettingError),
        ({"data": "nowhere.csv"}, DataError),
        ({"columns": {"text": "nothing"}}, DataError),
        ({"group": "nothing"}, DataError),
        ({"checkpoint": "./nowhere"}, CheckpointError),
    ],
)
def test_nothing_is_written_before_all_fits(settings, tmp_path, wrong, error):
    with pytest.raises(error):
        run(replace(settings, output=str(tmp_path / "run"), **wrong))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "text",
    [
        *("not toml", "[other]\n", "[run]\ntask = 'classification'\n"),
        "[run]\ntask='classification'\ndata='d'\ncheckpoint='c'\noutput='o'\nmood='good'\n",
        "[run]\ntask='classification'\ndata='d'\ncheckpoint='c'\noutput='o'\nepochs='many'\n",
    ],
)
def test_a_file_that_is_no_run_toml(tmp_path, text):
    (tmp_path / "run.toml").write_text(text)
    with pytest.raises(SettingError, match="cannot be read as the settings of a run"):
        RunSettings.read(tmp_path / "run.toml")


def test_options_are_changed_one_by_one(settings, tmp_path):
    given = {"label_smoothing": 0.1, "long_texts": "tail", "class_weights": None}
    replace(settings, options=given).write(tmp_path / "run.toml")
    assert RunSettings.read(tmp_path / "run.toml").options == {
        "label_smoothing": 0.1,
        "long_texts": "tail",
    }
    again = RunSettings.read(tmp_path / "run.toml", options={"label_smoothing": 0.2})
    assert again.options == {"label_smoothing": 0.2, "long_texts": "tail"}


# Where it may be written


def test_another_run_is_refused(first, settings):
    with pytest.raises(SettingError, match="holds another run"):
        run(settings)


@pytest.mark.parametrize("name", ["thesis.txt", "model", "metrics.json", ".model-abc"])
def test_other_files_are_refused(settings, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(SettingError, match="holds other files"):
        run(replace(settings, output=str(tmp_path)))
    assert (tmp_path / name).read_text() == "mine"


def test_resuming_leaves_other_files_alone(settings, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for name in ("metrics.json", "checkpoints/epoch3.pt"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(SettingError, match="holds other files"):
        run(replace(settings, output=str(tmp_path)), resume=True)
    assert len(list(tmp_path.rglob("*"))) == 3


def test_a_file_is_refused(settings, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(SettingError, match="is a file"):
        run(replace(settings, output=str(tmp_path / "out")))


def test_an_unfinished_run_is_started_anew(run_it, settings, tmp_path):
    folder = tmp_path / "run"
    (folder / ".model-x1").mkdir(parents=True)
    settings.write(folder / "run.toml")
    (folder / "history.csv").write_text("half")
    with pytest.warns(FtkitWarning, match="unfinished run"):
        run_it()
    assert sorted(path.name for path in folder.iterdir()) == RUN_FILES


def test_an_empty_folder_will_do(run_it, tmp_path):
    (tmp_path / "run").mkdir()
    run_it(limit=12)
    assert (tmp_path / "run" / "metrics.json").exists()


def test_a_run_that_fails_while_saving_is_unfinished(run_it, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("transformers.PreTrainedModel.save_pretrained", fail)
        with pytest.raises(OSError, match="No space left"):
            run_it(limit=12)
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert names == ["check.json", "checkpoints", "history.csv", "run.toml"]
    with pytest.raises(SettingError, match=r"holds a run that was stopped.*--resume"):
        run_it(limit=12)
    _, metrics = run_it(resume=True, limit=12)
    assert metrics["rows"]["train"] == 12


# Going on


def test_a_stopped_run_goes_on(run_it, settings, tmp_path, monkeypatch):
    changes = {"epochs": 2, "freeze_epochs": 1, "accumulate": 2, "keep_best": "accuracy"}
    whole, _ = run_it(output="whole", **changes)
    with monkeypatch.context() as patch:
        patch.setattr(Accumulate, "after_loss", stop_at(8))
        with pytest.raises(TrainingStopped, match=r"Go on with: ftkit train --output .* --resume"):
            run_it(**changes)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        *("check.json", "checkpoints", "run.toml")
    ]
    again = RunSettings.resumed(output=str(tmp_path / "run"), epochs=2, save_minutes=3)
    assert (again.freeze_epochs, again.save_minutes) == (1, 3)
    learn, metrics = run_it(resume=True, **changes)
    pairs = zip(whole.model.parameters(), learn.model.parameters(), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)
    files = [tmp_path / name / "history.csv" for name in ("whole", "run")]
    one, two = (list(csv.DictReader(file.open())) for file in files)
    assert [{**row, "seconds": 0} for row in one] == [{**row, "seconds": 0} for row in two]
    assert not (tmp_path / "run" / "checkpoints").exists()
    (tmp_path / "run" / "checkpoints" / "step-00000001").mkdir(parents=True)  # killed at the end
    assert run(again, resume=True) == metrics  # a finished run is left as it is
    assert not (tmp_path / "run" / "checkpoints").exists()


def stop_at(n):
    """`Accumulate.after_loss` with a SIGTERM at the n-th batch."""
    real, left = Accumulate.after_loss, [n]

    def after_loss(self):
        real(self)
        left[0] -= self.training
        if left[0] == 0:
            signal.raise_signal(signal.SIGTERM)

    return after_loss


def test_killed_while_a_file_is_written(run_it, tmp_path, monkeypatch):
    """Each file is half written when the process ends: run.toml twice, new and again."""
    real = Path.write_text
    for torn in ("run.toml", "metrics.json", "run.toml"):

        def write_half(path, text, *args, torn=torn, **kwargs):
            if torn not in path.name:
                return real(path, text, *args, **kwargs)
            real(path, text[: len(text) // 2])
            raise SystemExit("killed")

        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_text", write_half)
            with pytest.raises(SystemExit):
                run_it(resume=True, limit=12)
    again = RunSettings.resumed(output=str(tmp_path / "run"))
    metrics = run(again, resume=True)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == metrics
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == RUN_FILES


@pytest.mark.parametrize(
    "changed",
    [
        {"epochs": 9},
        {"lr": 1e-3},
        {"columns": {"text": "b"}},
        {"options": {"label_smoothing": 0.1}},
    ],
)
def test_what_a_resumed_run_may_not_change(first, changed):
    with pytest.raises(SettingError, match=f"{next(iter(changed))} is .*, and was"):
        RunSettings.resumed(output=str(first[0]), **changed)


def test_lora_is_merged(run_it, tmp_path):
    learn, _ = run_it(lora=4, limit=24)
    assert any("lora" in name for name, _ in learn.model.named_parameters())
    saved = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert not any("lora" in name for name in saved)


def test_wandb(run_it, tmp_path, monkeypatch):
    """What is logged is the business of test_tracking.py."""
    for name in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    run_it(wandb="tickets", limit=24)
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    (log,) = folder.glob("*.wandb")
    content = log.read_bytes()
    for name in (b"batch_size", b"valid/accuracy", b"model.safetensors"):
        assert name in content
    (page,) = folder.rglob("*.html")
    assert "Worst mistakes" in page.read_text(encoding="utf-8")


def test_other_versions_are_said(first, tmp_path):
    text = (first[0] / "run.toml").read_text()
    (tmp_path / "run.toml").write_text(re.sub(r'torch = ".*"', 'torch = "1.13"', text))
    with pytest.warns(FtkitWarning, match=r"torch was 1.13.*not bit for bit"):
        RunSettings.resumed(output=str(tmp_path))


@pytest.mark.slow
@pytest.mark.data
def test_minilm_on_real_rows(data_dir, minilm, tmp_path):
    settings = RunSettings(
        task="classification",
        data=str(data_dir / "sst2"),
        checkpoint=minilm,
        output=str(tmp_path / "run"),
        epochs=1,
        lr=2e-3,
        batch_size=16,
        limit=200,
    )
    metrics = run(settings)
    assert metrics["validation"]["accuracy"] > 0.65


def test_what_json_cannot_say_is_null(tmp_path):
    scores = {"f1": math.nan, "loss": 0.5, "interval": [(math.inf, 1)]}
    rooms.write_json({"test": scores, "rows": {"test": 3}}, tmp_path / "m.json")
    content = json.loads((tmp_path / "m.json").read_text(), parse_constant=pytest.fail)
    assert content == {
        "test": {"f1": None, "loss": 0.5, "interval": [[None, 1]]},
        "rows": {"test": 3},
    }


def test_a_folder_that_another_run_writes_to(settings, tmp_path):
    with alone_at(tmp_path), pytest.raises(SettingError, match="another process writes to"):
        run(replace(settings, output=str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_another_run_came_first_to(settings, first, tmp_path, monkeypatch):
    output, load = tmp_path / "run", rooms._load

    def load_late(*given):
        output.mkdir()
        for name in ("run.toml", "metrics.json"):
            (output / name).write_bytes((first[0] / name).read_bytes())
        return load(*given)

    monkeypatch.setattr(rooms, "_load", load_late)
    with pytest.raises(SettingError, match="holds another run"):
        run(replace(settings, output=str(output)))
