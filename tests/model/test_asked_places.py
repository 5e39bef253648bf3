"""The vocabulary at the places asked for alone: the same logits, the same gradients, less work."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM

from ftkit.model.module import TextModel, compile_in_place
from ftkit.tasks import LanguageModeling

VOCABULARY = 50
SIZES = {
    "vocab_size": VOCABULARY,
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "pad_token_id": 1,
    "initializer_range": 0.2,
}
ARCHITECTURES = (
    *("albert", "bert", "camembert", "deberta", "deberta-v2", "distilbert", "electra"),
    *("ernie", "longformer", "modernbert", "mpnet", "roberta", "xlm", "xlm-roberta"),
)


def model_of(model_type, **config):
    torch.manual_seed(0)
    full = AutoConfig.for_model(model_type, **SIZES, **config)
    return TextModel(AutoModelForMaskedLM.from_config(full).eval(), LanguageModeling())


def batch_of(n_places):
    ids = torch.randint(5, VOCABULARY, (3, 9), generator=torch.Generator().manual_seed(1))
    order = torch.rand(3, 9, generator=torch.Generator().manual_seed(2)).argsort(1)
    mask = torch.ones_like(ids)
    return {"input_ids": ids, "attention_mask": mask, "places": order[:, :n_places]}


def places_scored(model, batch):
    """Logits, and how many places the layer that scores the vocabulary is given."""
    seen = []
    layer = model.hf_model.get_output_embeddings()
    hook = layer.register_forward_hook(lambda _, args, output: seen.append(output.shape[1]))
    logits = model(batch)
    hook.remove()
    return logits, seen


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_logits_and_gradients_are_those_of_all_places(model_type):
    model, batch = model_of(model_type), batch_of(4)
    found = []
    for places in (batch["places"], None):
        model.zero_grad()
        if places is None:
            every = model.logits(model._model_inputs(batch))
            assert every.shape == (3, 9, VOCABULARY)
            logits = every.gather(1, batch["places"][:, :, None].expand(-1, -1, VOCABULARY))
        else:
            logits, seen = places_scored(model, batch)
            assert seen == [4]
        weights = torch.arange(4 * VOCABULARY).view(1, 4, VOCABULARY) / 100
        (logits * weights).sum().backward()
        found.append([logits.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1]) > 10
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


def test_all_places_stand_in_the_order_asked_for():
    model, batch = model_of("bert"), batch_of(9)
    logits, seen = places_scored(model, batch)
    every = model.logits(model._model_inputs(batch))
    assert seen == [9]
    torch.testing.assert_close(logits[:, 0], every[torch.arange(3), batch["places"][:, 0]])


def test_a_compiled_model_scores_every_place():
    model, batch = model_of("bert"), batch_of(4)
    expected = model(batch)
    compile_in_place(model.hf_model, "eager")
    logits, seen = places_scored(model, batch)
    assert 4 not in seen
    torch.testing.assert_close(logits, expected)
