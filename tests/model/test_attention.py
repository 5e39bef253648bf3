"""On a CPU, in bf16, dropout is trained with transformers' own attention; all else is fused."""

import pytest
import torch

from ftkit.model.attention import drops_fused_attention
from ftkit.model.module import TextModel
from ftkit.tasks import Classification

TASK = Classification(kind="single", labels=("a", "b"))
HEAD = "ForSequenceClassification"


def batch():
    ids = torch.randint(5, 60, (4, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "bart"])
def test_only_training_in_bf16_is_not_fused(tiny_model, architecture):
    rare = {"attention_probs_dropout_prob": 1e-9, "attention_dropout": 1e-9}
    rare |= {"hidden_dropout_prob": 0.0, "dropout": 0.0, "seq_classif_dropout": 0.0}
    model = TextModel(tiny_model(architecture, HEAD, num_labels=2, **rare), TASK)
    model.hf_model.config.pad_token_id = 0
    inputs, found = batch(), {}
    inputs["input_ids"][:, 0] = model.hf_model.config.eos_token_id or 1
    for model.autocast_dtype in (None, torch.bfloat16):
        for is_training in (True, False):
            model.train(is_training)
            logits = model(inputs).detach()
            found[model.autocast_dtype, is_training] = logits
            own = is_training and model.autocast_dtype is not None
            assert model.hf_model.config._attn_implementation == ("eager" if own else "sdpa")
    torch.testing.assert_close(found[None, True], found[None, False])
    torch.testing.assert_close(
        found[torch.bfloat16, True], found[torch.bfloat16, False], atol=0.02, rtol=0.02
    )


@pytest.mark.parametrize(
    ("architecture", "dropout"), [("bert", {"attention_probs_dropout_prob": 0.0}), ("llama", {})]
)
def test_without_dropout_it_stays_fused(tiny_model, architecture, dropout):
    config = {"num_labels": 2, "pad_token_id": 0, **dropout}
    hf_model = tiny_model(architecture, HEAD, **config)
    assert not drops_fused_attention(hf_model)
    model = TextModel(hf_model, TASK).train()
    model.autocast_dtype = torch.bfloat16
    model(batch())
    assert hf_model.config._attn_implementation == "sdpa"


def test_an_attention_that_was_chosen_stays(tiny_model):
    model = TextModel(tiny_model("bert", HEAD, num_labels=2), TASK)
    model.hf_model.set_attn_implementation("eager")
    for is_training in (True, False):
        model.train(is_training)(batch())
        assert model.hf_model.config._attn_implementation == "eager"


def test_a_saved_config_says_nothing_of_it(tiny_model, tmp_path):
    model = TextModel(tiny_model("bert", HEAD, num_labels=2), TASK).train()
    model.autocast_dtype = torch.bfloat16
    model(batch())
    model.hf_model.save_pretrained(tmp_path)
    assert "attn_implementation" not in (tmp_path / "config.json").read_text(encoding="utf-8")
