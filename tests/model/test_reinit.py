"""The top layers drawn anew: all of them and nothing else, on any architecture, by seed."""

import pytest
import torch
from tiny_checkpoints import ARCHITECTURES, build_model
from transformers import BertConfig, EncoderDecoderConfig, EncoderDecoderModel

from ftkit.errors import SettingError
from ftkit.model.groups import layer_stacks
from ftkit.model.reinit import reinitialize_layers


def poisoned(model):
    """The model as loaded from a checkpoint, with nan in its top layer; its weights before."""
    before = {name: each.clone() for name, each in model.state_dict().items()}
    top = layer_stacks(model)[-1][-1]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter._is_hf_initialized = True
        for parameter in top.parameters():
            parameter.fill_(torch.nan)
    return before


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_top_layer_is_drawn_and_nothing_else(architecture):
    model = build_model(architecture)
    top = {id(p) for p in layer_stacks(model)[-1][-1].parameters()}
    before = poisoned(model)
    drawn = reinitialize_layers(model, 1, seed=7)
    named = dict(model.named_parameters())
    assert {name for name, p in named.items() if id(p) in top} == {
        name for name in drawn if ".pooler." not in f".{name}"
    }
    after = model.state_dict()
    assert all(after[name].isfinite().all() for name in before)
    assert all(torch.equal(after[name], each) for name, each in before.items() if name not in drawn)
    matrices = [name for name in drawn if named[name].ndim > 1]
    assert matrices
    assert not any(torch.equal(after[name], before[name]) for name in matrices)
    again = build_model(architecture)
    assert reinitialize_layers(again, 1, seed=7) == drawn
    assert all(torch.equal(after[name], again.state_dict()[name]) for name in drawn)


def test_weights_are_as_the_class_starts_them():
    model = build_model("bert", hidden_size=256, initializer_range=0.07)
    poisoned(model)
    reinitialize_layers(model, 2)
    layer = model.bert.encoder.layer[1]
    assert layer.attention.self.query.weight.std().item() == pytest.approx(0.07, rel=0.02)
    assert not layer.attention.self.query.bias.any()
    assert (layer.output.LayerNorm.weight == 1).all()
    assert model.bert.pooler.dense.weight.std().item() == pytest.approx(0.07, rel=0.02)


def test_the_seed_alone_decides():
    models = [build_model("bert") for _ in range(3)]
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    for model, seed in zip(models, (3, 3, 4), strict=True):
        reinitialize_layers(model, 1, seed)
    assert torch.equal(torch.rand(2), expected)
    first, again, other = (m.bert.encoder.layer[1].output.dense.weight for m in models)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_of_an_encoder_decoder_it_is_the_decoder():
    half = {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 50}
    half["initializer_range"] = 0.5
    halves = [BertConfig(**half, num_hidden_layers=n) for n in (4, 2)]
    model = EncoderDecoderModel(EncoderDecoderConfig.from_encoder_decoder_configs(*halves))
    drawn = reinitialize_layers(model, 1)
    assert any("crossattention" in name for name in drawn)
    layers = {name.partition(".layer.")[0] + name.partition(".layer.")[2][:1] for name in drawn}
    assert layers == {"decoder.bert.encoder1"}
    top = model.decoder.bert.encoder.layer[1]
    assert top.output.dense.weight.std().item() == pytest.approx(0.5, rel=0.05)
    with pytest.raises(SettingError, match="there are 2 layers"):
        reinitialize_layers(model, 3)


def test_none_changes_nothing():
    model = build_model("bert")
    before = {name: each.clone() for name, each in model.state_dict().items()}
    assert reinitialize_layers(model, 0) == frozenset()
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())


@pytest.mark.parametrize(("architecture", "n"), [("bert", 3), ("bert", -1), ("albert", 2)])
def test_layers_that_are_not_there(architecture, n):
    with pytest.raises(SettingError, match=f"reinit_layers is {n}, and there"):
        reinitialize_layers(build_model(architecture), n)
