"""The last layer for the first token alone: the same logits, the same gradients, less work."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from ftkit.model.first_token import _FOLLOWS_ATTENTION, first_token_only, past_attention
from ftkit.model.module import TextModel, checkpoint_gradients, compile_in_place
from ftkit.tasks import Classification

TASK = Classification(kind="single", labels=("a", "b", "c"))
SIZES = {
    "vocab_size": 50,
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "num_labels": 3,
    "pad_token_id": 1,
    "initializer_range": 0.2,
}


def model_of(model_type, **config):
    torch.manual_seed(0)
    full = AutoConfig.for_model(model_type, **SIZES, **config)
    return AutoModelForSequenceClassification.from_config(full).eval()


def inputs(rows=3):
    ids = torch.randint(5, 50, (rows, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, 4:] = 0
    return {"input_ids": ids * mask + (1 - mask), "attention_mask": mask}


def lengths_seen(model, batch, name):
    """How many tokens reach the module of that name in a pass of the model."""
    seen = []
    hook = model.hf_model.get_submodule(name).register_forward_hook(
        lambda _, args, output: seen.append(output.shape[1])
    )
    model(batch)
    hook.remove()
    return seen


@pytest.mark.parametrize("model_type", sorted(_FOLLOWS_ATTENTION))
def test_logits_and_gradients_are_those_of_all_tokens(model_type):
    hf_model, batch = model_of(model_type), inputs()
    model = TextModel(hf_model, TASK)
    name = model.first_token_from
    assert ".1." in name, "the last of two layers"
    assert lengths_seen(model, batch, name) == [1]
    found = []
    for model.first_token_from in (name, None):
        hf_model.zero_grad()
        logits = model(batch)
        (logits * torch.arange(9).view(3, 3)).sum().backward()
        found.append([logits.detach(), *(p.grad for p in hf_model.parameters())])
    assert found[0][0].std(0).min() > 1e-3, "the texts are told apart"
    for ours, full in zip(*found, strict=True):
        assert (ours is None) == (full is None)
        if full is not None:
            torch.testing.assert_close(ours, full, rtol=1e-4, atol=1e-5)


def test_the_model_itself_still_gives_every_token():
    model = TextModel(model_of("bert"), TASK)
    model(inputs())
    assert model.hf_model.bert(**inputs()).last_hidden_state.shape[1] == 9


@pytest.mark.parametrize("head", ["ForTokenClassification", "Model"])
def test_other_heads_read_every_token(tiny_model, head):
    assert past_attention(tiny_model("bert", head)) is None


def test_other_architectures_are_left_alone(tiny_model):
    assert past_attention(tiny_model("gpt2", "ForSequenceClassification", num_labels=3)) is None


def test_a_pass_that_is_repeated_or_compiled_is_left_alone():
    model = TextModel(model_of("bert", hidden_dropout_prob=0.0).train(), TASK)
    name = model.first_token_from
    checkpoint_gradients(model.hf_model)
    assert lengths_seen(model, inputs(), name) == [9]
    model(inputs()).sum().backward()
    model = TextModel(model_of("bert"), TASK)
    compile_in_place(model.hf_model, "eager")
    with first_token_only(model.hf_model, name):
        assert not model.hf_model.get_submodule(name)._forward_pre_hooks
