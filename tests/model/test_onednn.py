"""oneDNN: the same answers where it is faster, and nowhere else; no more memory than it needs."""

import os
import subprocess
import sys
import threading

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from ftkit.model import onednn
from ftkit.model.module import compile_in_place
from ftkit.model.onednn import fast_linear

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN"
)


@pytest.fixture
def calls(monkeypatch):
    """The shapes that oneDNN is asked for, on a processor where it is said to be faster."""
    seen = []

    def counted(hidden, weight, bias=None, compute=onednn._linear):
        seen.append((*hidden.shape, *weight.shape))
        return compute(hidden, weight, bias)

    monkeypatch.setattr(onednn, "_is_faster", lambda: True)
    monkeypatch.setattr(onednn, "_linear", counted)
    return seen


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        initializer_range=0.2,
    )
    return BertForSequenceClassification(config).eval()


def logits(model, rows=8):
    ids = torch.randint(50, (rows, 32), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return model(input_ids=ids).logits


@needs_onednn
def test_logits_are_those_of_torchs_own_layers(model, calls):
    usual = logits(model)
    with fast_linear(model):
        found = logits(model)
    assert len(calls) == 12, "six products of each layer, and neither pooler nor head"
    torch.testing.assert_close(found, usual, rtol=0, atol=1e-5)
    assert not torch.equal(found, usual), "it was another sum, in another order"


@needs_onednn
def test_a_layer_without_bias_and_one_of_hidden_states_in_strides(calls, model):
    torch.manual_seed(0)
    layer = nn.Linear(256, 128, bias=False)
    hidden = torch.randn(4, 256, 64).transpose(1, 2)
    with torch.inference_mode(), fast_linear(model):
        found = layer(hidden)
    assert calls == [(4, 64, 256, 128, 256)]
    torch.testing.assert_close(found, layer(hidden), rtol=0, atol=1e-5)


@needs_onednn
def test_what_is_small_or_not_plain_float32_stays_with_torch(calls, model):
    class Wrapped(torch.Tensor):
        """As the shared or quantised tensors of other libraries."""

    big, small = nn.Linear(256, 256), nn.Linear(256, 2)
    hidden = torch.randn(64, 256)
    with torch.inference_mode(), fast_linear(model):
        small(hidden)
        big(hidden[:1])
        assert type(big(hidden.as_subclass(Wrapped))) is Wrapped
        big.bfloat16()(hidden.bfloat16())
        with torch.autocast("cpu", torch.bfloat16):
            assert big.float()(hidden).dtype == torch.bfloat16
    assert calls == []


def test_a_compiled_model_and_other_threads_are_left_alone(calls, model):
    with fast_linear(model):
        other = threading.Thread(target=logits, args=(model,))
        other.start()
        other.join()
    compile_in_place(model, "eager")
    with fast_linear(model):
        logits(model)
    assert calls == []


@needs_onednn
@pytest.mark.parametrize(("capacity", "is_made_again"), [(None, True), ("1024", False)])
def test_code_is_kept_for_few_shapes_unless_the_environment_says_otherwise(capacity, is_made_again):
    script = """
import torch
from transformers import BertConfig, BertForSequenceClassification
from ftkit.model import onednn
from ftkit.model.module import TextModel
from ftkit.tasks import Classification

sizes = {"hidden_size": 8, "num_attention_heads": 1, "intermediate_size": 8, "vocab_size": 9}
hf_model = BertForSequenceClassification(BertConfig(num_hidden_layers=1, **sizes))
TextModel(hf_model, Classification(kind="single", labels=("a", "b")))
weight = torch.ones(8, 8)
for rows in (5, *range(100, 180)):
    onednn._linear(torch.ones(rows, 8), weight)
print("once more", flush=True)
onednn._linear(torch.ones(5, 8), weight)
"""
    env = {name: each for name, each in os.environ.items() if name not in onednn._CAPACITIES}
    if capacity:
        env |= dict.fromkeys(onednn._CAPACITIES, capacity)
    env["ONEDNN_VERBOSE"] = "profile_create"
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True
    )
    last = done.stdout.partition("once more")[2]
    assert ("cache_miss" in last) is is_made_again, done.stdout[-2000:]


@pytest.mark.parametrize("error", [AttributeError, RuntimeError, TypeError])
def test_a_torch_whose_oneDNN_is_called_otherwise_keeps_its_own_layers(monkeypatch, error):
    def missing(*args):
        raise error

    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(onednn, "_is_amd", lambda: True)
    monkeypatch.setattr(onednn, "_linear", missing)
    assert onednn._is_faster.__wrapped__() is False
    monkeypatch.setattr(onednn, "_linear", nn.functional.linear)
    assert onednn._is_faster.__wrapped__() is True
    monkeypatch.setattr(onednn, "_is_amd", lambda: False)
    assert onednn._is_faster.__wrapped__() is False
