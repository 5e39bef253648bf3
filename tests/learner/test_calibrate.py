"""Temperature scaling: in the weights, so that every reader of the bundle has it."""

import numpy as np
import pytest
import torch
from transformers import pipeline

import ftkit
from ftkit.errors import SettingError


@pytest.fixture
def trained(make_learner):
    """A Learner that is far too sure of the few rows that it knows by heart."""
    learn = make_learner()
    learn.fit_one_cycle(3, 1e-2)
    with torch.no_grad():
        for name in ("weight", "bias"):
            getattr(learn.model.hf_model.classifier, name).mul_(10)
    return learn


def logits_of(learn):
    from ftkit.learner.calibrate import _validation_logits

    return _validation_logits(learn)


def test_scores_change_and_labels_do_not(trained, tmp_path):
    before, _ = logits_of(trained)
    found = ftkit.calibrate(trained)
    after, _ = logits_of(trained)
    assert found.temperature > 2
    assert after * found.temperature == pytest.approx(before, abs=1e-3)
    assert (after.argmax(1) == before.argmax(1)).all()
    assert found.error_after < found.error_before
    assert f"{found.temperature:.3f}" in str(found)
    # The bundle answers with it, here and in transformers.
    text = trained.dls.valid.dataset[0]["text"]
    ftkit.save(trained, tmp_path / "model")
    (ours,) = ftkit.load_model(tmp_path / "model").predict([text])
    (theirs,) = pipeline("text-classification", model=str(tmp_path / "model"), device="cpu")(text)
    assert (theirs["label"], pytest.approx(ours.score, abs=1e-5)) == (ours.label, theirs["score"])


def test_a_second_time_changes_nothing(trained):
    ftkit.calibrate(trained)
    again = ftkit.calibrate(trained)
    assert again.temperature == pytest.approx(1, abs=0.01)


def test_a_threshold_moves_with_the_scores(make_learner, multi_data):
    learn = make_learner(multi_data)
    learn.fit_one_cycle(3, 1e-2)
    with torch.no_grad():
        learn.model.hf_model.classifier.weight.mul_(5)
    learn.validate()
    task = learn.task_scores.trained_task
    logits, _ = logits_of(learn)
    decided = task.decide(task.scores(logits))
    ftkit.calibrate(learn)
    moved = learn.task_scores.trained_task
    assert moved.threshold != task.threshold
    logits, _ = logits_of(learn)
    assert (moved.decide(moved.scores(logits)) == decided).mean() > 0.99


def test_what_has_no_temperature(make_learner, trained, monkeypatch):
    regression = make_learner(
        ftkit.load_data(
            [{"text": f"a {i}", "label": float(i)} for i in range(30)], "classification"
        )
    )
    with pytest.raises(SettingError, match="probabilities of labels"):
        ftkit.calibrate(regression)
    model = trained.model.hf_model
    before = model.classifier.weight.clone()
    model.classifier.register_forward_hook(lambda module, given, logits: logits.tanh() * 9)
    with pytest.raises(SettingError, match="changes its logits after"):
        ftkit.calibrate(trained)
    assert torch.allclose(model.classifier.weight, before)


def test_lora_too(make_learner):
    learn = make_learner(lora=4)
    learn.fit_one_cycle(2, 1e-2)
    before, _ = logits_of(learn)
    found = ftkit.calibrate(learn)
    after, _ = logits_of(learn)
    assert after * found.temperature == pytest.approx(before, abs=1e-3)
    assert np.isfinite(found.error_after)
