"""Precision: what is asked for is what is computed, on a CPU too, or it is refused."""

import pytest
import torch
from torch import nn

from ftkit.errors import SettingError
from ftkit.model.device import computes_in_bf16

needs_bf16 = pytest.mark.skipif(
    not computes_in_bf16(torch.device("cpu")), reason="this CPU has no bf16 instructions"
)


@pytest.fixture
def without_bf16(monkeypatch):
    monkeypatch.setattr("ftkit.model.device.computes_in_bf16", lambda device: False)


def types_computed(learn, work):
    """The types that the first layer gave, its weights had, and the loss had, during `work`."""
    found = set()
    linear = next(m for m in learn.model.modules() if isinstance(m, nn.Linear))
    hook = linear.register_forward_hook(
        lambda module, inputs, output: found.add((output.dtype, module.weight.dtype))
    )
    work()
    hook.remove()
    return found


@needs_bf16
@pytest.mark.parametrize("precision", ["bf16", "auto"])
def test_bf16_computes_in_bf16_on_a_cpu(make_learner, precision):
    learn = make_learner(precision=precision)
    expected = {(torch.bfloat16, torch.float32)}
    assert types_computed(learn, lambda: learn.fit_one_cycle(1, 1e-3)) == expected
    assert types_computed(learn, learn.get_preds) == expected
    assert learn.loss.dtype == torch.float32
    assert learn.pred.dtype == torch.float32
    assert {p.grad.dtype for p in learn.model.parameters() if p.grad is not None} <= {torch.float32}


def test_fp32_is_fp32(make_learner):
    learn = make_learner(precision="fp32")
    expected = {(torch.float32, torch.float32)}
    assert types_computed(learn, lambda: learn.fit_one_cycle(1, 1e-3)) == expected


def test_auto_is_fp32_without_bf16(make_learner, without_bf16):
    learn = make_learner(precision="auto")
    expected = {(torch.float32, torch.float32)}
    assert types_computed(learn, lambda: learn.fit_one_cycle(1, 1e-3)) == expected


def test_bf16_is_refused_without_instructions(make_learner, without_bf16):
    with pytest.raises(SettingError, match="no bf16 instructions"):
        make_learner(precision="bf16")
    learn = make_learner(precision="fp32")
    with pytest.raises(SettingError, match="no bf16 instructions"):
        learn.to_bf16()


def test_fp16_is_refused_on_a_cpu(make_learner):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SettingError, match="fp16 needs a CUDA GPU"):
        make_learner(precision="fp16")
    learn = make_learner()
    with pytest.raises(SettingError, match="fp16 needs a CUDA GPU"):
        learn.to_fp16()


def test_an_unknown_precision_is_refused(make_learner):
    with pytest.raises(SettingError, match="precision is 'fp8'"):
        make_learner(precision="fp8")


@needs_bf16
def test_the_verbs_change_the_precision(make_learner):
    learn = make_learner(precision="fp32")
    bf16, fp32 = {(torch.bfloat16, torch.float32)}, {(torch.float32, torch.float32)}
    assert learn.to_bf16() is learn
    assert types_computed(learn, lambda: learn.predict("hello")) == bf16
    assert types_computed(learn, lambda: learn.fit_one_cycle(1, 1e-3)) == bf16
    assert learn.to_fp32() is learn
    assert types_computed(learn, lambda: learn.predict("hello")) == fp32
    assert types_computed(learn, lambda: learn.fit_one_cycle(1, 1e-3)) == fp32
    assert sum(cb.name == "mixed_precision" for cb in learn.cbs) == 1


@needs_bf16
def test_a_failing_batch_leaves_autocast_off(make_learner, monkeypatch):
    learn = make_learner(precision="bf16")

    def fail(*args, **kwargs):
        assert torch.is_autocast_enabled("cpu")
        raise RuntimeError("in the model")

    monkeypatch.setattr(learn.model.hf_model.classifier, "forward", fail)
    with pytest.raises(RuntimeError, match="in the model"):
        learn.fit_one_cycle(1, 1e-3)
    assert not torch.is_autocast_enabled("cpu")
    monkeypatch.undo()
    learn.fit_one_cycle(1, 1e-3)
    assert not torch.is_autocast_enabled("cpu")


@needs_bf16
def test_bf16_learns_as_fp32_does(make_learner):
    losses = []
    for precision in ("fp32", "bf16"):
        learn = make_learner(precision=precision)
        learn.fit_one_cycle(6, 1e-2)
        losses.append(learn.history.rows[-1]["valid_loss"])
    assert losses[1] < 0.5
    assert losses[1] != losses[0]


def test_a_validation_within_a_fit(make_learner, look_within):
    learn = make_learner(cbs=look_within)
    learn.fit(2, 1e-3)
    assert [row["lr"] for row in learn.history.rows] == [1e-3, 1e-3]
